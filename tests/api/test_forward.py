# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import array
import math
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import qdqbert
import tiny_model
from qdqbert import (
    Device,
    QDQBertForSequenceClassification,
    QDQBertModel,
    ShapeError,
    StateError,
    UnsupportedError,
    _core,
)

FLOAT = np.float32


@pytest.fixture(scope="module")
def model() -> Any:
    made = tiny_model.question_answering(seed=1)
    qdqbert.calibrate(made, [tiny_model.batch(seed=s) for s in range(3)])
    return made


@pytest.fixture(params=["calibrated", "float", "dynamic"])
def stages(request: pytest.FixtureRequest, model: Any) -> Iterator[str]:
    rules: dict[str, Any] = {
        "calibrated": {"*": "on"},
        "float": {"*": "off"},
        "dynamic": {"*": {"amax": None}},
    }
    with qdqbert.quantizers(model, rules[request.param]):
        yield request.param


# ---- what is accepted -------------------------------------------------------------------------------


class OnlyArray:
    def __init__(self, value: np.ndarray) -> None:
        self.value = value

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.value


class OnlyDlpack:
    def __init__(self, value: np.ndarray) -> None:
        self.value = value

    def __dlpack__(self, **keywords: Any) -> Any:
        return self.value.__dlpack__(**keywords)

    def __dlpack_device__(self) -> Any:
        return self.value.__dlpack_device__()


@pytest.mark.parametrize(
    "give",
    [
        lambda ids: ids.tolist(),
        lambda ids: tuple(map(tuple, ids.tolist())),
        lambda ids: ids.astype(np.int8),
        lambda ids: ids.astype(np.int32),
        lambda ids: ids.astype(np.uint8),
        lambda ids: ids.astype(np.uint16),
        lambda ids: ids.astype(np.uint64),
        lambda ids: ids.astype(">i8"),
        lambda ids: np.asfortranarray(ids),
        lambda ids: np.repeat(ids, 2, axis=1)[:, ::2],
        lambda ids: memoryview(np.ascontiguousarray(ids)),
        OnlyArray,
        OnlyDlpack,
    ],
)
def test_whatever_holds_integers_is_accepted(give: Any, model: Any) -> None:
    batch = tiny_model.batch()
    expected = model(**batch).start_logits
    given = {name: give(value) for name, value in batch.items()}
    np.testing.assert_array_equal(model(**given).start_logits, expected)


@pytest.mark.parametrize("dtype", [bool, np.float16, np.float32, np.float64, ">f4", np.int8, np.uint64])
def test_a_mask_may_be_of_any_kind_that_has_0_and_1(dtype: Any, model: Any) -> None:
    batch = tiny_model.batch()
    expected = model(**batch).start_logits
    mask = batch["attention_mask"].astype(dtype)
    for given in (mask, mask.tolist(), np.asfortranarray(mask)):
        batch["attention_mask"] = given
        np.testing.assert_array_equal(model(**batch).start_logits, expected)


def test_memory_at_any_address_is_read(model: Any) -> None:
    def moved(array: np.ndarray) -> np.ndarray:
        return np.frombuffer(b"\0" + array.tobytes(), array.dtype, array.size, offset=1).reshape(array.shape)

    batch = tiny_model.batch()
    vectors = np.array(model.get_input_embeddings().weight)[batch["input_ids"]]
    shifted = {name: moved(np.ascontiguousarray(array, np.int64)) for name, array in batch.items()}
    assert not any(array.flags.aligned for array in shifted.values())
    expected = model(**batch)[0]
    np.testing.assert_array_equal(model(**shifted)[0], expected)
    del shifted["input_ids"]
    np.testing.assert_array_equal(model(inputs_embeds=moved(vectors), **shifted)[0], expected)


