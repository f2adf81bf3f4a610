# SPDX-License-Identifier: Apache-2.0
"""Session.forward of decoders: keys of earlier calls, encoders, results, references, wrong arguments."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from qdqbert import _core
from qdqbert.errors import ShapeError, StateError

V, H, L, N, P = 31, 12, 2, 3, 16
D = H // N
B, T, PAST, S = 2, 4, 3, 5
HEADS = (2, 3)  # the first layer is pruned

OPTIONS: dict[str, Any] = {
    "vocab_size": V,
    "hidden_size": H,
    "num_layers": L,
    "num_heads": N,
    "intermediate_size": 17,
    "max_positions": P,
    "type_vocab_size": 2,
    "num_labels": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
    "add_pooling_layer": True,
    "head": "language_model",
    "input_quantizer": {},
    "weight_quantizer": {"axis": (0,)},
    "add_cross_attention": True,
    "heads_of_layers": HEADS,
}
EVERYTHING = (
    _core.OUTPUT_LAST_HIDDEN_STATE
    | _core.OUTPUT_LOGITS
    | _core.OUTPUT_HIDDEN_STATES
    | _core.OUTPUT_ATTENTIONS
    | _core.OUTPUT_CROSS_ATTENTIONS
    | _core.OUTPUT_CACHE
)
NAMES = (
    "last_hidden_state",
    "pooler_output",
    "logits",
    "hidden_states",
    "attentions",
    "cross_attentions",
    "keys",
    "values",
    "cross_keys",
    "cross_values",
)
IDS = np.array([[1, 5, 7, 2], [1, 9, 2, 4]])


@pytest.fixture(scope="module")
def device() -> _core.Device:
    return _core.Device(num_threads=2)


def make_model(device: _core.Device, **changes: Any) -> _core.Model:
    model = _core.Model(device, **{**OPTIONS, **changes})
    rng = np.random.default_rng(0)
    for index, (_, view) in enumerate(model.parameters()):
        model.parameter_write(index)[...] = rng.standard_normal(view.shape) * 0.2
    for _, quantizer in model.quantizers():
        quantizer.stages = _core.STAGE_DISABLED
    return model


def make_session(model: _core.Model, max_past: int = 6, max_encoder_length: int = 7) -> _core.Session:
    return _core.Session(
        model,
        max_sequences=3,
        max_length=8,
        keep_probabilities=True,
        max_past=max_past,
        max_encoder_length=max_encoder_length,
    )


def forward(session: _core.Session, outputs: int = EVERYTHING, **inputs: Any) -> dict[str, Any]:
    names = ("inputs_embeds", "attention_mask", "token_type_ids", "position_ids", "head_mask")
    later = (
        "past_keys",
        "past_values",
        "encoder_hidden_states",
        "encoder_attention_mask",
        "cross_keys",
        "cross_values",
    )
    results = session.forward(
        inputs.get("input_ids", IDS),
        *(inputs.get(name) for name in names),
        inputs.get("compute_padding", False),
        inputs.get("is_causal", True),
        *(inputs.get(name) for name in later),
        outputs,
        inputs.get("logits_positions"),
    )
    return dict(zip(NAMES, results, strict=True))


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def past(length: int = PAST) -> tuple[np.ndarray, ...]:
    return tuple(random(B, heads, length, D) for heads in HEADS)


def encoder_keys(length: int = S) -> tuple[np.ndarray, ...]:
    return tuple(random(B, N, length, D) for _ in range(L))


def good_inputs() -> dict[str, Any]:
    """A call with everything: past, encoder, masks of both kinds."""
    return {
        "attention_mask": np.ones((B, PAST + T), np.int64),
        "token_type_ids": np.zeros((B, T), np.int64),
        "position_ids": np.arange(B * T).reshape(B, T),
        "past_keys": past(),
        "past_values": past(),
        "encoder_hidden_states": random(B, S, H),
        "encoder_attention_mask": np.ones((B, S), np.int64),
        "logits_positions": np.array([0, 5]),
    }


# ---- results ----------------------------------------------------------------------------------------


def test_results_have_the_shapes_of_each_layers_heads(device: _core.Device) -> None:
    got = forward(make_session(make_model(device)), **{**good_inputs(), "logits_positions": None})
    assert got["last_hidden_state"].shape == (B, T, H)
    assert got["pooler_output"] is None
    assert got["logits"].shape == (B, T, V)
    assert [a.shape for a in got["hidden_states"]] == [(B, T, H)] * (L + 1)
    assert [a.shape for a in got["attentions"]] == [(B, n, T, PAST + T) for n in HEADS]
    assert [a.shape for a in got["cross_attentions"]] == [(B, N, T, S)] * L
    assert [a.shape for a in got["keys"]] == [(B, n, PAST + T, D) for n in HEADS]
    assert [a.shape for a in got["values"]] == [(B, n, PAST + T, D) for n in HEADS]
    assert [a.shape for a in got["cross_keys"]] == [(B, N, S, D)] * L
    assert [a.shape for a in got["cross_values"]] == [(B, N, S, D)] * L
    for name in NAMES[3:]:
        assert type(got[name]) is tuple
        assert all(a.dtype == np.float32 and a.flags.c_contiguous and a.flags.writeable for a in got[name])


def test_only_what_was_asked_for_comes_back(device: _core.Device) -> None:
    session = make_session(make_model(device))
    for bit in range(7):
        got = forward(session, 1 << bit, **good_inputs()) if bit != 1 else {}
        wanted = set(NAMES[6:]) if bit == 6 else {NAMES[bit]} if got else set()
        assert {name for name, value in got.items() if value is not None} == wanted
    assert set(forward(session, 0).values()) == {None}


def test_without_an_encoder_nothing_of_one_comes_back(device: _core.Device) -> None:
    got = forward(make_session(make_model(device)))
    assert {name for name in NAMES if got[name] is None} == {
        "pooler_output",
        "cross_attentions",
        "cross_keys",
        "cross_values",
    }


def test_given_encoder_keys_do_not_come_back_and_give_the_bits_of_projected_ones(
    device: _core.Device,
) -> None:
    session = make_session(make_model(device))
    first = forward(session, **good_inputs())
    inputs = good_inputs()
    inputs.update(cross_keys=first["cross_keys"], cross_values=first["cross_values"])
    for states in (inputs["encoder_hidden_states"], None):  # given or not, they are not projected
        inputs["encoder_hidden_states"] = states
        second = forward(session, **inputs)
        assert second["cross_keys"] is None
        assert second["cross_values"] is None
        np.testing.assert_array_equal(second["last_hidden_state"], first["last_hidden_state"])


def test_keys_go_around_as_they_came(device: _core.Device) -> None:
    session = make_session(make_model(device))
    whole = forward(session)
    start = forward(session, input_ids=np.ascontiguousarray(IDS[:, :3]))
    rest = forward(
        session,
        input_ids=np.ascontiguousarray(IDS[:, 3:]),
        past_keys=start["keys"],
        past_values=list(start["values"]),
    )
    np.testing.assert_array_equal(rest["last_hidden_state"], whole["last_hidden_state"][:, 3:])
    for name in ("keys", "values"):
        for got, expected in zip(rest[name], whole[name], strict=True):
            np.testing.assert_array_equal(got, expected)


def test_layers_may_come_in_any_iterable_and_any_exporter(device: _core.Device) -> None:
    session = make_session(make_model(device, heads_of_layers=None))
    array = random(L, B, N, PAST, D)  # an array is a sequence of its first axis
    expected = forward(session, past_keys=tuple(array), past_values=tuple(array))["logits"]
    for given in (array, list(array), (memoryview(a) for a in array)):
        got = forward(session, past_keys=given, past_values=tuple(array))["logits"]
        np.testing.assert_array_equal(got, expected)


def test_untied_models_have_a_table_of_their_own(device: _core.Device) -> None:
    tied = {name for name, _ in make_model(device).parameters()}
    untied = {name for name, _ in make_model(device, tie_word_embeddings=False).parameters()}
    assert untied - tied == {"cls.predictions.decoder.weight"}
    assert tied <= untied


# ---- wrong arguments --------------------------------------------------------------------------------


def changed(**changes: Any) -> dict[str, Any]:
    return {**good_inputs(), **changes}


SHAPES: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"past_keys": past()[:1]}, ShapeError, "past_keys: expected one array for each of 2 layers, got 1"),
    ({"past_values": ()}, ShapeError, "past_values: expected one array for each of 2 layers, got 0"),
    ({"past_values": None}, ValueError, "past_keys, past_values: expected both or none"),
    ({"past_keys": None}, ValueError, "past_keys, past_values: expected both or none"),
    ({"past_keys": 3}, TypeError, "past_keys: expected a sequence of arrays, got int"),
    (
        {"past_keys": (None, None)},
        TypeError,
        "past_keys: expected a C-contiguous buffer of float32, got NoneType",
    ),
    (
        {"past_keys": tuple(a.astype(float) for a in past())},
        TypeError,
        "past_keys: expected float32, got buffer format 'd'",
    ),
    (
        {"past_keys": tuple(a.transpose(0, 2, 1, 3) for a in past())},
        TypeError,
        "past_keys: expected a C-contiguous buffer of float32",
    ),
    (
        {"past_keys": encoder_keys(PAST)},
        ShapeError,
        r"past_keys: expected \(batch, heads, keys, head size\) = \(2, 2, 3, 4\), got \(2, 3, 3, 4\)",
    ),
    (
        {"past_values": past(2)},
        ShapeError,
        r"past_values: expected .* = \(2, 2, 3, 4\), got \(2, 2, 2, 4\)",
    ),
    (
        {"past_keys": (past(3)[0], past(2)[1])},
        ShapeError,
        r"past_keys: expected .* = \(2, 3, 3, 4\), got \(2, 3, 2, 4\)",
    ),
    (
        {"past_keys": past(0), "past_values": past(0)},
        ShapeError,
        r"past_keys: expected .* = \(2, 2, 1, 4\), got \(2, 2, 0, 4\)",
    ),
    ({"past_keys": (random(3), random(3))}, ShapeError, r"past_keys: expected .*, got \(3,\)"),
    (
        {"attention_mask": np.ones((B, T), np.int64)},
        ShapeError,
        r"attention_mask: expected \(batch, past \+ length\) = \(2, 7\) or \(2, 4, 7\), got \(2, 4\)",
    ),
    (
        {"attention_mask": np.ones((B, 1, PAST + T), np.int64)},
        ShapeError,
        r"attention_mask: expected .* or \(2, 4, 7\), got \(2, 1, 7\)",
    ),
    (
        {"position_ids": np.zeros((B, PAST + T), np.int64)},
        ShapeError,
        r"position_ids: expected \(batch, length\) = \(2, 4\), got \(2, 7\)",
    ),
    (
        {"encoder_hidden_states": random(B, S, H + 1)},
        ShapeError,
        r"encoder_hidden_states: expected \(2, encoder length, 12\), got \(2, 5, 13\)",
    ),
    (
        {"encoder_hidden_states": random(B + 1, S, H)},
        ShapeError,
        r"encoder_hidden_states: expected \(2, encoder length, 12\), got \(3, 5, 12\)",
    ),
    (
        {"encoder_hidden_states": random(B, 0, H)},
        ShapeError,
        r"encoder_hidden_states: expected \(2, encoder length, 12\), got \(2, 0, 12\)",
    ),
    (
        {"encoder_attention_mask": np.ones((B, S + 1), np.int64)},
        ShapeError,
        r"encoder_attention_mask: expected \(batch, encoder length\) = \(2, 5\) or \(2, 4, 5\), got \(2, 6\)",
    ),
    (
        {"encoder_hidden_states": None},
        ValueError,
        "encoder_attention_mask: given without encoder states",
    ),
    ({"cross_keys": encoder_keys()}, ValueError, "cross_keys, cross_values: expected both or none"),
    (
        {"cross_keys": past(S), "cross_values": encoder_keys()},
        ShapeError,
        r"cross_keys: expected .* = \(2, 3, 5, 4\), got \(2, 2, 5, 4\)",
    ),
    (
        {"cross_keys": encoder_keys(4), "cross_values": encoder_keys(4)},
        ShapeError,
        r"encoder_hidden_states: expected \(2, 4, 12\), as long as cross_keys, got \(2, 5, 12\)",
    ),
    (
        {"head_mask": np.ones((L, N), np.float32)},
        ShapeError,
        "head_mask: expected one factor for each head .* 5",
    ),
    ({"logits_positions": np.array([8])}, IndexError, r"logits_positions\[0\] is 8"),
    (
        {"past_keys": past(7), "past_values": past(7), "attention_mask": None},
        ShapeError,
        "past_length is 7, expected 0 .. max_past 6",
    ),
    (
        {"encoder_hidden_states": random(B, 8, H), "encoder_attention_mask": None},
        ShapeError,
        "encoder_length is 8, expected 0 .. max_encoder_length 7",
    ),
    (
        {"encoder_attention_mask": np.zeros((B, S), np.int64)},
        ValueError,
        r"encoder_attention_mask\[0\] is all zero: the sequence has nothing to look at",
    ),
    (
        {"attention_mask": np.ones((B, T, PAST + T), np.int64)},
        ValueError,
        "attention_mask has rank 3, which needs padding that is computed",
    ),
    (
        {"head_mask": np.ones(sum(HEADS), np.float32)},
        ValueError,
        "head_mask was given with encoder states, but heads of layer 0 are pruned",
    ),
]


@pytest.mark.parametrize(
    ("changes", "kind", "message"), SHAPES, ids=[f"{i}-{s[2][:32]}" for i, s in enumerate(SHAPES)]
)
def test_what_does_not_fit_is_named_and_the_session_goes_on(
    changes: dict[str, Any], kind: type[Exception], message: str, device: _core.Device
) -> None:
    session = make_session(make_model(device))
    expected = forward(session, **good_inputs())["logits"]
    with pytest.raises(kind, match=message):
        forward(session, **changed(**changes))
    np.testing.assert_array_equal(forward(session, **good_inputs())["logits"], expected)


@pytest.mark.parametrize("outputs", [128, EVERYTHING | 1 << 20, 2**63])
def test_unknown_outputs_are_refused(outputs: int, device: _core.Device) -> None:
    with pytest.raises(ValueError, match=rf"outputs: {outputs} is not a sum of OUTPUT_\* constants"):
        forward(make_session(make_model(device)), outputs)


def test_a_model_without_cross_attention_refuses_an_encoder(device: _core.Device) -> None:
    model = make_model(device, add_cross_attention=False)
    with pytest.raises(ValueError, match="made without cross-attention"):
        make_session(model)
    with pytest.raises(
        ValueError, match="encoder_length is 5, but the model was made without cross-attention"
    ):
        forward(make_session(model, max_encoder_length=0), **good_inputs())


@pytest.mark.parametrize(
    ("heads", "kind", "message"),
    [
        ((3,), ValueError, "heads_of_layers: expected one number for each of 2 layers, got 1"),
        ((3, 4), ValueError, r"heads_of_layers\[1\] is 4, expected 1 .. num_heads 3"),
        ((0, 3), ValueError, r"heads_of_layers\[0\] is 0"),
        (3, TypeError, "heads_of_layers: expected a sequence of integers, got int"),
        (("a", "b"), TypeError, "integer"),
        ((2.0, 3.0), TypeError, "integer"),
        ((2**70, 1), OverflowError, "int too big"),
    ],
)
def test_heads_that_cannot_be_are_refused(
    heads: Any, kind: type[Exception], message: str, device: _core.Device
) -> None:
    with pytest.raises(kind, match=message):
        make_model(device, heads_of_layers=heads)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"position_embedding_type": "rotary"}, 'position_embedding_type is "rotary", expected absolute'),
        ({"head": "pretraining"}, 'head is "pretraining", expected one of none'),
    ],
)
def test_unknown_names_are_refused(changes: dict[str, Any], message: str, device: _core.Device) -> None:
    with pytest.raises(ValueError, match=message):
        make_model(device, **changes)


# ---- other people's code ----------------------------------------------------------------------------


def test_an_exception_of_the_callers_iterator_passes(device: _core.Device) -> None:
    def broken() -> Iterator[np.ndarray]:
        yield past()[0]
        raise KeyError("mine")

    session = make_session(make_model(device))
    with pytest.raises(KeyError, match="mine"):
        forward(session, past_keys=broken(), past_values=past())


def test_a_list_that_changes_while_its_numbers_are_read_is_read_as_it_was(device: _core.Device) -> None:
    heads: list[Any] = []

    class Clearing:
        def __index__(self) -> int:
            heads.clear()
            return 2

    heads.extend([Clearing(), 3])
    model = make_model(device, heads_of_layers=heads)
    assert not heads
    shapes = [
        view.shape[0] for name, view in model.parameters() if name.endswith(".attention.self.query.weight")
    ]
    assert shapes == [2 * D, N * D]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python code can export buffers from 3.12 on")
def test_a_list_that_changes_while_its_buffers_are_borrowed_is_read_as_it_was(device: _core.Device) -> None:
    keys: list[Any] = []

    class Clearing:
        def __buffer__(self, flags: int) -> memoryview:
            keys.clear()
            return memoryview(past()[0])

    keys.extend([Clearing(), past()[1]])
    session = make_session(make_model(device))
    got = forward(session, past_keys=keys, past_values=past())["logits"]
    assert not keys
    np.testing.assert_array_equal(got, forward(session, past_keys=past(), past_values=past())["logits"])


# ---- references -------------------------------------------------------------------------------------


def calls(device: _core.Device) -> dict[str, Callable[[], Any]]:
    """Good and bad calls; the bad ones fail in every stage of an argument's life."""
    session = make_session(make_model(device))
    good = good_inputs()
    cross = {"encoder_hidden_states": None, "cross_keys": encoder_keys(), "cross_values": encoder_keys()}
    return {
        "everything": lambda: forward(session, **good),
        "cross keys": lambda: forward(session, **{**good, **cross}),
        "nothing": lambda: forward(session, 0),
        "lists": lambda: forward(session, **{**good, "past_keys": list(good["past_keys"])}),
        "few layers": lambda: forward(session, **{**good, "past_keys": good["past_keys"][:1]}),
        "second layer": lambda: forward(session, **{**good, "past_keys": (good["past_keys"][0], 3)}),
        "no sequence": lambda: forward(session, **{**good, "past_values": 3}),
        "shape": lambda: forward(session, **{**good, "past_values": encoder_keys(PAST)}),
        "last argument": lambda: forward(session, **{**good, "logits_positions": 3}),
        "outputs": lambda: forward(session, 1 << 9, **good),
        "no pooler": lambda: forward(session, _core.OUTPUT_POOLER_OUTPUT | EVERYTHING, **good),
        "core": lambda: forward(session, **{**good, "encoder_attention_mask": np.zeros((B, S), np.int64)}),
        "model heads": lambda: _core.Model(device, **OPTIONS),
        "model bad heads": lambda: _core.Model(device, **{**OPTIONS, "heads_of_layers": (2, "a")}),
        "model other heads": lambda: _core.Model(device, **{**OPTIONS, "heads_of_layers": (2, 9)}),
    }


