# SPDX-License-Identifier: Apache-2.0
"""Decoders: causal masks, caches, cross-attention.

Equal bits are asked for wherever a row of a product is computed from the same numbers: sums over keys run in
one order whatever came from a cache.  Only dynamic ranges differ by nature: they are of what a call computes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import qdqbert
import tiny_model
from qdqbert import QDQBertForMaskedLM, QDQBertLMHeadModel, QDQBertModel, ShapeError

CROSS = {"is_decoder": True, "add_cross_attention": True}
POSITIONS = ["absolute", "relative_key", "relative_key_query"]
LENGTH = 11


def ids_of(rows: int = 3, length: int = LENGTH, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(3, tiny_model.FIELDS["vocab_size"], (rows, length))


def states_of(rows: int = 3, length: int = 5, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, length, 24)).astype(np.float32)


def left_padded(rows: int = 3, length: int = LENGTH) -> np.ndarray:
    return (np.arange(length) >= 3 * np.arange(rows)[:, None]).astype(np.int64)


def make(kind: type[Any] = QDQBertLMHeadModel, *, calibrate: bool = False, **fields: Any) -> Any:
    model = kind(tiny_model.config(**{"is_decoder": True, **fields}), seed=3)
    if calibrate:
        states = {"encoder_hidden_states": states_of()} if fields.get("add_cross_attention") else {}
        qdqbert.calibrate(model, [{"input_ids": ids_of(seed=s), **states} for s in (7, 8)])
    else:
        qdqbert.quantizers(model, {"*": "off"})
    return model


@pytest.fixture(params=["float", "calibrated"], scope="module")
def calibrate(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "calibrated")


def in_chunks(model: Any, ids: np.ndarray, sizes: list[int], **inputs: Any) -> tuple[np.ndarray, Any]:
    mask = inputs.pop("attention_mask", np.ones_like(ids))
    logits, past, start = [], None, 0
    for size in sizes:
        out = model(
            ids[:, start : start + size],
            attention_mask=mask[:, : start + size],
            past_key_values=past,
            **inputs,
        )
        logits.append(out.logits)
        past, start = out.past_key_values, start + size
    return np.concatenate(logits, axis=1), past


# ---- causality ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("position_embedding_type", POSITIONS)
def test_a_token_does_not_see_those_after_it(calibrate: bool, position_embedding_type: str) -> None:
    model = make(calibrate=calibrate, position_embedding_type=position_embedding_type)
    ids = ids_of()
    changed = ids.copy()
    changed[:, 6:] = 5
    first, second = model(ids, output_attentions=True), model(changed)
    np.testing.assert_array_equal(first.logits[:, :6], second.logits[:, :6])
    assert not np.array_equal(first.logits[:, 6:], second.logits[:, 6:])
    for probabilities in first.attentions:
        assert (np.triu(probabilities, 1) == 0).all()


def test_the_configuration_at_the_time_of_the_call_decides() -> None:
    model = make()
    ids = ids_of()
    causal = model(ids)
    model.config.is_decoder = False
    both = model(ids)
    assert both.past_key_values is None
    assert not np.array_equal(causal.logits[:, 0], both.logits[:, 0])
    model.config.is_decoder = True
    np.testing.assert_array_equal(model(ids).logits, causal.logits)


def test_a_square_mask_says_all(calibrate: bool) -> None:
    model = make(calibrate=calibrate)
    ids = ids_of()
    square = np.tril(np.ones((LENGTH, LENGTH), int))[None].repeat(3, axis=0)
    np.testing.assert_array_equal(model(ids, attention_mask=square).logits, model(ids).logits)
    everything = model(ids, attention_mask=np.ones_like(square)).logits
    assert not np.array_equal(everything[:, 0], model(ids).logits[:, 0])


# ---- cache ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("position_embedding_type", POSITIONS)
@pytest.mark.parametrize(
    ("padding", "sizes"),
    [
        ("compute", [1] * LENGTH),
        ("compute", [3, 8]),
        ("skip", [7, 4]),  # with padding left out, the first chunk must hold a token of every row
        ("skip", [7, 1, 2, 1]),
    ],
)
def test_a_cache_changes_no_bit(
    calibrate: bool, padding: str, sizes: list[int], position_embedding_type: str
) -> None:
    model = make(calibrate=calibrate, position_embedding_type=position_embedding_type)
    model.padding = padding
    ids, mask = ids_of(), left_padded()
    kept = mask == 1
    full = model(ids, attention_mask=mask)
    logits, past = in_chunks(model, ids, sizes, attention_mask=mask)
    np.testing.assert_array_equal(logits[kept], full.logits[kept])
    for mine, whole in zip(past, full.past_key_values, strict=True):
        for one, other in zip(mine, whole, strict=True):
            np.testing.assert_array_equal(one.transpose(0, 2, 1, 3)[kept], other.transpose(0, 2, 1, 3)[kept])


def test_a_cache_has_the_originals_form() -> None:
    out = make()(ids_of())
    assert isinstance(out.past_key_values, tuple)
    assert len(out.past_key_values) == 2
    for keys, values in out.past_key_values:
        assert keys.shape == values.shape == (3, 3, LENGTH, 8)
        assert keys.dtype == values.dtype == np.float32
    crossed = make(**CROSS)(ids_of(), encoder_hidden_states=states_of())
    assert [each.shape[2] for each in crossed.past_key_values[0]] == [LENGTH, LENGTH, 5, 5]


@pytest.mark.parametrize("give", [list, lambda past: [[each.tolist() for each in layer] for layer in past]])
def test_a_cache_may_be_any_sequence_of_arrays(give: Any) -> None:
    model = make()
    ids = ids_of()
    past = model(ids[:, :4]).past_key_values
    expected = model(ids[:, 4:], past_key_values=past).logits
    np.testing.assert_array_equal(model(ids[:, 4:], past_key_values=give(past)).logits, expected)


def test_an_empty_cache_is_no_cache() -> None:
    model = make()
    empty = [(np.zeros((3, 3, 0, 8), np.float32),) * 2] * 2
    np.testing.assert_array_equal(model(ids_of(), past_key_values=empty).logits, model(ids_of()).logits)


def test_an_encoder_takes_keys_that_come_before_its_own() -> None:
    model = make(QDQBertModel, is_decoder=False)
    rng = np.random.default_rng(0)
    prefix = [tuple(rng.standard_normal((3, 3, 4, 8)).astype(np.float32) for _ in "kv") for _ in range(2)]
    with_prefix = model(ids_of(), past_key_values=prefix)
    assert with_prefix.past_key_values is None
    positions = np.arange(4, 4 + LENGTH)[None].repeat(3, axis=0)
    assert not np.array_equal(with_prefix[0], model(ids_of(), position_ids=positions)[0])


@pytest.mark.parametrize(
    ("past", "kind", "message"),
    [
        (np.zeros(3), TypeError, "past_key_values: expected a tuple of arrays .* in a tuple, got ndarray"),
        ("abc", TypeError, "past_key_values: expected .*, got str 'abc'"),
        (b"ab", TypeError, "past_key_values: expected .*, got bytes b'ab'"),
        (3, TypeError, "past_key_values: expected .*, got int 3"),
        (True, TypeError, "past_key_values: expected .*, got bool True"),
        ({}, TypeError, "past_key_values: expected .*, got dict"),
        (iter([]), TypeError, "past_key_values: expected .*, got list_iterator"),
        (["ab", "cd"], TypeError, r"past_key_values\[0\]: expected a tuple of arrays, got str 'ab'"),
        ([("a", "b")] * 2, TypeError, r"past_key_values\[0\]\[0\]: expected real numbers, got <U1"),
        ([np.zeros((3, 3, 2, 8))] * 2, TypeError, r"past_key_values\[0\]: .* tuple of arrays, got ndarray"),
        ([], ShapeError, "past_key_values: expected 2 layers, got 0"),
        ([[np.zeros((3, 3, 2, 8))] * 2], ShapeError, "past_key_values: expected 2 layers, got 1"),
        ([[np.zeros((3, 3, 2, 8))] * 2] * 3, ShapeError, "past_key_values: expected 2 layers, got 3"),
        ([[], []], ShapeError, "past_key_values: expected 2 arrays for each layer, or 4.* got 0"),
        ([[np.zeros((3, 3, 2, 8))] * 3] * 2, ShapeError, "expected 2 arrays for each layer, or 4.* got 3"),
        ([[np.zeros((3, 3, 8))] * 2] * 2, ShapeError, r"past_key_values\[0\]\[0\]: expected \(batch"),
        ([[None, None]] * 2, ShapeError, r"past_key_values\[0\]\[0\]: expected \(batch.* got None"),
        (
            [[np.zeros((3, 2, 2, 8))] * 2] * 2,
            ShapeError,
            r"past_key_values\[0\]\[0\]: expected .* = \(3, 3, 2, 8\), got \(3, 2, 2, 8\)",
        ),
        (
            [[np.zeros((2, 3, 2, 8))] * 2] * 2,
            ShapeError,
            r"past_key_values\[0\]\[0\]: expected .* = \(3, 3, 2, 8\), got \(2, 3, 2, 8\)",
        ),
        (
            [[np.zeros((3, 3, 2, 8))] * 2, [np.zeros((3, 3, 2, 8)), np.zeros((3, 3, 1, 8))]],
            ShapeError,
            r"past_key_values\[1\]\[1\]: expected .* = \(3, 3, 2, 8\), got \(3, 3, 1, 8\)",
        ),
        (
            [[np.zeros((3, 3, 25, 8))] * 2] * 2,
            ShapeError,
            "11 tokens .* after 25 in past_key_values.* 32 pos",
        ),
    ],
)
def test_caches_that_do_not_fit_are_refused(past: Any, kind: type[Exception], message: str) -> None:
    model = make()
    with pytest.raises(kind, match=message):
        model(ids_of(), past_key_values=past)


def test_a_mask_must_cover_the_cache() -> None:
    model = make()
    past = model(ids_of(length=4)).past_key_values
    with pytest.raises(ShapeError, match=r"attention_mask: expected .*\(3, 6\)"):
        model(ids_of(length=2), attention_mask=np.ones((3, 2), int), past_key_values=past)


def test_repeated_steps_allocate_nothing_once_the_room_is_there() -> None:
    model = make(calibrate=True)
    ids = ids_of(rows=1, length=32)
    for _ in range(2):
        in_chunks(model, ids, [8] + [1] * 24)
    before = model.device.memory_statistics()["allocations"]
    in_chunks(model, ids, [8] + [1] * 24)
    assert model.device.memory_statistics()["allocations"] == before


# ---- cross-attention ------------------------------------------------------------------------------------


@pytest.mark.parametrize("given_again", [True, False])
def test_cached_projections_of_an_encoder_change_no_bit(calibrate: bool, given_again: bool) -> None:
    model = make(calibrate=calibrate, **CROSS)
    ids, states, mask = ids_of(), states_of(), np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 1, 1, 1, 0]])
    full = model(ids, encoder_hidden_states=states, encoder_attention_mask=mask)
    first = model(ids[:, :4], encoder_hidden_states=states, encoder_attention_mask=mask)
    again = {"encoder_hidden_states": states} if given_again else {}
    second = model(ids[:, 4:], past_key_values=first.past_key_values, encoder_attention_mask=mask, **again)
    np.testing.assert_array_equal(np.concatenate([first.logits, second.logits], axis=1), full.logits)
    np.testing.assert_array_equal(second.past_key_values[1][3], full.past_key_values[1][3])


def test_an_encoder_that_comes_late_is_projected() -> None:
    # The original takes the last two arrays of a cache for the encoder's, also where there are only two.
    model = make(**CROSS)
    past = model(ids_of(length=4)).past_key_values
    assert len(past[0]) == 2
    out = model(
        ids_of(length=2), past_key_values=past, encoder_hidden_states=states_of(), output_attentions=True
    )
    assert out.cross_attentions[0].shape == (3, 3, 2, 5)
    # What it is projected to depends on nothing else, and a cache that has it gives the same bits.
    projected = [layer[2:] for layer in model(ids_of(), encoder_hidden_states=states_of()).past_key_values]
    for mine, other in zip(out.past_key_values, projected, strict=True):
        np.testing.assert_array_equal(mine[2:], other)
    whole = tuple(own + crossed for own, crossed in zip(past, projected, strict=True))
    again = model(ids_of(length=2), past_key_values=whole)
    assert again.logits.tobytes() == out.logits.tobytes()


def test_masked_encoder_states_have_no_influence(calibrate: bool) -> None:
    model = make(calibrate=calibrate, **CROSS)
    states, mask = states_of(), np.array([[1, 1, 1, 0, 0]] * 3)
    other = states.copy()
    other[:, 3:] = 0.5
    first = model(ids_of(), encoder_hidden_states=states, encoder_attention_mask=mask, output_attentions=True)
    second = model(ids_of(), encoder_hidden_states=other, encoder_attention_mask=mask)
    np.testing.assert_array_equal(first.logits, second.logits)
    assert all((each[..., 3:] == 0).all() for each in first.cross_attentions)
    square = np.repeat(mask[:, None], LENGTH, axis=1)
    third = model(ids_of(), encoder_hidden_states=states, encoder_attention_mask=square)
    np.testing.assert_array_equal(first.logits, third.logits)


@pytest.mark.parametrize("place", [2, 3])
def test_a_cached_encoder_of_another_length_is_refused_by_its_place(place: int) -> None:
    model = make(**CROSS)
    past = [list(layer) for layer in model(ids_of(), encoder_hidden_states=states_of()).past_key_values]
    past[1][place] = past[1][place][:, :, :4]
    message = rf"past_key_values\[1\]\[{place}\]: expected .* = \(3, 3, 5, 8\), got \(3, 3, 4, 8\)"
    with pytest.raises(ShapeError, match=message):
        model(ids_of(length=1), past_key_values=past)


@pytest.mark.parametrize("shape", [(1, 5), (3, 1), (1, LENGTH, 5), (3, 1, 5)])
def test_an_encoders_mask_broadcasts_as_it_does_over_scores(shape: tuple[int, ...]) -> None:
    model = make(**CROSS)
    some = np.ones(shape, int)
    if shape[-1] > 1:
        some[..., 3] = 0
    every = np.broadcast_to(some, (3, 5) if len(shape) == 2 else (3, LENGTH, 5))
    one, all_rows = (
        model(ids_of(), encoder_hidden_states=states_of(), encoder_attention_mask=mask).logits
        for mask in (some, every)
    )
    np.testing.assert_array_equal(one, all_rows)


def test_one_row_of_a_mask_counts_for_all_sequences_of_a_cache() -> None:
    model = make()
    past = model(ids_of(length=4)).past_key_values
    mask = np.array([[1, 1, 0, 1, 1, 1]])
    one, all_rows = (
        model(ids_of(length=2), attention_mask=each, past_key_values=past).logits
        for each in (mask, mask.repeat(3, axis=0))
    )
    np.testing.assert_array_equal(one, all_rows)


@pytest.mark.parametrize(
    ("inputs", "kind", "message"),
    [
        ({"encoder_attention_mask": np.ones((3, 5), int)}, ValueError, "there are no encoder_hidden_states"),
        ({"encoder_hidden_states": np.zeros((2, 5, 24))}, ShapeError, "encoder_hidden_states"),
        ({"encoder_hidden_states": np.zeros((3, 5, 23))}, ShapeError, "encoder_hidden_states"),
        ({"encoder_hidden_states": np.zeros((3, 24))}, ShapeError, "encoder_hidden_states"),
        (
            {"encoder_hidden_states": np.zeros((3, 5, 24)), "encoder_attention_mask": np.ones((3, 4), int)},
            ShapeError,
            "encoder_attention_mask",
        ),
        (
            {"encoder_hidden_states": np.zeros((3, 5, 24)), "encoder_attention_mask": np.full((3, 5), 2)},
            ValueError,
            "encoder_attention_mask",
        ),
        ({"encoder_hidden_states": [["a"]]}, TypeError, "encoder_hidden_states"),
    ],
)
def test_bad_encoder_inputs_are_refused_by_name(
    inputs: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        make(**CROSS)(ids_of(), **inputs)


def test_quantizers_of_cross_attention_calibrate_and_are_saved(tmp_path: Any) -> None:
    model = make(calibrate=True, **CROSS)
    names = [n for n, m in model.named_modules() if "crossattention" in n and hasattr(m, "amax")]
    assert len(names) == 2 * 14
    assert all(model.get_submodule(name).amax is not None for name in names)
    model.save_pretrained(tmp_path)
    again = QDQBertLMHeadModel.from_pretrained(tmp_path)
    inputs = {"input_ids": ids_of(), "encoder_hidden_states": states_of()}
    np.testing.assert_array_equal(again(**inputs).logits, model(**inputs).logits)


# ---- warnings -------------------------------------------------------------------------------------------


def test_models_against_their_nature_are_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    QDQBertLMHeadModel(tiny_model.config(is_decoder=True))
    QDQBertForMaskedLM(tiny_model.config())
    assert not caplog.records
    QDQBertLMHeadModel(tiny_model.config())
    assert "is_decoder=True for a causal model" in caplog.text
    caplog.clear()
    QDQBertForMaskedLM(tiny_model.config(is_decoder=True))
    assert "is_decoder=False for attention in both directions" in caplog.text
