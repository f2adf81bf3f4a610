# SPDX-License-Identifier: Apache-2.0
"""`compare_with_onnxruntime`: an exported file and the model that it is from, on the same numbers."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qdqbert.modeling_base import QDQBertPreTrainedModel
from qdqbert.modeling_qdqbert import QDQBertForMultipleChoice
from qdqbert.onnx.runtime import OnnxRuntimeModel, field_of
from qdqbert.rules import quantizers as changed_quantizers

__all__ = ["OutputDifference", "compare_with_onnxruntime"]

_ROWS, _CHOICES, _LENGTH = 4, 3, 48
_ENCODER_LENGTH = 11
_TOLERANCE, _SHARE = 0.05, 0.25


class OutputDifference(NamedTuple):
    """How far one output of a file is from the model's.

    Attributes
    ----------
    name : str
    elements : int
        That were compared.
    largest : float
        Difference, of any element.
    magnitude : float
        Largest element of the model's output.
    mean : float
        Difference, root mean square over all elements.
    spread : float
        Of the model's output, likewise.
    effect : float
        What quantizing changes of the model's output, likewise; 0 if no quantizer is on.
    """

    name: str
    elements: int
    largest: float
    magnitude: float
    mean: float
    spread: float
    effect: float

    def is_far(self, tolerance: float | None = None) -> bool:
        """Whether the difference is more than rounding.

        Parameters
        ----------
        tolerance : float, optional
            Share of the spread.  Without one it is 0.05, or a quarter of the effect if that is more: a code
            at a tie that moves by a step moves others in the layers behind, to the size of the noise that
            quantizing makes, of which the file has then another draw in a part of the texts.
        """
        if tolerance is not None:
            return not self.mean <= tolerance * self.spread
        return not self.mean <= max(_TOLERANCE * self.spread, _SHARE * self.effect)


def compare_with_onnxruntime(
    model: QDQBertPreTrainedModel,
    path: str | os.PathLike[str],
    *,
    batches: int = 4,
    seed: int = 0,
    optimizes: bool = False,
) -> list[OutputDifference]:
    """Run a file that `export` wrote in ONNX Runtime, and the model, on random texts.

    Texts have random words and lengths. Positions that are masked are computed by both.  ONNX Runtime uses
    exact kernels, see `OnnxRuntimeModel`.

    Parameters
    ----------
    model : QDQBertPreTrainedModel
    path : str or path
        Of the file.
    batches : int
        At least 1; of 4 texts each.
    seed : int
        Of the texts.
    optimizes : bool
        Let ONNX Runtime fuse nodes; otherwise it runs them one by one.

    Returns
    -------
    list of OutputDifference
        In the order of the file's outputs; caches are left out.

    Raises
    ------
    UnsupportedError
        If ONNX Runtime is not installed, or cannot run the file.
    ValueError
        If `batches` is less than 1.
    """
    if batches < 1:
        raise ValueError(f"batches: expected at least 1, got {batches}")
    runtime = OnnxRuntimeModel(path, optimizes=optimizes)
    rng = np.random.default_rng(seed)
    padding, model.padding = model.padding, "compute"
    was_training = model.training
    model.eval()
    sums: dict[str, _Sums] = {}
    try:
        for _ in range(batches):
            inputs = _random_inputs(model, rng)
            expected = model(**inputs, return_dict=True)
            with changed_quantizers(model, {"*": "off"}):
                unquantized = model(**inputs, return_dict=True)
            for name, value in runtime.run(inputs).items():
                field = field_of(name)
                sums.setdefault(name, _Sums()).add(value, expected[field], unquantized[field])
    finally:
        model.padding = padding
        model.train(was_training)
    return [each.difference(name) for name, each in sums.items()]


def _random_inputs(model: Any, rng: np.random.Generator) -> dict[str, npt.NDArray[Any]]:
    config = model._engine.handles.bound.config
    length = min(_LENGTH, config.max_position_embeddings)
    shape: tuple[int, ...] = (_ROWS, length)
    if isinstance(model, QDQBertForMultipleChoice):
        shape = (_ROWS, _CHOICES, length)
    ends = rng.integers(1, length + 1, shape[:-1])
    ends.flat[0] = length
    inputs: dict[str, npt.NDArray[Any]] = {
        "input_ids": rng.integers(0, config.vocab_size, shape),
        "attention_mask": (np.arange(length) < ends[..., None]).astype(np.int64),
        "token_type_ids": rng.integers(0, config.type_vocab_size, shape),
    }
    if config.add_cross_attention:
        states = (_ROWS, _ENCODER_LENGTH, config.hidden_size)
        inputs["encoder_hidden_states"] = rng.standard_normal(states, np.float32)
        ends = rng.integers(1, _ENCODER_LENGTH + 1, (_ROWS, 1))
        inputs["encoder_attention_mask"] = (np.arange(_ENCODER_LENGTH) < ends).astype(np.int64)
    return inputs


class _Sums:
    """Of one output, over batches."""

    def __init__(self) -> None:
        self._elements = 0
        self._largest = np.zeros(2)
        self._squares = np.zeros(3)

    def add(self, value: npt.NDArray[Any], expected: npt.NDArray[Any], unquantized: npt.NDArray[Any]) -> None:
        wide = expected.astype(np.float64)
        parts = (value - wide, wide, unquantized - wide)
        self._elements += value.size
        # np.maximum keeps a NaN, which max() may drop.
        self._largest = np.maximum(self._largest, [np.abs(part).max() for part in parts[:2]])
        self._squares += [float(np.square(part).sum()) for part in parts]

    def difference(self, name: str) -> OutputDifference:
        means = np.sqrt(self._squares / self._elements).tolist()
        return OutputDifference(name, self._elements, *self._largest.tolist(), *means)