def test_arguments_may_be_given_by_position(model: Any) -> None:
    batch = tiny_model.batch()
    np.testing.assert_array_equal(
        model(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"]).end_logits,
        model(**batch).end_logits,
    )


def test_inputs_are_not_changed_and_outputs_are_fresh(model: Any) -> None:
    batch = tiny_model.batch()
    copies = {name: value.copy() for name, value in batch.items()}
    first, second = model(**batch), model(**batch)
    for name, value in batch.items():
        np.testing.assert_array_equal(value, copies[name])
    assert not np.shares_memory(first.start_logits, second.start_logits)
    assert first.start_logits.flags.writeable


def test_embeddings_may_be_given_instead_of_ids(stages: str) -> None:
    base = QDQBertModel(tiny_model.config(), seed=1)
    batch = tiny_model.batch()
    ids = batch.pop("input_ids")
    embeds = base.embeddings.word_embeddings.weight[ids]
    for given in (embeds, embeds.astype(np.float64), embeds.tolist()):
        np.testing.assert_array_equal(
            base(inputs_embeds=given, **batch).last_hidden_state, base(ids, **batch).last_hidden_state
        )


def test_defaults_of_optional_inputs(model: Any, stages: str) -> None:
    ids = tiny_model.batch()["input_ids"]
    rows, length = ids.shape
    explicit = model(
        ids,
        attention_mask=np.ones((rows, length), int),
        token_type_ids=np.zeros((rows, length), int),
        position_ids=np.tile(np.arange(length), (rows, 1)),
        head_mask=np.ones((2, 3), FLOAT),
    )
    np.testing.assert_array_equal(model(ids).start_logits, explicit.start_logits)


# Everything whose embedding, (..., hidden), broadcasts to that of the words.
@pytest.mark.parametrize("shape", [(1, 11), (11,), (3, 1), (1, 1), (1,), ()])
@pytest.mark.parametrize("name", ["position_ids", "token_type_ids"])
def test_positions_and_types_broadcast_as_their_embeddings_do(
    name: str, shape: tuple[int, ...], model: Any
) -> None:
    ids = tiny_model.batch()["input_ids"]
    some = (1 - np.arange(math.prod(shape)) % 2).reshape(shape)
    every = np.broadcast_to(some, ids.shape)
    assert not np.array_equal(model(ids, **{name: every}).start_logits, model(ids).start_logits)
    for given in (some, some.tolist()):
        np.testing.assert_array_equal(
            model(ids, **{name: given}).start_logits, model(ids, **{name: every}).start_logits
        )


# Scores have the axes (batch, heads, length, keys), masks those without heads; see 1.5 of the reference.
@pytest.mark.parametrize(
    "shape", [(1, 11), (3, 1), (1, 1), (1, 11, 11), (3, 1, 11), (1, 1, 11), (3, 11, 1), (1, 1, 1)]
)
@pytest.mark.parametrize("fields", [{}, {"is_decoder": True}], ids=["encoder", "decoder"])
def test_masks_broadcast_as_they_do_over_scores(shape: tuple[int, ...], fields: dict[str, Any]) -> None:
    model = qdqbert.QDQBertForTokenClassification(tiny_model.config(**fields), seed=1)
    ids = tiny_model.batch()["input_ids"]
    some = np.ones(shape, int)
    if shape[-1] > 1:
        some[..., 3] = some[..., 7] = 0
    rank = len(shape)
    every = np.broadcast_to(some, (3, 11) if rank == 2 else (3, 11, 11))
    labels = ids % 2
    one, all_rows = (model(ids, mask, labels=labels) for mask in (some, every))
    np.testing.assert_array_equal(one.logits, all_rows.logits)
    assert one.loss == all_rows.loss


def test_head_masks_of_heads_and_of_layers_and_heads(model: Any) -> None:
    ids, heads = tiny_model.batch()["input_ids"], np.array([1, 0, 0.5], FLOAT)
    one = model(ids, head_mask=heads).start_logits
    np.testing.assert_array_equal(one, model(ids, head_mask=np.tile(heads, (2, 1))).start_logits)
    assert not np.array_equal(one, model(ids).start_logits)


# ---- padding, batch mates, threads ------------------------------------------------------------------


def test_padding_and_batch_mates_change_no_bit(model: Any, stages: str) -> None:
    if stages == "dynamic":
        pytest.skip("a dynamic range is one number for the whole batch, by definition")
    batch = tiny_model.batch()
    whole = model(**batch)
    for row, mask in enumerate(batch["attention_mask"]):
        count = int(mask.sum())
        alone = model(**{name: value[row : row + 1, :count] for name, value in batch.items()})
        np.testing.assert_array_equal(whole.start_logits[row, :count], alone.start_logits[0])
        np.testing.assert_array_equal(whole.end_logits[row, :count], alone.end_logits[0])


def test_skipped_positions_read_as_zero(model: Any) -> None:
    batch = tiny_model.batch()
    gone = batch["attention_mask"] == 0
    out = model(**batch, output_hidden_states=True, output_attentions=True)
    assert (out.start_logits[gone] == 0).all()
    assert all((state[gone] == 0).all() for state in out.hidden_states)
    for probabilities in out.attentions:
        assert (probabilities.transpose(0, 3, 1, 2)[gone] == 0).all()


def test_kept_positions_have_the_same_bits_when_padding_is_computed(model: Any, stages: str) -> None:
    if stages == "dynamic":
        pytest.skip("padding takes part in a dynamic range when it is computed")
    batch = tiny_model.batch()
    kept = batch["attention_mask"] == 1
    skipped = model(**batch)
    model.padding = "compute"
    try:
        computed = model(**batch)
    finally:
        model.padding = "skip"
    np.testing.assert_array_equal(skipped.start_logits[kept], computed.start_logits[kept])
    assert (computed.start_logits[~kept] != 0).any()


def test_a_mask_of_three_dimensions_computes_everything(model: Any) -> None:
    batch = tiny_model.batch()
    square = np.repeat(batch["attention_mask"][:, None, :], batch["attention_mask"].shape[1], axis=1)
    model.padding = "compute"
    try:
        expected = model(**batch).start_logits
    finally:
        model.padding = "skip"
    np.testing.assert_array_equal(model(**{**batch, "attention_mask": square}).start_logits, expected)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_and_variants_change_no_bit(threads: int) -> None:
    batch = tiny_model.batch()
    results = []
    for isa, is_supported in _core.variants():
        if is_supported:
            device = Device(isa, threads)
            made = qdqbert.QDQBertForQuestionAnswering(tiny_model.config(), device=device, seed=1)
            qdqbert.calibrate(made, [tiny_model.batch(seed=s) for s in range(2)])
            results.append(made(**batch).start_logits)
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_a_model_may_be_called_from_several_threads(model: Any) -> None:
    batches = [tiny_model.batch(rows=rows, seed=rows) for rows in (1, 2, 3, 4)]
    expected = [model(**batch).start_logits for batch in batches]
    wrong: list[object] = []

    def run(index: int) -> None:
        for _ in range(50):
            try:
                got = model(**batches[index]).start_logits
            except Exception as error:
                wrong.append(error)
                return
            if not np.array_equal(got, expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_repeated_call_allocates_nothing(model: Any) -> None:
    batch, statistics = tiny_model.batch(), model.device.memory_statistics
    model(**batch)
    model(**batch)
    before = statistics()["allocations"]
    for _ in range(5):
        model(**batch)
    smaller = {name: value[:1, :5] for name, value in batch.items()}
    model(**smaller)
    assert statistics()["allocations"] == before


# ---- outputs ----------------------------------------------------------------------------------------


def test_the_base_model_inside_a_head_runs_by_itself(model: Any) -> None:
    batch = tiny_model.batch()
    inner = model.bert(**batch, output_hidden_states=True)
    np.testing.assert_array_equal(
        inner.last_hidden_state, model(**batch, output_hidden_states=True).hidden_states[-1]
    )
    assert inner.pooler_output is None
    assert list(inner) == ["last_hidden_state", "hidden_states"]


def test_configuration_decides_unless_told_otherwise() -> None:
    model = tiny_model.question_answering(
        output_attentions=True, output_hidden_states=True, return_dict=False
    )
    ids = tiny_model.batch()["input_ids"]
    out = model(ids)
    assert isinstance(out, tuple)
    assert len(out) == 4
    assert list(model(ids, return_dict=True, output_attentions=False, output_hidden_states=False)) == [
        "start_logits",
        "end_logits",
    ]


def test_a_base_model_without_pooler_keeps_its_place_in_the_tuple() -> None:
    model = QDQBertModel(tiny_model.config(), add_pooling_layer=False)
    out = model([[1, 2]], return_dict=False)
    assert len(out) == 2
    assert out[1] is None
    assert list(model([[1, 2]])) == ["last_hidden_state"]
    assert "pooler.dense.weight" not in model.state_dict()


def cross_entropy(logits: np.ndarray, labels: np.ndarray, ignored: int) -> float:
    wide = logits.astype(np.float64)
    log_probability = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    kept = labels != ignored
    return float(-log_probability[np.arange(len(labels))[kept], labels[kept]].mean())


def test_span_losses_clamp_and_ignore(model: Any) -> None:
    batch = tiny_model.batch()
    start, end = np.array([2, -5, 99]), np.array([[4], [0], [99]])
    out = model(**batch, start_positions=start, end_positions=end)
    length = out.start_logits.shape[1]
    first, last = (  # positions that were not computed are no choices
        np.where(batch["attention_mask"] == 0, -np.inf, x) for x in (out.start_logits, out.end_logits)
    )
    expected = (
        cross_entropy(first, np.array([2, 0, length]), length)
        + cross_entropy(last, np.array([4, 0, length]), length)
    ) / 2
    # float32 of a float64 sum of a few terms of order one.
    assert abs(float(out.loss) - expected) < 1e-6
    assert out.loss.dtype == np.float32
    assert model(**batch, start_positions=start).loss is None
    assert np.isnan(model(**batch, start_positions=[99] * 3, end_positions=[99] * 3).loss)
    padded = batch["attention_mask"].argmin(axis=1)[1:]  # a start that was not computed does not count
    some = model(**batch, start_positions=[2, *padded], end_positions=[4, 0, 99]).loss
    ends = cross_entropy(last, np.array([4, 0, length]), length)
    assert abs(float(some) - (cross_entropy(first[:1], np.array([2]), length) + ends) / 2) < 1e-6


def test_padding_changes_no_bit_of_a_span_loss(model: Any) -> None:
    batch, (start, end) = tiny_model.batch(rows=3, length=11), ([2, 3, 6], [4, 8, 6])
    alone = [
        float(
            model(
                batch["input_ids"][i : i + 1, :n],
                token_type_ids=batch["token_type_ids"][i : i + 1, :n],
                start_positions=start[i : i + 1],
                end_positions=end[i : i + 1],
            ).loss
        )
        for i, n in enumerate(batch["attention_mask"].sum(axis=1))
    ]
    wider = {name: np.pad(values, ((0, 0), (0, 9))) for name, values in batch.items()}

    losses = [model(**each, start_positions=start, end_positions=end).loss for each in (batch, wider)]

    assert losses[0] == losses[1]
    # float32 of each text's loss, and of their mean.
    assert float(losses[0]) == pytest.approx(np.mean(alone), rel=3e-7)


@pytest.mark.parametrize(
    ("num_labels", "labels", "problem_type"),
    [
        (1, np.array([0.5, -1.0, 2.0]), "regression"),
        (1, np.array([1, 2, 3]), "regression"),
        (4, np.array([0, 3, 1], np.int32), "single_label_classification"),
        (4, np.eye(4)[:3], "multi_label_classification"),
    ],
)
def test_problem_types_are_chosen_from_labels(num_labels: int, labels: np.ndarray, problem_type: str) -> None:
    model = QDQBertForSequenceClassification(tiny_model.config(num_labels=num_labels), seed=2)
    out = model(**tiny_model.batch(), labels=labels)
    logits = out.logits.astype(np.float64)
    if problem_type == "regression":
        expected = np.mean((logits[:, 0] - labels) ** 2)
    elif problem_type == "single_label_classification":
        expected = cross_entropy(out.logits, labels, -100)
    else:
        expected = np.mean(np.logaddexp(0, logits) - logits * labels)
    assert abs(float(out.loss) - expected) < 1e-6 * max(1, abs(expected))
    assert model.config.problem_type == problem_type
    assert list(out)[:2] == ["loss", "logits"]


def test_regression_of_several_numbers_is_the_mean_over_all() -> None:
    config = tiny_model.config(num_labels=3, problem_type="regression")
    model = QDQBertForSequenceClassification(config, seed=2)
    labels = np.array([[0.5, -1.0, 2.0], [1, 2, 3], [0, 0, 4]])
    out = model(**tiny_model.batch(), labels=labels)
    # Rounding of the float32 labels and of the loss: a few units in its last place, 2**-24 of 3.
    assert abs(float(out.loss) - np.mean((out.logits.astype(np.float64) - labels) ** 2)) < 1e-6
    with pytest.raises(ShapeError, match=r"labels: expected \(3, 3\) for regression, got \(3,\)"):
        model(**tiny_model.batch(), labels=[0.5, 1.0, 2.0])


# ---- what is refused --------------------------------------------------------------------------------

IDS = np.ones((2, 3), int)
REFUSED = {
    "no input": ({}, ValueError, "You have to specify either input_ids or inputs_embeds"),
    "both inputs": (
        {"input_ids": IDS, "inputs_embeds": np.zeros((2, 3, 24))},
        ValueError,
        "You cannot specify both input_ids and inputs_embeds at the same time",
    ),
    "float ids": ({"input_ids": IDS * 1.0}, TypeError, "input_ids: expected integers, got float64"),
    "text ids": ({"input_ids": [["a"]]}, TypeError, "input_ids: expected integers"),
    "object ids": ({"input_ids": object()}, TypeError, "input_ids"),
    "complex embeddings": ({"inputs_embeds": np.zeros((1, 1, 24), complex)}, TypeError, "inputs_embeds"),
    "ragged ids": ({"input_ids": [[1, 2], [3]]}, ShapeError, "input_ids: rows of one length"),
    "one dimension": ({"input_ids": [1, 2]}, ShapeError, r"input_ids: .*got \(2,\)"),
    "no sequences": ({"input_ids": np.zeros((0, 3), int)}, ShapeError, "input_ids"),
    "no tokens": ({"input_ids": [[], []]}, ShapeError, "input_ids"),
    "too long": ({"input_ids": np.ones((1, 33), int)}, ShapeError, "33 tokens .* 32 positions"),
    "id too large": ({"input_ids": [[1, 2], [3, 53]]}, IndexError, r"input_ids.*53"),
    "id negative": ({"input_ids": [[-1]]}, IndexError, r"input_ids.*-1"),
    "id beyond int64": ({"input_ids": np.array([[2**63]], np.uint64)}, ValueError, "input_ids: 92233720"),
    "wrong hidden size": ({"inputs_embeds": np.zeros((2, 3, 23))}, ShapeError, "inputs_embeds"),
    "embeddings without length": ({"inputs_embeds": np.zeros((2, 24))}, ShapeError, "inputs_embeds"),
    "mask of another length": (
        {"input_ids": IDS, "attention_mask": np.ones((2, 4), int)}, ShapeError, "attention_mask",
    ),
    "mask of one dimension": (
        {"input_ids": IDS, "attention_mask": np.ones(3, int)}, ShapeError, "attention_mask",
    ),
    "mask of four dimensions": (
        {"input_ids": IDS, "attention_mask": np.ones((2, 1, 3, 3), int)}, ShapeError, "attention_mask",
    ),
    "square mask of another size": (
        {"input_ids": IDS, "attention_mask": np.ones((2, 3, 4), int)}, ShapeError, "attention_mask",
    ),
    "half a mask": (
        {"input_ids": IDS, "attention_mask": np.array([[1, 1, 1], [1, 0.5, 0]])},
        ValueError,
        r"attention_mask\[1, 1\] is 0.5, expected 0 or 1",
    ),
    "NaN in the mask": (
        {"input_ids": IDS, "attention_mask": np.full((2, 3), np.nan)},
        ValueError,
        r"attention_mask\[0, 0\] is nan",
    ),
    "text mask": ({"input_ids": IDS, "attention_mask": [["a"] * 3] * 2}, TypeError, "attention_mask"),
    "mask of twos": ({"input_ids": IDS, "attention_mask": IDS * 2}, ValueError, "attention_mask"),
    "all padding": (
        {"input_ids": IDS, "attention_mask": [[1, 1, 1], [0, 0, 0]]}, ValueError, r"attention_mask.*1",
    ),
    "types of another shape": (
        {"input_ids": IDS, "token_type_ids": IDS[:, :2]}, ShapeError, "token_type_ids",
    ),
    "type out of range": ({"input_ids": IDS, "token_type_ids": IDS * 2}, IndexError, r"token_type_ids.*2"),
    "positions of another shape": ({"input_ids": IDS, "position_ids": [0, 1]}, ShapeError, "position_ids"),
    "positions of other sequences": (
        {"input_ids": IDS, "position_ids": np.zeros((3, 3), int)}, ShapeError, "position_ids",
    ),
    "positions of three dimensions": (
        {"input_ids": IDS, "position_ids": np.zeros((1, 2, 3), int)}, ShapeError, "position_ids",
    ),
    "mask of other sequences": (
        {"input_ids": IDS, "attention_mask": np.ones((3, 3), int)}, ShapeError, "attention_mask",
    ),
    "one row of padding": (
        {"input_ids": IDS, "attention_mask": [[0, 0, 0]]}, ValueError, r"attention_mask\[0\] is all zero",
    ),
    "position out of range": ({"input_ids": IDS, "position_ids": IDS * 32}, IndexError, r"position_ids.*32"),
    "head mask of another shape": ({"input_ids": IDS, "head_mask": np.ones(4)}, ShapeError, "head_mask"),
    "start of another shape": (
        {"input_ids": IDS, "start_positions": [1], "end_positions": [1, 1]}, ShapeError, "start_positions",
    ),
    "float end": (
        {"input_ids": IDS, "start_positions": [1, 1], "end_positions": [1.0, 1.0]}, TypeError, "end",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_bad_arguments_are_refused_by_name_and_leave_the_model_usable(case: str, model: Any) -> None:
    arguments, kind, message = REFUSED[case]
    batch = tiny_model.batch()
    before = model(**batch).start_logits
    with pytest.raises(kind, match=message):
        model(**arguments)
    np.testing.assert_array_equal(model(**batch).start_logits, before)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("encoder_hidden_states", np.zeros((1, 2, 24), FLOAT)),
        ("encoder_attention_mask", [[1, 1]]),
        ("past_key_values", [[np.zeros((1, 3, 2, 8), FLOAT)] * 4] * 2),
    ],
)
def test_an_encoders_states_need_cross_attention(argument: str, value: Any) -> None:
    for fields in ({}, {"is_decoder": True}):
        model = QDQBertModel(tiny_model.config(**fields))
        with pytest.raises(ValueError, match=f"{argument}: the model has no cross-attention"):
            model([[1]], **{argument: value})


def test_an_encoder_says_once_that_it_keeps_no_cache(caplog: pytest.LogCaptureFixture) -> None:
    model = QDQBertModel(tiny_model.config())
    assert model([[1]], use_cache=False).past_key_values is None
    assert not caplog.records
    for _ in range(2):
        assert model([[1]], use_cache=True).past_key_values is None
    assert [record.message for record in caplog.records] == [
        "use_cache=True has no effect: only a decoder (config.is_decoder) keeps a cache"
    ]


def test_padding_without_a_mask_is_mentioned_once(caplog: pytest.LogCaptureFixture) -> None:
    model = QDQBertModel(tiny_model.config())
    model([[5, 0, 5]])  # only where padding would be: at either end
    model([[5, 6, 0]], attention_mask=[[1, 1, 0]])
    model(inputs_embeds=np.zeros((1, 2, 24), FLOAT))
    assert not caplog.records
    model([[5, 6, 0]])
    model([[0, 5, 6]])
    assert len(caplog.records) == 1
    assert "no attention_mask" in caplog.text
    caplog.clear()
    QDQBertModel(tiny_model.config(pad_token_id=None))([[0]])
    assert not caplog.records
    QDQBertModel(tiny_model.config(eos_token_id=0))([[0, 5]])
    assert "eos_token_id (0)" in caplog.text


@pytest.mark.parametrize(
    ("num_labels", "labels", "kind", "message"),
    [
        (3, [0, 3, 1], IndexError, r"labels\[1\] is 3, expected 0 .. 2"),
        (3, [0, 1], ShapeError, r"labels: expected \(3,\), got \(2,\)"),
        (3, np.zeros((3, 2)), ShapeError, r"labels: expected \(3, 3\) for multi_label.*, got \(3, 2\)"),
        (1, [0.5], ShapeError, r"labels: expected \(3,\) for regression, got \(1,\)"),
        (3, ["a", "b", "c"], TypeError, "labels: expected numbers"),
    ],
)
def test_bad_labels_are_refused_and_choose_no_problem_type(
    num_labels: int, labels: Any, kind: type[Exception], message: str
) -> None:
    model = QDQBertForSequenceClassification(tiny_model.config(num_labels=num_labels))
    with pytest.raises(kind, match=message):
        model(**tiny_model.batch(), labels=labels)
    assert model.config.problem_type is None


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"hidden_size": 25}, ValueError, "hidden size"),
        ({"hidden_act": "softsign"}, ValueError, "softsign"),
        ({"vocab_size": 2**30, "hidden_size": 120_000}, MemoryError, r"\w"),
        ({"is_encoder_decoder": True}, UnsupportedError, "make two"),
        ({"add_cross_attention": True}, ValueError, "only a decoder"),
    ],
)
def test_models_that_cannot_be_are_refused(
    fields: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        tiny_model.question_answering(**fields)


def test_what_is_no_configuration_is_refused() -> None:
    with pytest.raises(TypeError, match="config"):
        QDQBertModel({"vocab_size": 3})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_labels"):
        tiny_model.question_answering(num_labels=3)


def test_integer_products_refuse_what_is_not_finite(model: Any) -> None:
    embeds = np.zeros((1, 3, 24), FLOAT)
    embeds[0, 1, 2] = np.inf
    with pytest.raises(ValueError, match=r"encoder\.layer\.0"):
        model(inputs_embeds=embeds)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    "name",
    [
        "attention.self.query._input_quantizer",
        "attention.self.value._weight_quantizer",
        "attention.self.matmul_q_input_quantizer",
        "attention.self.matmul_a_input_quantizer",
        "attention.self.matmul_v_input_quantizer",
        "attention.output.add_residual_input_quantizer",
        "intermediate.dense._weight_quantizer",
        "output.dense._input_quantizer",
        "output.add_local_input_quantizer",
    ],
)
def test_a_range_that_is_not_finite_is_named_by_the_forward_that_would_use_it(
    name: str, value: float
) -> None:
    model = tiny_model.question_answering()
    expected = model([[1, 2, 3]]).start_logits
    full_name = f"bert.encoder.layer.1.{name}"
    with qdqbert.quantizers(model, {full_name: {"amax": value}}):
        with pytest.raises(ValueError, match=rf"{full_name}: amax is (nan|inf) at element 0, expected"):
            model([[1, 2, 3]])
        with qdqbert.quantizers(model, {full_name: "off"}):
            model([[1, 2, 3]])
    np.testing.assert_array_equal(model([[1, 2, 3]]).start_logits, expected)


