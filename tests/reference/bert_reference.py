# SPDX-License-Identifier: Apache-2.0
"""BERT as its papers write it, in NumPy: encoder, decoder, cross-attention, relative positions.

Nothing of the package is used, nothing is fast, and padding is computed with an additive mask, as in the
original.  What drops out is told by a function of node number and tensor; the numbers of the nodes are
those of ``Session.forward``.  The same formulas run in float64, which is the truth, and in float32, which
says what rounding alone may change.

Devlin et al. 2018; Vaswani et al. 2017; Shaw et al. 2018 and Huang et al. 2020 for relative positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray

LOWEST = float(np.finfo(np.float32).min)  # what a masked score gets, as in the original


def erf(x: Array) -> Array:
    """Error function of each element."""
    return np.vectorize(math.erf, otypes=[x.dtype])(x)


def gelu(x: Array) -> Array:
    """x Phi(x)."""
    return x * (1 + erf(x / x.dtype.type(math.sqrt(2)))) / 2


def keep(node: int, x: Array) -> Array:
    """No dropout."""
    return x


def softmax(x: Array) -> Array:
    """Along the last axis."""
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@dataclass
class Results:
    """Everything that a forward hands out; lists have an entry for each layer."""

    last_hidden_state: Array = field(default_factory=lambda: np.empty(0))
    pooler_output: Array | None = None
    logits: Array | None = None
    hidden_states: list[Array] = field(default_factory=list)
    attentions: list[Array] = field(default_factory=list)
    cross_attentions: list[Array] = field(default_factory=list)
    keys: list[Array] = field(default_factory=list)
    values: list[Array] = field(default_factory=list)


class Reference:
    """One model.

    Parameters
    ----------
    parameters : dict
        Arrays by the names of `QDQBertModel`, those of ``cls.`` for a language model, and ``classifier``.
    heads, epsilon, positions, is_causal
        Attention heads; of LayerNorm; "absolute", "relative_key" or "relative_key_query"; whether tokens see
        only those before them.
    dtype : numpy dtype
        In which everything is computed.

    Attributes
    ----------
    drop : callable
        The dropout of a node: (node, x) -> x times mask / (1 - p).
    """

    drop: Callable[[int, Array], Array]

    def __init__(
        self,
        parameters: dict[str, Array],
        *,
        heads: int,
        epsilon: float,
        positions: str,
        is_causal: bool,
        dtype: Any,
    ) -> None:
        self.of = {name: np.asarray(value, dtype) for name, value in parameters.items()}
        self.heads = heads
        self.epsilon = dtype(epsilon)
        self.positions = positions
        self.is_causal = is_causal
        self.dtype = dtype
        self.drop = keep
        self.layers = 1 + max(int(n.split(".")[2]) for n in self.of if n.startswith("encoder.layer."))

    def linear(self, name: str, x: Array) -> Array:
        """X W' + b."""
        return x @ self.of[f"{name}.weight"].T + self.of[f"{name}.bias"]

    def norm(self, name: str, x: Array) -> Array:
        """LayerNorm."""
        d = x - x.mean(-1, keepdims=True)
        variance = (d * d).mean(-1, keepdims=True)
        return d / np.sqrt(variance + self.epsilon) * self.of[f"{name}.weight"] + self.of[f"{name}.bias"]

    def split(self, x: Array) -> Array:
        """(B, T, N D) -> (B, N, T, D)."""
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(0, 2, 1, 3)

    def relative(self, name: str, q: Array, k: Array, past: int) -> Array:
        """What relative positions add to scores (B, N, T, S); queries stand behind `past` columns."""
        if self.positions == "absolute":
            return np.zeros((), self.dtype)
        table = self.of[f"{name}.distance_embedding.weight"]
        places = past + np.arange(q.shape[2])
        distance = places[:, None] - np.arange(k.shape[2]) + (len(table) + 1) // 2 - 1
        r = np.einsum("bnid,ijd->bnij", q, table[distance])
        if self.positions == "relative_key_query":
            r = r + np.einsum("bnjd,ijd->bnij", k, table[distance])
        return r

    def attention(
        self, name: str, node: int, x: Array, k: Array, v: Array, seen: Array, past: int, factors: Array
    ) -> tuple[Array, Array]:
        """Output after residual add and LayerNorm, and probabilities; `seen` broadcasts to (B, T, S).

        `node` is the number of the probabilities' dropout; the output's is one more.
        """
        q = self.split(self.linear(f"{name}.self.query", x))
        scores = q @ k.swapaxes(-1, -2) + self.relative(f"{name}.self", q, k, past)
        scores = (
            scores / np.sqrt(self.dtype(q.shape[-1])) + np.where(seen, 0, LOWEST).astype(self.dtype)[:, None]
        )
        p = self.drop(node, softmax(scores)) * factors.astype(self.dtype)[:, None, None]
        context = (p @ v).transpose(0, 2, 1, 3).reshape(x.shape)
        local = self.drop(node + 1, self.linear(f"{name}.output.dense", context))
        return self.norm(f"{name}.output.LayerNorm", local + x), p

    def keys_of(self, name: str, z: Array) -> tuple[Array, Array]:
        """Keys and values of z."""
        return self.split(self.linear(f"{name}.self.key", z)), self.split(
            self.linear(f"{name}.self.value", z)
        )

    def seen_by(self, mask: Array | None, batch: int, length: int, past: int) -> Array:
        """(B, T, S): which keys each token looks at."""
        keys = past + length
        if mask is None:
            mask = np.ones((batch, keys), int)
        if mask.ndim == 3:
            return mask != 0
        seen = np.broadcast_to(mask[:, None] != 0, (batch, length, keys))
        return seen & (np.arange(keys) <= past + np.arange(length)[:, None]) if self.is_causal else seen

    def embed(self, ids: Array, types: Array | None, positions: Array | None, past: int) -> Array:
        """x_0."""
        types = np.zeros_like(ids) if types is None else types
        positions = past + np.arange(ids.shape[1])[None] if positions is None else positions
        x = self.of["embeddings.word_embeddings.weight"][ids]
        x = x + self.of["embeddings.token_type_embeddings.weight"][types]
        if self.positions == "absolute":
            x = x + self.of["embeddings.position_embeddings.weight"][positions]
        return self.drop(0, self.norm("embeddings.LayerNorm", x))

    def __call__(
        self,
        ids: Array,
        *,
        mask: Array | None = None,
        types: Array | None = None,
        positions: Array | None = None,
        head_mask: Array | None = None,
        earlier: Results | None = None,
        encoder: Array | None = None,
        encoder_mask: Array | None = None,
    ) -> Results:
        """Forward; `earlier` is the result of the tokens before."""
        batch, length = ids.shape
        past = earlier.keys[0].shape[2] if earlier else 0
        seen = self.seen_by(mask, batch, length, past)
        head_mask = np.ones((self.layers, self.heads)) if head_mask is None else head_mask
        x = self.embed(ids, types, positions, past)
        out = Results()
        for i in range(self.layers):
            layer = f"encoder.layer.{i}"
            node = 1 + 5 * i
            out.hidden_states.append(x)
            k, v = self.keys_of(f"{layer}.attention", x)
            if earlier:
                k = np.concatenate([earlier.keys[i], k], 2)
                v = np.concatenate([earlier.values[i], v], 2)
            out.keys.append(k)
            out.values.append(v)
            x, p = self.attention(f"{layer}.attention", node, x, k, v, seen, past, head_mask[i])
            out.attentions.append(p)
            if encoder is not None:
                name = f"{layer}.crossattention"
                looked = np.ones(encoder.shape[:2], int) if encoder_mask is None else encoder_mask
                looked = looked if looked.ndim == 3 else looked[:, None]
                k, v = self.keys_of(name, np.asarray(encoder, self.dtype))
                x, p = self.attention(name, node + 2, x, k, v, looked != 0, past, head_mask[i])
                out.cross_attentions.append(p)
            wide = gelu(self.linear(f"{layer}.intermediate.dense", x))
            local = self.drop(node + 4, self.linear(f"{layer}.output.dense", wide))
            x = self.norm(f"{layer}.output.LayerNorm", local + x)
        out.hidden_states.append(x)
        out.last_hidden_state = x
        if "pooler.dense.weight" in self.of:
            out.pooler_output = np.tanh(self.linear("pooler.dense", x[:, 0]))
        if "classifier.weight" in self.of:
            read = x if out.pooler_output is None else out.pooler_output
            out.logits = self.linear("classifier", self.drop(1 + 5 * self.layers, read))
        if "cls.predictions.bias" in self.of:
            t = gelu(self.linear("cls.predictions.transform.dense", x))
            t = self.norm("cls.predictions.transform.LayerNorm", t)
            table = self.of.get(
                "cls.predictions.decoder.weight", self.of["embeddings.word_embeddings.weight"]
            )
            out.logits = t @ table.T + self.of["cls.predictions.bias"]
        return out
