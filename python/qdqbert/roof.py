# SPDX-License-Identifier: Apache-2.0
"""The roof of this machine, and what share of it the products reach.

The roof is the inner loop of the device's own product on registers alone (``peak_f32`` and ``peak_qs8`` of
the kernel table): float multiply-adds, or the integer instructions of which this ISA's product of codes is
made.  1 multiply-add is 2 operations.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from qdqbert._core import Device

__all__ = ["BERT_PRODUCTS", "OPERANDS", "ProductRate", "measure_products", "measure_roof"]

_BYTES = {"f32": 4, "qs8": 1}
OPERANDS = tuple(_BYTES)

# (N, K) of the linear layers, and the rows of (1, 16), (1, 128), (8, 128) and (32, 128) tokens.
BERT_PRODUCTS: dict[str, tuple[tuple[int, int], ...]] = {
    "base": ((768, 768), (3072, 768), (768, 3072)),
    "MiniLM": ((384, 384), (1536, 384), (384, 1536)),
}
BERT_ROWS = (16, 128, 1024, 4096)

_CHUNK_S = 0.002  # long beside what Python does between two, short beside the turns of an operating system
_WEIGHT_BYTES = 64 * 2**20  # of weights that take turns: more than most caches hold, as those of a model are


def measure_roof(device: Device, operands: str, threads: int, seconds: float = 0.15) -> float:
    """Measure how fast the inner loop of a product runs on registers alone.

    Parameters
    ----------
    device : Device
        Its number of threads is not looked at.
    operands : {"f32", "qs8"}
        Floats or int8 codes.
    threads : int
        At least 1; each runs the loop for itself, at the same time.
    seconds : float
        How long; more finds a higher rate on a machine with other work.

    Returns
    -------
    float
        Operations per second of all threads: the sum of the best of each.

    Raises
    ------
    ValueError
        If `operands` or `threads` cannot be.
    """
    if threads < 1:
        raise ValueError(f"threads: expected at least 1, got {threads}")
    rounds = _rounds_of(device, operands)
    best = [0.0] * threads
    everyone_is_there = threading.Barrier(threads)

    def run(number: int) -> None:
        everyone_is_there.wait()
        end = time.perf_counter() + seconds
        while True:
            start = time.perf_counter()
            operations = device.peak(operands, rounds)
            now = time.perf_counter()
            best[number] = max(best[number], operations / (now - start))
            if now >= end:
                return

    others = [threading.Thread(target=run, args=(number,)) for number in range(1, threads)]
    for thread in others:
        thread.start()
    run(0)
    for thread in others:
        thread.join()
    return sum(best)


def _rounds_of(device: Device, operands: str) -> int:
    """Find how many rounds take about `_CHUNK_S`."""
    rounds = 16
    while True:
        start = time.perf_counter()
        device.peak(operands, rounds)
        taken = time.perf_counter() - start
        if taken >= _CHUNK_S / 4:
            return max(1, int(rounds * _CHUNK_S / taken))
        rounds *= 4


@dataclass(frozen=True)
class ProductRate:
    """How fast one shape of product is.

    Attributes
    ----------
    operands : {"f32", "qs8"}
    threads : int
    rows, n, k : int
        y (rows, n) = a (rows, k) b', b (n, k).
    least, median : float
        Seconds of one.
    operations_per_s : float
        In the least time.
    share : float
        Of the roof, which was measured beside it.
    """

    operands: str
    threads: int
    rows: int
    n: int
    k: int
    least: float
    median: float
    operations_per_s: float
    share: float


def measure_products(
    isa: str,
    threads: Iterable[int],
    *,
    operands: Iterable[str] = OPERANDS,
    rows: Iterable[int] = BERT_ROWS,
    products: Iterable[tuple[int, int]] = BERT_PRODUCTS["base"],
    seconds: float = 0.15,
) -> Iterator[ProductRate]:
    """Time the products of linear layers, with the roof before each.

    Parameters
    ----------
    isa : str
        Strongest kernel variant to use, as of `Device`.
    threads : iterable of int
    operands : iterable of {"f32", "qs8"}
    rows : iterable of int
        Tokens.
    products : iterable of (int, int)
        (N, K) of the weights.
    seconds : float
        About how long each shape is timed.

    Yields
    ------
    ProductRate
        For all combinations, in this order.  A share is that of the highest roof so far, so that a moment in
        which others had the processor flatters nobody.
    """
    rows, products, operands = list(rows), list(products), list(operands)
    for count in threads:
        device = Device(isa, count)
        for kind in operands:
            roof = 0.0
            for m in rows:
                for n, k in products:
                    roof = max(roof, measure_roof(device, kind, count, seconds / 3))
                    yield _timed(device, kind, count, (m, n, k), roof, seconds)


def _timed(
    device: Device, operands: str, threads: int, shape: tuple[int, int, int], roof: float, seconds: float
) -> ProductRate:
    m, n, k = shape
    operations = 2 * m * n * k
    repeats = min(1000, max(5, int(seconds * roof / operations)))
    weights = min(1024, max(1, _WEIGHT_BYTES // (n * k * _BYTES[operands])), repeats)
    taken = device.time_product(operands, m, n, k, weights, repeats)
    least = float(taken.min())
    rate = operations / least
    return ProductRate(operands, threads, m, n, k, least, float(np.median(taken)), rate, rate / roof)
