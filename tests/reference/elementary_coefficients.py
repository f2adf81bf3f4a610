# SPDX-License-Identifier: Apache-2.0
"""Derive the coefficients of csrc/kernels/numerics.h, and check the ones that stand there.

Two functions are approximated, everything else is built from them by identities:

``exp``
    c(r) of degree 4 with exp(r) = 1 + r + r^2 c(r) on |r| <= ln(2)/2 (widened by the rounding of the
    reduction), minimax in the relative error of exp.
``mills``
    M(t) = exp(t^2/2) Phi(-t) on [0, 15], the rational function N(t)/D(t) of degrees 4 and 5, D(0) = 1,
    minimax in the relative error.  All coefficients come out positive, so evaluating them loses nothing by
    cancellation.

Both by the Remez exchange in 60 digits, and then rounded to float32 such that the coefficients rounded last
absorb the error of the others.

``python tests/reference/elementary_coefficients.py`` prints the definitions; ``--check HEADER`` evaluates the
ones of an existing header in exact arithmetic and prints their errors.  Needs mpmath; nothing else in the
project does.
"""

from __future__ import annotations

import argparse
import itertools
import re
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import mpmath as mp

mp.mp.dps = 60

EXP_LIMIT = mp.log(2) / 2 * (1 + mp.mpf(2) ** -12)
MILLS_LIMIT = mp.mpf(15)


def to_float32(value: mp.mpf) -> float:
    """Nearest float32 of a high-precision number (through float64: the double rounding is below 2^-50)."""
    return float(struct.unpack("f", struct.pack("f", float(value)))[0])


def horner(coefficients: Sequence[mp.mpf], x: mp.mpf) -> mp.mpf:
    """Value of a polynomial, highest power first."""
    total = mp.mpf(0)
    for coefficient in coefficients:
        total = total * x + coefficient
    return total


def short_hex(value: float) -> str:
    """Hexadecimal constant without trailing zeros."""
    return re.sub(r"0+p", "p", value.hex()).replace(".p", ".0p")


def exp_tail(r: mp.mpf) -> mp.mpf:
    """(exp(r) - 1 - r) / r^2, continued through 0."""
    if abs(r) < mp.mpf(10) ** -12:
        return mp.mpf(1) / 2 + r / 6 + r * r / 24
    return (mp.expm1(r) - r) / (r * r)


def mills(t: mp.mpf) -> mp.mpf:
    """exp(t^2/2) times the upper tail of the normal distribution."""
    return mp.exp(t * t / 2) * mp.erfc(t / mp.sqrt(2)) / 2


def extrema(error: Callable[[mp.mpf], mp.mpf], grid: Sequence[mp.mpf], count: int) -> list[mp.mpf]:
    """The `count` alternating extrema of an error function sampled on a grid."""
    values = [error(x) for x in grid]
    found: list[int] = []
    for i in range(len(grid)):
        if not found or (values[i] > 0) != (values[found[-1]] > 0):
            found.append(i)
        elif abs(values[i]) > abs(values[found[-1]]):
            found[-1] = i
    while len(found) > count:
        found.pop(0 if abs(values[found[0]]) < abs(values[found[-1]]) else -1)
    if len(found) < count:
        raise ArithmeticError(f"{len(found)} extrema, {count} needed")
    return [grid[i] for i in found]


def chebyshev_points(low: mp.mpf, high: mp.mpf, count: int) -> list[mp.mpf]:
    """Extrema of the Chebyshev polynomial of degree count - 1, mapped to [low, high]."""
    return [(low + high) / 2 - (high - low) / 2 * mp.cos(mp.pi * i / (count - 1)) for i in range(count)]


def fit_exp(fixed: dict[int, float]) -> list[mp.mpf]:
    """Minimax c of degree 4; coefficients in `fixed` are given, the others free."""
    free = [k for k in range(5) if k not in fixed]
    count = len(free) + 1
    grid = chebyshev_points(-EXP_LIMIT, EXP_LIMIT, 1200)
    points = chebyshev_points(-EXP_LIMIT, EXP_LIMIT, count + (count % 2))[:count]
    points = [p + EXP_LIMIT / 97 for p in points]
    coefficients = [mp.mpf(fixed.get(k, 0)) for k in range(5)]

    def error(r: mp.mpf) -> mp.mpf:
        return (horner(coefficients[::-1], r) - exp_tail(r)) * r * r * mp.exp(-r)

    for _ in range(12):
        matrix = mp.matrix(count, count)
        right = mp.matrix(count, 1)
        for i, r in enumerate(points):
            weight = r * r * mp.exp(-r)
            for j, k in enumerate(free):
                matrix[i, j] = weight * r**k
            matrix[i, count - 1] = (-1) ** i
            right[i] = weight * (exp_tail(r) - sum(mp.mpf(c) * r**k for k, c in fixed.items()))
        solution = mp.lu_solve(matrix, right)
        for j, k in enumerate(free):
            coefficients[k] = solution[j]
        try:
            points = extrema(error, grid, count)
        except ArithmeticError:
            break
    return coefficients


