# SPDX-License-Identifier: Apache-2.0
"""The error of a model's answers: what is compared for each head, what counts, and what is refused."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import qdqbert
import tiny_model
from qdqbert.logit_error import LogitError
from qdqbert.rules import QuantizerState, named_quantizers

# Both sides are float64 sums of at most a few thousand terms of the same float32 answers, in another order:
# n eps of each is below 1e-12.
RTOL = 1e-11


def probabilities(logits: Any) -> list[float]:
    largest = max(float(x) for x in logits)
    powers = [math.exp(float(x) - largest) for x in logits]
    return [power / math.fsum(powers) for power in powers]


def kl(reference: Any, other: Any) -> float:
    pairs = zip(probabilities(reference), probabilities(other), strict=True)
    return math.fsum(p * math.log(p / q) for p, q in pairs)


def of_texts(reference: Any, other: Any, mask: Any) -> list[float]:
    return [kl(p, q) for p, q in zip(reference.logits, other.logits, strict=True)]


def of_tokens(reference: Any, other: Any, mask: Any) -> list[float]:
    return [kl(reference.logits[i, t], other.logits[i, t]) for i, t in np.argwhere(mask)]


def of_spans(reference: Any, other: Any, mask: Any) -> list[float]:
    return [
        sum(kl(reference[side][i, row], other[side][i, row]) for side in ("start_logits", "end_logits"))
        for i, row in enumerate(mask.astype(bool))
    ]


def of_labels(reference: Any, other: Any, mask: Any) -> list[float]:
    def one(p: float, q: float) -> float:
        return kl([p, 0.0], [q, 0.0])

    return [
        sum(map(one, a.tolist(), b.tolist())) for a, b in zip(reference.logits, other.logits, strict=True)
    ]


def of_numbers(reference: Any, other: Any, mask: Any) -> list[float]:
    return [
        float(np.mean((a.astype(float) - b) ** 2))
        for a, b in zip(reference.logits, other.logits, strict=True)
    ]


def of_hidden(reference: Any, other: Any, mask: Any) -> list[float]:
    a, b = reference.last_hidden_state, other.last_hidden_state
    return [float(np.mean((a[i, t].astype(float) - b[i, t]) ** 2)) for i, t in np.argwhere(mask)]


CASES: list[tuple[str, dict[str, Any], Callable[[Any, Any, Any], list[float]], str]] = [
    ("QDQBertForSequenceClassification", {"num_labels": 5}, of_texts, "KL .* classes, nats per text"),
    ("QDQBertForSequenceClassification", {"num_labels": 1}, of_numbers, "squared error of the outputs"),
    (
        "QDQBertForSequenceClassification",
        {"num_labels": 3, "problem_type": "regression"},
        of_numbers,
        "squared error of the outputs",
    ),
    (
        "QDQBertForSequenceClassification",
        {"num_labels": 3, "problem_type": "multi_label_classification"},
        of_labels,
        "KL .* labels",
    ),
    ("QDQBertForTokenClassification", {"num_labels": 7}, of_tokens, "nats per token"),
    ("QDQBertForQuestionAnswering", {}, of_spans, "start and end"),
    ("QDQBertForMaskedLM", {}, of_tokens, "nats per token"),
    ("QDQBertLMHeadModel", {"is_decoder": True}, of_tokens, "nats per token"),
    ("QDQBertForMultipleChoice", {}, of_texts, "nats per text"),
    ("QDQBertForNextSentencePrediction", {}, of_texts, "nats per text"),
    ("QDQBertModel", {}, of_hidden, "last_hidden_state"),
]
IDS = [f"{name}-{'-'.join(map(str, fields.values()))}" for name, fields, *_ in CASES]


def quantized(name: str, **fields: Any) -> Any:
    model = getattr(qdqbert, name)(tiny_model.config(**fields), seed=3)
    qdqbert.calibrate(model, batches(name), method="percentile", percentile=95.0)
    return model


def batches(name: str, count: int = 3) -> list[dict[str, np.ndarray]]:
    data = [tiny_model.batch(rows=3 + seed, length=11, seed=seed) for seed in range(count)]
    if name == "QDQBertForMultipleChoice":
        data = [{key: np.stack([value, value[::-1]], axis=1) for key, value in each.items()} for each in data]
    return data


def in_float(model: Any, batch: Any) -> Any:
    with qdqbert.quantizers(model, {"*": "off"}):
        return model(**batch)


def states(model: Any) -> dict[str, QuantizerState]:
    return {name: QuantizerState.of(quantizer) for name, quantizer in named_quantizers(model)}


@pytest.mark.parametrize(("name", "fields", "expected", "words"), CASES, ids=IDS)
def test_the_error_of_every_head(name: str, fields: Any, expected: Any, words: str) -> None:
    model, data = quantized(name, **fields), batches(name)
    before = states(model)

    error = LogitError(model, data)

    parts = [
        value
        for batch in data
        for value in expected(in_float(model, batch), model(**batch), batch["attention_mask"])
    ]
    assert error.measure() == pytest.approx(math.fsum(parts) / len(parts), rel=RTOL)
    assert error.measure() > 1e-9
    assert re.search(words, error.name)
    assert states(model) == before


@pytest.mark.parametrize(("name", "fields"), [case[:2] for case in CASES], ids=IDS)
def test_in_float_there_is_none(name: str, fields: Any) -> None:
    model = quantized(name, **fields)
    error = LogitError(model, batches(name))
    with qdqbert.quantizers(model, {"*": "off"}):
        assert error.measure() == 0.0


@pytest.mark.parametrize("padding", ["skip", "compute"])
@pytest.mark.parametrize(
    "name", ["QDQBertForQuestionAnswering", "QDQBertForTokenClassification", "QDQBertModel"]
)
def test_masked_positions_do_not_count(name: str, padding: str) -> None:
    model, data = quantized(name), batches(name)
    model.padding = padding
    wider = [
        {
            key: np.pad(value, ((0, 0), (0, 5)), constant_values=0 if key == "attention_mask" else 1)
            for key, value in each.items()
        }
        for each in data
    ]
    # Nobody looks at masked positions, so their answers are the only thing that could differ.
    assert LogitError(model, wider).measure() == pytest.approx(LogitError(model, data).measure(), rel=RTOL)


def test_a_text_without_a_position_does_not_count() -> None:
    model, data = quantized("QDQBertForQuestionAnswering"), batches("QDQBertForQuestionAnswering", 1)
    masked = {key: np.concatenate([value, value[:1]]) for key, value in data[0].items()}
    masked["attention_mask"][-1] = 0
    model.padding = "compute"  # otherwise such a text is refused
    assert LogitError(model, [masked]).measure() == pytest.approx(LogitError(model, data).measure(), rel=RTOL)


@pytest.mark.parametrize("kind", [bool, np.float32, np.uint8])
def test_masks_of_every_kind_mean_the_same(kind: Any) -> None:
    model, data = quantized("QDQBertForTokenClassification"), batches("QDQBertForTokenClassification")
    other = [each | {"attention_mask": each["attention_mask"].astype(kind)} for each in data]
    assert LogitError(model, other).measure() == LogitError(model, data).measure()


def test_one_row_of_a_mask_counts_for_all() -> None:
    model, (data, *_) = quantized("QDQBertForTokenClassification"), batches("QDQBertForTokenClassification")
    row = data["attention_mask"][1:2]
    spread = data | {"attention_mask": np.repeat(row, 3, axis=0)}
    narrow = LogitError(model, [data | {"attention_mask": row}])
    assert narrow.measure() == LogitError(model, [spread]).measure()


def test_without_a_mask_everything_counts() -> None:
    model = quantized("QDQBertForTokenClassification")
    ids = tiny_model.batch()["input_ids"]
    bare = LogitError(model, [ids]).measure()
    assert bare == LogitError(model, [{"input_ids": ids, "attention_mask": np.ones_like(ids)}]).measure()
    # A mask of three axes says who sees whom.
    everyone = np.ones((3, 11, 11), np.int64)
    assert bare == LogitError(model, [{"input_ids": ids, "attention_mask": everyone}]).measure()


def test_the_split_into_batches_changes_roundings_only() -> None:
    model = quantized("QDQBertForMaskedLM")
    data = batches("QDQBertForMaskedLM")
    singles = [
        {key: value[i : i + 1] for key, value in each.items()}
        for each in data
        for i in range(len(each["input_ids"]))
    ]
    assert LogitError(model, singles).measure() == pytest.approx(LogitError(model, data).measure(), rel=RTOL)


def test_long_answers_are_compared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = quantized("QDQBertForMaskedLM"), batches("QDQBertForMaskedLM")
    whole = LogitError(model, data).measure()
    monkeypatch.setattr("qdqbert.logit_error._ELEMENTS", 7 * 53)
    assert LogitError(model, data).measure() == whole


def test_labels_are_not_looked_at() -> None:
    model = quantized("QDQBertForSequenceClassification", num_labels=3)
    data = batches("QDQBertForSequenceClassification")
    labelled = [each | {"labels": np.full((len(each["input_ids"]), 3), 0.5)} for each in data]
    assert LogitError(model, labelled).measure() == LogitError(model, data).measure()
    assert model.config.problem_type is None


def test_models_that_return_tuples_are_measured_too() -> None:
    model = quantized("QDQBertForSequenceClassification", num_labels=3, return_dict=False)
    assert isinstance(model(**tiny_model.batch()), tuple)
    assert LogitError(model, batches("QDQBertForSequenceClassification")).measure() > 0


class Doubled(qdqbert.nn.Module):
    """A module of a user's own."""

    def __init__(self, result: Any = None) -> None:
        super().__init__()
        self.add_module("linear", qdqbert.nn.QuantLinear(5, 3))
        self._result = result

    def forward(self, x: Any) -> Any:
        linear: Any = self.get_submodule("linear")
        return 2 * linear(x) if self._result is None else self._result