def test_a_format_without_codes_is_named_by_the_forward_that_would_use_it() -> None:
    model = tiny_model.question_answering()
    name = "bert.encoder.layer.0.intermediate.dense._input_quantizer"
    qdqbert.quantizers(model, {name: {"num_bits": 1}})
    with pytest.raises(ValueError, match=rf"{name}: num_bits is 1, expected more"):
        model([[1, 2, 3]])
    qdqbert.quantizers(model, {name: {"unsigned": True, "amax": 1.0}})
    with pytest.raises(ValueError, match="Negative values"):  # one bit unsigned has a code
        model([[1, 2, 3]])


def test_loading_a_range_before_any_data_names_the_quantizer(model: Any) -> None:
    fresh = tiny_model.question_answering()
    quantizer = fresh.bert.encoder.layer[1].output.dense._input_quantizer
    with pytest.raises(StateError, match=r"bert\.encoder\.layer\.1\.output\.dense\._input_quantizer"):
        quantizer.load_calib_amax()


def test_the_padding_setting() -> None:
    model = tiny_model.question_answering()
    assert model.padding == model.bert.padding == "skip"
    model.padding = "compute"
    assert model.bert.padding == "compute"
    with pytest.raises(ValueError, match="'skip' or 'compute'"):
        model.padding = "both"


def test_an_array_of_the_standard_library_is_a_buffer(model: Any) -> None:
    ids = memoryview(array.array("q", [1, 2, 3])).cast("B").cast("q", (1, 3))
    np.testing.assert_array_equal(model(ids).start_logits, model([[1, 2, 3]]).start_logits)
