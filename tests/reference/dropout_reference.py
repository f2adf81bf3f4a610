# SPDX-License-Identifier: Apache-2.0
"""What is dropped, from the definition: Philox4x32-10 in NumPy and the numbering of elements.

Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Array = np.ndarray
LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)
FACTORS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)


def philox(counter: tuple[Array | int, ...], key: tuple[int, int]) -> Array:
    """Four words, of 32 bits, for each counter of four: shape (..., 4)."""
    c = [np.asarray(word, np.uint64) for word in np.broadcast_arrays(*counter)]
    k = list(key)
    for _ in range(10):
        first, second = FACTORS[0] * c[0], FACTORS[1] * c[2]
        c = [
            (second >> HALF) ^ c[1] ^ np.uint64(k[0]),
            second & LOW,
            (first >> HALF) ^ c[3] ^ np.uint64(k[1]),
            first & LOW,
        ]
        k = [(word + step) & 0xFFFFFFFF for word, step in zip(k, KEY_STEPS, strict=True)]
    return np.stack(c, -1)


@dataclass
class Dropout:
    """The dropouts of one call, as `bert_reference.Reference.drop` wants them.

    Parameters
    ----------
    seed, step, probabilities
        As `Session.forward` takes them.
    computed : ndarray, shape (B, T)
        Which tokens are computed; what happens to the others is nobody's business.
    encoder : ndarray, shape (B, S), optional
        Which tokens of the encoder are looked at.
    """

    seed: int
    step: int
    probabilities: Array
    computed: Array
    encoder: Array | None = None

    def factors(self, node: int, sequence: int, elements: Array) -> Array:
        """mask / (1 - p) of elements of one sequence."""
        p = float(self.probabilities[node])
        stream = node + sequence * len(self.probabilities)
        counter = (elements // 4, stream, self.step & 0xFFFFFFFF, self.step >> 32)
        words = philox(counter, (self.seed & 0xFFFFFFFF, self.seed >> 32))
        word = np.take_along_axis(words, (elements % 4)[..., None], -1)[..., 0]
        return np.where(word >= np.rint(p * 2.0**32), 1 / (1 - p), 0.0)

    def __call__(self, node: int, x: Array) -> Array:
        """X times mask / (1 - p)."""
        y = x.copy()
        if self.probabilities[node] == 0:
            return y
        for b in range(len(x)):
            rows = np.flatnonzero(self.computed[b])
            if x.ndim == 2:  # (B, H)
                y[b] *= self.factors(node, b, np.arange(x.shape[1])).astype(x.dtype)
            elif x.ndim == 3:  # (B, T, H)
                elements = np.arange(len(rows) * x.shape[2]).reshape(len(rows), -1)
                y[b, rows] *= self.factors(node, b, elements).astype(x.dtype)
            else:  # (B, N, T, S)
                looked = self.encoder if (node - 1) % 5 == 2 else self.computed
                assert looked is not None
                keys = np.flatnonzero(looked[b])
                heads = np.arange(x.shape[1])[:, None, None]
                row = np.arange(len(rows))[:, None] * x.shape[1] + heads
                elements = row * 2**17 + np.arange(len(keys))
                at = np.ix_([b], range(x.shape[1]), rows, keys)
                y[at] *= self.factors(node, b, elements).astype(x.dtype)
        return y