def test_a_module_of_ones_own_may_return_an_array() -> None:
    model = Doubled()
    qdqbert.quantizers(model, {"*_input_quantizer": {"amax": 2.0}})
    x = np.random.default_rng(0).standard_normal((7, 5), dtype=np.float32)
    error = LogitError(model, [x, {"x": x[:2]}])
    with qdqbert.quantizers(model, {"*": "off"}):
        reference = model(x).astype(np.float64)
    squares = ((model(x) - reference) ** 2).mean(axis=1)
    assert error.measure() == pytest.approx((squares.sum() + squares[:2].sum()) / 9, rel=1e-6)
    assert "per row" in error.name


def test_other_outputs_are_refused_by_name() -> None:
    with pytest.raises(TypeError, match="logits, hidden states or an array, got an output of str"):
        LogitError(Doubled("logits"), [1])


def test_an_answer_that_is_not_finite_in_float_is_refused_with_its_batch() -> None:
    model = quantized("QDQBertForSequenceClassification", num_labels=3)
    data = batches("QDQBertForSequenceClassification")
    model.load_state_dict({"classifier.bias": np.array([0, np.nan, 0], np.float32)}, strict=False)
    with pytest.raises(ValueError, match=r"batch 0: the model's answers in float are NaN or infinite"):
        LogitError(model, data)


def test_an_answer_that_is_nan_is_infinitely_wrong() -> None:
    model = quantized("QDQBertForSequenceClassification", num_labels=3)
    error = LogitError(model, batches("QDQBertForSequenceClassification"))
    model.load_state_dict({"classifier.bias": np.array([0, np.nan, 0], np.float32)}, strict=False)
    assert error.measure() == math.inf


def test_what_cannot_be_measured_is_named() -> None:
    model = quantized("QDQBertForTokenClassification")
    before = states(model)
    with pytest.raises(ValueError, match="batches: expected at least one"):
        LogitError(model, [])
    with pytest.raises(TypeError, match="batches: expected batches, got one"):
        LogitError(model, tiny_model.batch())
    masked = tiny_model.batch()
    masked["attention_mask"][:] = 0
    model.padding = "compute"
    with pytest.raises(ValueError, match="every position is masked"):
        LogitError(model, [masked])
    with pytest.raises(IndexError, match=r"batch 1: .*input_ids"):
        LogitError(model, [tiny_model.batch(), {"input_ids": [[99]]}])
    assert states(model) == before