@pytest.mark.parametrize("name", sorted(calls(_core.Device("ref", 1))))
def test_a_thousand_calls_leave_no_reference(name: str, device: _core.Device) -> None:
    call = calls(device)[name]

    def run() -> None:
        with contextlib.suppress(TypeError, ValueError, IndexError, StateError):
            call()

    def references() -> int:
        gc.collect()
        held = gc.get_objects()
        return len(held) + sum(sys.getrefcount(item) for item in (None, True, False, IDS, np.float32))

    run()
    before, blocks = references(), device.memory_statistics()["live_blocks"]
    allocated = sys.getallocatedblocks()  # what the collector does not know: arrays
    for _ in range(1000):
        run()
    assert abs(references() - before) < 20
    assert sys.getallocatedblocks() - allocated < 100
    assert device.memory_statistics()["live_blocks"] == blocks


def test_borrowed_arrays_are_given_back_after_good_and_bad_calls(device: _core.Device) -> None:
    session = make_session(make_model(device))
    for wrong in (False, True):
        raw = [[bytearray(a.tobytes()) for a in past()] for _ in range(2)]
        views = [
            [memoryview(r).cast("f", shape=(B, n, PAST, D)) for r, n in zip(rs, HEADS, strict=True)]
            for rs in raw
        ]
        inputs = changed(past_keys=views[0], past_values=views[1])
        if wrong:
            inputs["position_ids"] = np.full((B, T), P)
        with contextlib.suppress(IndexError):
            forward(session, **inputs)
        for view in [*views[0], *views[1]]:
            view.release()
        for array in [*raw[0], *raw[1]]:
            array.extend(b"more")  # refused while a buffer is exported
