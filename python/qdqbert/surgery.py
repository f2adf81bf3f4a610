# SPDX-License-Identifier: Apache-2.0
"""Changing the sizes of a model: vocabulary, heads, and whether the language head has a table of its own.

Sizes are fixed in a C model.  So an operation makes another one, fills it from the old one, and only when all
of that has succeeded turns the modules to it (`qdqbert.modeling_tree.Handles`): every module and quantizer
that somebody holds stays valid, and a failed operation leaves everything as it was.  For the time of the
operation both models are in memory.

What an operation starts from is the configuration that the C model was made from (`Bound.config`): sizes that
somebody wrote into ``model.config`` since are not the model's.  Of two operations at the same time in two
threads the one that ends first stands, and the other is refused.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from qdqbert.arrays import Array
from qdqbert.configuration_qdqbert import QDQBertConfig
from qdqbert.errors import ShapeError, StateError
from qdqbert.forward_inputs import as_floats
from qdqbert.modeling_bound import THAW, Bound, snapshot
from qdqbert.modeling_engine import Engine, kept_heads

__all__ = [
    "copy_quantizer",
    "prune_heads",
    "resize_vocabulary",
    "set_output_table",
    "table_of",
    "tie",
    "untie",
]

_WORDS = "embeddings.word_embeddings.weight"
_SCORES = "cls.predictions.decoder.weight"
_SCORES_BIAS = "cls.predictions.bias"


class Cut(NamedTuple):
    """What is left of one axis.

    Attributes
    ----------
    axis : int
        From the end, negative.
    size : int
        Before.
    kept : ndarray, int64
        Indices that stay.
    """

    axis: int
    size: int
    kept: Array

    def of(self, array: Array | None) -> Array | None:
        """Return what is left of `array`: itself where it has no such axis, or one value for all of it."""
        if array is None or array.ndim < -self.axis or array.shape[self.axis] != self.size:
            return array
        return np.ascontiguousarray(np.take(array, self.kept, axis=self.axis))


def transplant(
    engine: Engine,
    config: QDQBertConfig,
    old: Bound,
    fields: Mapping[str, Any],
    value_of: Callable[[str, Bound], Array],
    cuts: Mapping[str, Cut] | None = None,
) -> None:
    """Put another C model behind a model.

    Parameters
    ----------
    engine : Engine
    config : QDQBertConfig
        The model's; changed when all else has succeeded.
    old : Bound
        What the operation was planned from.
    fields : mapping of str to object
        Fields of the configuration that change.
    value_of : callable (name, old) -> ndarray
        Value of each parameter of the new model.
    cuts : mapping of str to Cut, optional
        Of the ranges of quantizers, by name.

    Raises
    ------
    ValueError, MemoryError
        If there can be no such model, or not enough memory for it.
    StateError
        If another thread has changed the sizes since the operation was planned.
    """
    if old.codes:
        raise StateError(
            f"{next(iter(old.codes))}: cannot change its size, because the model is frozen and has its int8 "
            f"codes alone; {THAW}"
        )
    planned = snapshot(old.config)
    for field, value in fields.items():
        setattr(planned, field, value)
    planned.validate()
    handles = engine.handles
    new = Bound.to(engine.make_core(planned), planned)
    for name, (index, view) in new.parameters.items():
        value = value_of(name, old)
        if value.shape != view.shape:
            raise AssertionError(f"{name}: {value.shape} for {view.shape}")
        new.model.parameter_write(index)[...] = value
    cuts = {} if cuts is None else cuts
    statistics: list[tuple[Any, Array]] = []
    for name, quantizer in new.quantizers.items():
        cut = cuts.get(name)
        copy_quantizer(old.quantizers[name], quantizer, cut)
        module = handles.modules.get(name)
        observer = getattr(getattr(module, "_observing", None), "_observer", None)
        quantizer.set_observer(observer)
        if cut is not None and observer is not None and observer.has_data and observer.kind == "max":
            collected = observer.amax()
            if (left := cut.of(collected)) is not collected and left is not None:
                statistics.append((observer, left))
    with handles.turning:
        if handles.bound is not old:
            raise StateError(
                "another thread changed the sizes of the model in the meantime: nothing was done; call again"
            )
        before = {field: getattr(config, field) for field in fields}
        try:
            handles.bound = new
            for field in fields:
                setattr(config, field, copy.copy(getattr(planned, field)))
            for observer, collected in statistics:
                observer.set_amax(collected)
        except BaseException:
            handles.bound = old
            for field, value in before.items():
                setattr(config, field, value)
            raise


def copy_quantizer(old: Any, new: Any, cut: Cut | None = None) -> None:
    """Give a quantizer the settings, stages and ranges of another.

    Parameters
    ----------
    old, new : _core.Quantizer
    cut : Cut, optional
        What is left of the ranges.
    """
    new.set_options(old.options())
    amax, factor = old.amax(), old.pre_quant_scale()
    new.set_amax(amax if cut is None else cut.of(amax))
    new.set_pre_quant_scale(factor if cut is None else cut.of(factor))
    new.set_clip(*old.clip())
    new.stages = old.stages


def _unchanged(name: str, old: Bound) -> Array:
    """Return a parameter as it was; a language head that had no table takes that of the words."""
    if name == _SCORES and name not in old.parameters:
        name = f"bert.{_WORDS}"
    return old.parameters[name][1]


# ---- tables of words ---------------------------------------------------------------------------------------


def tie(engine: Engine, config: QDQBertConfig) -> None:
    """Let the language head score with the table of the words, if the configuration says so.

    Parameters
    ----------
    engine : Engine
    config : QDQBertConfig
        The model's; changed when all else has succeeded.
    """
    old = engine.handles.bound
    if config.tie_word_embeddings and _SCORES in old.parameters:
        transplant(engine, config, old, {"tie_word_embeddings": True}, _unchanged)


def untie(engine: Engine, config: QDQBertConfig) -> None:
    """Give the language head a table of its own, equal to that of the words so far.

    Parameters
    ----------
    engine : Engine
    config : QDQBertConfig
        The model's; changed when all else has succeeded.
    """
    transplant(engine, config, engine.handles.bound, {"tie_word_embeddings": False}, _unchanged)


def resize_vocabulary(
    engine: Engine, config: QDQBertConfig, size: int, seed: int, words: Array | None = None
) -> None:
    """Change the number of words: the first rows of all tables stay, new ones are fresh, new biases zero.

    Parameters
    ----------
    engine : Engine
    config : QDQBertConfig
    size : int
    seed : int
        Of the fresh rows.
    words : ndarray, shape (size, hidden), optional
        The new table of words.
    """
    padding = config.pad_token_id

    def value_of(name: str, old: Bound) -> Array:
        value = _unchanged(name, old)
        if name.endswith(_WORDS) and words is not None:
            return words
        if not (name.endswith(_WORDS) or name in (_SCORES, _SCORES_BIAS)):
            return value
        kept = min(len(value), size)
        fresh = np.zeros((size, *value.shape[1:]), np.float32)
        fresh[:kept] = value[:kept]
        if size > kept and name != _SCORES_BIAS:
            stream = np.random.default_rng([seed, zlib.crc32(name.encode())])
            stream.standard_normal(out=fresh[kept:], dtype=np.float32)
            fresh[kept:] *= np.float32(config.initializer_range)
            if name.endswith(_WORDS) and padding is not None and kept <= padding < size:
                fresh[padding] = 0.0
        return fresh

    # As in the original, a table of the head's own is made or dropped on this occasion.
    fields = {"vocab_size": size, "tie_word_embeddings": config.tie_word_embeddings}
    transplant(engine, config, engine.handles.bound, fields, value_of)


def set_output_table(engine: Engine, config: QDQBertConfig, table: Array, bias: Array | None) -> None:
    """Give the language head another table, and if it is given another bias; the words keep theirs.

    Raises ShapeError if one has not a row for each word.

    Parameters
    ----------
    engine : Engine
    config : QDQBertConfig
        The model's; changed when all else has succeeded.
    table : ndarray, shape (vocab_size, hidden), float32
    bias : ndarray, shape (vocab_size,), float32, or None
    """

    def value_of(name: str, old: Bound) -> Array:
        if name == _SCORES:
            return table
        return bias if name == _SCORES_BIAS and bias is not None else _unchanged(name, old)

    old = engine.handles.bound
    for name, array in (("value", table), ("value.bias", bias)):
        if array is not None and len(array) != old.config.vocab_size:
            raise ShapeError(f"{name}: expected {old.config.vocab_size} rows, got {len(array)}")
    transplant(engine, config, old, {"tie_word_embeddings": False}, value_of)


def table_of(argument: str, value: Any, hidden_size: int) -> Array:
    """Return the rows of a table that is given as an array or as a module with a ``weight``.

    Parameters
    ----------
    argument : str
        Name of `value`, for messages.
    value : floats, shape (vocabulary, hidden), or object with such a ``weight``
    hidden_size : int
        Columns of the model's tables.

    Raises
    ------
    TypeError, ShapeError
        If it holds no real numbers, or has not the columns of the model.
    """
    table = as_floats(argument, getattr(value, "weight", value))
    if table is None or table.ndim != 2 or table.shape[1] != hidden_size or len(table) == 0:
        raise ShapeError(
            f"{argument}: expected (vocabulary, {hidden_size}), got {None if table is None else table.shape}"
        )
    return table


# ---- heads -------------------------------------------------------------------------------------------------


def prune_heads(
    engine: Engine, config: QDQBertConfig, heads_to_prune: Mapping[int, Iterable[int]], prefix: str
) -> None:
    """Take heads of self-attention out of layers; see `QDQBertPreTrainedModel.prune_heads`.

    Parameters
    ----------
    engine : Engine
    config : QDQBertConfig
    heads_to_prune : mapping of int to iterable of int
    prefix : str
        Of the base model's names: ``""`` or ``"bert."``.
    """
    wanted = _normalized(heads_to_prune, engine.handles.bound.config)
    old = engine.handles.bound
    sizes = old.config
    size = sizes.hidden_size // sizes.num_attention_heads
    before = kept_heads(sizes)
    pruned = {layer % sizes.num_hidden_layers: set(heads) for layer, heads in sizes.pruned_heads.items()}
    for layer, heads in wanted.items():
        pruned[layer] = pruned.get(layer, set()) | heads
        if len(pruned[layer]) == sizes.num_attention_heads:
            raise ValueError(f"heads_to_prune[{layer}]: all heads of the layer; one must be left")
    cuts: dict[str, Cut] = {}
    values: dict[str, Cut] = {}
    for layer, heads in wanted.items():
        left = np.array([i for i, head in enumerate(before[layer]) if head not in heads])
        if len(left) == len(before[layer]):
            continue
        features = (left[:, None] * size + np.arange(size)).reshape(-1)
        rows = Cut(-2, len(before[layer]) * size, features)
        columns = rows._replace(axis=-1)
        path = f"{prefix}encoder.layer.{layer}.attention."
        for name in ("query", "key", "value"):
            values[f"{path}self.{name}.weight"] = cuts[f"{path}self.{name}._weight_quantizer"] = rows
            values[f"{path}self.{name}.bias"] = columns
        values[f"{path}output.dense.weight"] = columns
        cuts[f"{path}output.dense._weight_quantizer"] = columns
        cuts[f"{path}output.dense._input_quantizer"] = columns
        for letter in "qkva":
            cuts[f"{path}self.matmul_{letter}_input_quantizer"] = Cut(-3, len(before[layer]), left)

    def value_of(name: str, old: Bound) -> Array:
        value = _unchanged(name, old)
        left = values[name].of(value) if name in values else value
        assert left is not None
        return left

    fields = {"pruned_heads": {layer: sorted(heads) for layer, heads in sorted(pruned.items())}}
    if values:
        transplant(engine, config, old, fields, value_of, cuts)
    else:
        config.pruned_heads = fields["pruned_heads"]


def _normalized(heads_to_prune: Mapping[int, Iterable[int]], config: QDQBertConfig) -> dict[int, set[int]]:
    if not isinstance(heads_to_prune, Mapping):
        raise TypeError(
            f"heads_to_prune: expected a dict of layer to heads, got {type(heads_to_prune).__name__}"
        )
    layers, count = config.num_hidden_layers, config.num_attention_heads
    wanted: dict[int, set[int]] = {}
    for layer, heads in heads_to_prune.items():
        try:
            chosen = list(heads)
        except (TypeError, NotImplementedError) as error:  # not iterable; a memoryview of a matrix
            raise TypeError(
                f"heads_to_prune[{layer!r}]: expected a list of heads, got {type(heads).__name__}"
            ) from error
        if not all(isinstance(i, int | np.integer) and not isinstance(i, bool) for i in (layer, *chosen)):
            raise TypeError(f"heads_to_prune: expected integers, got {layer!r}: {chosen!r}")
        if not -layers <= layer < layers:
            raise IndexError(f"heads_to_prune: there is no layer {layer}, the model has {layers}")
        wrong = [int(head) for head in chosen if not 0 <= head < count]
        if wrong:
            raise IndexError(f"heads_to_prune[{layer}]: there is no head {wrong[0]}, the layer has {count}")
        wanted.setdefault(int(layer) % layers, set()).update(int(head) for head in chosen)
    return wanted