def fit_mills(degrees: tuple[int, int]) -> dict[tuple[str, int], mp.mpf]:
    """Minimax N/D of the given degrees; keys are ("N", k) and ("D", k), ("D", 0) is 1."""
    keys = [("N", k) for k in range(degrees[0] + 1)] + [("D", k) for k in range(degrees[1] + 1)]
    free = [key for key in keys if key != ("D", 0)]
    count = len(free) + 1
    # The function bends near 0: points are dense there.
    grid = [x * x / MILLS_LIMIT for x in chebyshev_points(mp.mpf(0), MILLS_LIMIT, 1500)]
    points = [x * x / MILLS_LIMIT for x in chebyshev_points(mp.mpf(0), MILLS_LIMIT, count)]
    value = {key: mp.mpf(1 if key == ("D", 0) else 0) for key in keys}
    table = {x: mills(x) for x in {*grid, *points}}

    def part(name: str, x: mp.mpf) -> mp.mpf:
        degree = degrees[0] if name == "N" else degrees[1]
        return horner([value[name, k] for k in range(degree, -1, -1)], x)

    level = mp.mpf(0)
    for _ in range(25):
        for _ in range(6):  # N - f (1 + s E) D = 0 is bilinear in (E, D): iterate on E
            matrix = mp.matrix(count, count)
            right = mp.matrix(count, 1)
            for i, x in enumerate(points):
                f = table[x]
                sign = (-1) ** i
                for j, (name, k) in enumerate(free):
                    matrix[i, j] = x**k if name == "N" else -f * (1 + sign * level) * x**k
                denominator = part("D", x)
                matrix[i, count - 1] = -f * sign * denominator
                right[i] = f * (1 + sign * level) - f * sign * level * denominator
            solution = mp.lu_solve(matrix, right)
            for j, key in enumerate(free):
                value[key] = solution[j]
            level = solution[count - 1]
        try:
            points = extrema(lambda x: part("N", x) / part("D", x) / table[x] - 1, grid, count)
        except ArithmeticError:
            break
    return value


def exp_error(coefficients: Sequence[float]) -> mp.mpf:
    """Largest relative error of exp by these c_0 ... c_4."""
    grid = chebyshev_points(-EXP_LIMIT, EXP_LIMIT, 2001)
    exact = [mp.mpf(c) for c in coefficients]
    return max(abs((horner(exact[::-1], r) - exp_tail(r)) * r * r * mp.exp(-r)) for r in grid)


def mills_error(numerator: Sequence[float], denominator: Sequence[float]) -> mp.mpf:
    """Largest relative error of N/D."""
    grid = [x * x / MILLS_LIMIT for x in chebyshev_points(mp.mpf(0), MILLS_LIMIT, 2001)]
    n = [mp.mpf(c) for c in numerator][::-1]
    d = [mp.mpf(c) for c in denominator][::-1]
    return max(abs(horner(n, t) / horner(d, t) / mills(t) - 1) for t in grid)


def derive_exp() -> list[float]:
    """c_0 ... c_4 in float32."""
    fixed: dict[int, float] = {}
    for k in range(5):
        fixed[k] = to_float32(fit_exp(fixed)[k])
    return [fixed[k] for k in range(5)]


def derive_mills() -> tuple[list[float], list[float]]:
    """N_0 ... and D_0 ... in float32.

    Rounding one coefficient moves the whole error curve, and the exchange does not converge for the rest once
    it is dominated by that.  So the real solution is rounded as a whole, and then single coefficients move by
    units in the last place as long as the largest error falls.
    """
    exact = fit_mills((4, 5))
    grid = [x * x / MILLS_LIMIT for x in chebyshev_points(mp.mpf(0), MILLS_LIMIT, 301)]
    table = [(float(t), float(1 / mills(t))) for t in grid]
    values = [to_float32(exact["N", k]) for k in range(5)] + [to_float32(exact["D", k]) for k in range(1, 6)]

    def worst() -> float:
        n0, n1, n2, n3, n4, d1, d2, d3, d4, d5 = values
        return max(
            abs(
                ((((n4 * t + n3) * t + n2) * t + n1) * t + n0)
                / (((((d5 * t + d4) * t + d3) * t + d2) * t + d1) * t + 1.0)
                * reciprocal
                - 1.0
            )
            for t, reciprocal in table
        )

    best = worst()
    improved = True
    while improved:
        improved = False
        for k, steps in itertools.product(range(10), (1, -1, 3, -3, 8, -8)):
            kept = values[k]
            bits = struct.unpack("i", struct.pack("f", kept))[0] + steps
            values[k] = struct.unpack("f", struct.pack("i", bits))[0]
            error = worst()
            if error < best:
                best, improved = error, True
            else:
                values[k] = kept
    return values[:5], [1.0, *values[5:]]


def read_header(path: Path) -> dict[str, float]:
    """The hexadecimal float constants of a C header."""
    pattern = re.compile(r"#define\s+(QB_\w+)\s+(-?0x[0-9a-f.]+p[-+]?\d+)f")
    return {name: float.fromhex(value) for name, value in pattern.findall(path.read_text(encoding="utf-8"))}


def header_coefficients(path: Path) -> tuple[list[float], list[float], list[float]]:
    """c_0 ..., N_0 ..., D_0 ... of a header."""
    found = read_header(path)
    return (
        [found[f"QB_EXP_C{k}"] for k in range(5)],
        [found[f"QB_MILLS_N{k}"] for k in range(5)],
        [1.0, *(found[f"QB_MILLS_D{k}"] for k in range(1, 6))],
    )


def main() -> None:
    """Print definitions, or the errors of existing ones."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", type=Path, help="header whose constants are evaluated")
    path = parser.parse_args().check
    if path is None:
        c = derive_exp()
        n, d = derive_mills()
        for k, value in enumerate(c):
            print(f"#define QB_EXP_C{k} {short_hex(value)}f")
        for k, value in enumerate(n):
            print(f"#define QB_MILLS_N{k} {short_hex(value)}f")
        for k, value in enumerate(d[1:], start=1):
            print(f"#define QB_MILLS_D{k} {short_hex(value)}f")
    else:
        c, n, d = header_coefficients(path)
    for name, error in (("exp", exp_error(c)), ("mills", mills_error(n, d))):
        print(f"{name}: relative error {mp.nstr(error, 4)} = 2^{mp.nstr(mp.log(error, 2), 4)}")


if __name__ == "__main__":
    main()
