# SPDX-License-Identifier: Apache-2.0
"""Whatever objects a call is given, it returns or raises a sentence; what it was called on is as before."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
import traceback
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hostile_checkpoints import FIELDS

import qdqbert
import tiny_model
from qdqbert import _core, nn, tensor_quant
from qdqbert.errors import Error

CALLS = int(os.environ.get("QDQBERT_FUZZ", "4000"))
SENTENCES = (Error, TypeError, ValueError, IndexError, OverflowError, MemoryError)


class Interface:
    """An object that lies through ``__array_interface__``-like protocols, or raises in them."""

    def __init__(self, result: Any) -> None:
        self.result = result

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


class Subclass(np.ndarray[Any, Any]):
    pass


def read_only(array: Any) -> Any:
    array.flags.writeable = False
    return array


def objects() -> list[Any]:
    """Things that are, look like, or are far from being the arrays that calls expect."""
    ids = np.array([[1, 2, 3], [4, 5, 6]])
    floats = np.linspace(-2, 2, 24, dtype=np.float32).reshape(2, 3, 4)
    big = np.lib.stride_tricks.as_strided(np.ones(1, np.float32), (2**20, 2**20), (0, 0))
    dtypes = "?bBhHiIlLqQefdgFDGSUVOMm"
    return [
        None,
        True,
        0,
        -1,
        3,
        2**31,
        2**63,
        -(2**63) - 1,
        10**30,
        0.5,
        float("nan"),
        float("inf"),
        1 + 2j,
        "x",
        "",
        b"x",
        bytearray(8),
        object(),
        [],
        [[]],
        {},
        (),
        range(3),
        slice(3),
        int,
        Ellipsis,
        [1, [2]],
        [None],
        [[1, 2], [3]],
        ids,
        ids.tolist(),
        ids.astype(">i8"),
        ids.astype(np.int32),
        ids[:, ::-1],
        ids.T,
        np.asfortranarray(ids),
        read_only(ids.copy()),
        ids.view(Subclass),
        np.ma.masked_equal(ids, 2),
        memoryview(ids),
        memoryview(b"12345678"),
        ids[:0],
        ids[:, :0],
        ids.reshape(2, 3, 1),
        ids[0],
        ids[0, 0],
        np.array(3),
        -ids,
        ids * 10**15,
        ids.astype(np.uint64) << np.uint64(61),
        np.ones((2, 3), np.int64),
        np.zeros((2, 3), np.int64),
        np.array([[1, 1, 0], [1, 0, 0]]),
        np.array([[0, 1, 1], [1, 0, 1]]),
        np.full((2, 3), 2),
        np.ones((2, 3, 3), int),
        np.zeros((2, 3, 3), int),
        np.ones((2, 3), bool),
        np.ones((7, 6), int),
        np.ones((1, 7), int),
        np.ones((300, 1), int),
        floats,
        floats[..., ::-1],
        floats.astype(">f4"),
        floats.astype(np.float64) * 1e300,
        floats.astype(np.float16),
        floats * np.nan,
        floats * np.inf,
        floats * np.float32(1e-45),
        floats[0],
        floats[:, :, :3],
        floats[:0],
        np.float32(2.5),
        np.array(2.5, np.float32),
        np.array([2.5], np.float32),
        np.ones(4, np.float32),
        np.ones((4, 1), np.float32),
        -np.ones((4, 4), np.float32),
        np.zeros((3, 0, 5), np.float32),
        np.ones((1,) * 9, np.float32),
        np.ones((1,) * 40, np.float32),
        big,
        big.view(np.int32),
        np.frombuffer(b"\x00" * 25, np.uint8)[1:].view(np.float32),
        np.array([object()]),
        np.array(["a"]),
        np.zeros(3, [("a", "f4")]),
        np.datetime64("2020-01-01"),
        ctypes.c_float(3.0),
        (ctypes.c_float * 4)(),
        (ctypes.c_int64 * 6)(),
        Interface(ids),
        Interface(ids.tolist()),
        Interface(ValueError("no")),
        Interface(None),
        *(np.zeros((2, 3), dtype) for dtype in dtypes),
    ]


INTEGERS = (0, 1, 2, 3, 8, 16, 17, 31, -1, 2**31 - 1, 2**31, 2**40, 2**63, True, None, 1.5, "8", [8], (4, 3))


class Caller:
    """A model and the ways to call it and what it is made of."""

    def __init__(self) -> None:
        self.model = tiny_model.question_answering(**FIELDS)
        self.classifier = qdqbert.QDQBertForSequenceClassification(tiny_model.config(**FIELDS), seed=0)
        qdqbert.calibrate(self.model, [{"input_ids": np.array([[1, 2, 3]])}], method="max", progress=False)
        self.generator = np.random.default_rng(int(os.environ.get("QDQBERT_FUZZ_SEED", "23")))
        self.objects = objects()
        self.batch = np.array([[1, 2, 3], [4, 5, 6]])

    def any(self) -> Any:
        return self.objects[int(self.generator.integers(len(self.objects)))]

    def integer(self) -> Any:
        return INTEGERS[int(self.generator.integers(len(INTEGERS)))]

    def sometimes(self, usual: Any) -> Any:
        return self.any() if self.generator.integers(3) else usual

    def ways(self) -> list[Callable[[], Any]]:
        some, device = self.sometimes, self.model.device
        x = np.linspace(-3, 3, 12, dtype=np.float32).reshape(3, 4)
        one, counts, edges = np.array(2.0, np.float32), np.arange(8), np.arange(9, dtype=np.float32)
        forward_names = (
            "attention_mask",
            "token_type_ids",
            "position_ids",
            "head_mask",
            "output_attentions",
            "return_dict",
        )
        session = _core.Session(
            self.model._engine.core, max_sequences=3, max_length=6, keep_probabilities=True
        )
        options = {
            "num_bits",
            "unsigned",
            "narrow_range",
            "fake_quant",
            "axis",
            "learn_amax",
            "scale_amax",
            "stages",
            "x",
        }

        def quantizer() -> Any:
            return nn.TensorQuantizer(
                tensor_quant.QuantDescriptor(num_bits=8, axis=(0,) if self.generator.integers(2) else None)
            )

        def core_quantizer() -> Any:
            return _core.Quantizer(
                device, {key: self.integer() for key in options if not self.generator.integers(4)}
            )

        def observer() -> Any:
            keywords = {"axis": None, "num_bins": 16, "track_amax": bool(self.generator.integers(2))}
            if not self.generator.integers(3):
                keywords[
                    ("axis", "num_bins", "rule", "fixed_max", "skip_zeros")[int(self.generator.integers(5))]
                ] = some(4)
            made = _core.Observer(device, ("max", "histogram")[int(self.generator.integers(2))], **keywords)
            made.collect(some(x))
            made.collect(some(x * 3))
            return made

        def quantized() -> Any:
            made = quantizer()
            made.amax = some(1.0)
            return made(some(x))

        def run() -> Any:
            values = [some(None) for _ in range(6)]
            return session.forward(
                some(self.batch),
                *values[1:6],
                bool(self.generator.integers(2)),
                int(self.generator.integers(64)),
            )

        def histogram() -> Any:
            made = _core.Observer(device, "histogram", num_bins=8)
            made.set_histogram(some(counts), some(edges))
            made.set_amax(some(one))
            made.collect(some(x))
            return made.histogram()

        return [
            lambda: self.model(
                some(self.batch),
                **{name: some(None) for name in forward_names if not self.generator.integers(3)},
            ),
            lambda: self.model(inputs_embeds=some(np.ones((2, 3, 4), np.float32)), attention_mask=some(None)),
            lambda: self.model(self.batch, start_positions=some([0, 1]), end_positions=some([1, 2])),
            lambda: self.classifier(self.batch, labels=some([0, 1])),
            run,
            quantized,
            lambda: core_quantizer().forward(some(x)),
            lambda: core_quantizer().set_amax(some(one)),
            lambda: core_quantizer().set_clip(some(-1.0), some(1.0)),
            lambda: core_quantizer().set_pre_quant_scale(some(one)),
            observer,
            lambda: observer().merge(observer()),
            histogram,
            lambda: self.model.load_state_dict({"qa_outputs.bias": self.any()}, strict=False),
            lambda: nn.QuantLinear(some(4), some(3))(some(x)),
            lambda: tensor_quant.fake_tensor_quant(
                some(x), some(one), self.integer(), self.integer(), self.integer()
            ),
            lambda: tensor_quant.tensor_quant(
                some(x), some(one), self.integer(), self.integer(), self.integer()
            ),
            lambda: tensor_quant.fake_affine_tensor_quant(some(x), some(-1.0), some(1.0), self.integer()),
            lambda: _core.reduce_amax(device, some(x), some((0,))),
            lambda: _core.clip(device, some(x), some(-one), some(one)),
            lambda: _core.clip_grad(device, some(x), some(-one), some(one), some(x)),
            lambda: _core.tensor_quant_grad(device, some(x), some(one), some(x)),
            lambda: _core.scaled_e4m3(device, some(x), some(one)),
            lambda: _core.fake_affine(device, some(x), some(-1.0), some(1.0), self.integer()),
            lambda: _core.cross_entropy(device, some(x), some(np.array([0, 1, 2])), some(-100), some(0.1)),
            lambda: _core.cross_entropy_grad(
                device, some(x), some(np.array([0, 1, 2])), some(-100), some(0.1), some(1.0)
            ),
            lambda: _core.kl_divergence(device, some(x), some(x), some(None), some(-100), some(2.0)),
            lambda: _core.kl_divergence_grad(
                device, some(x), some(x), some(None), some(-100), some(2.0), some(1.0)
            ),
            lambda: _core.mean_squared_error_grad(some(x), some(x), some(1.0)),
            lambda: _core.binary_cross_entropy_grad(some(x), some(x), some(1.0)),
            lambda: _core.mean_squared_error(some(x), some(x)),
            lambda: _core.binary_cross_entropy(some(x), some(x)),
            lambda: _core.amax_percentile(some(counts), some(edges), some(99.0)),
            lambda: _core.amax_mse(
                device, some(counts), some(edges), self.integer(), some(False), self.integer(), self.integer()
            ),
            lambda: _core.amax_entropy(
                device, some(counts), some(edges), self.integer(), some(False), self.integer(), self.integer()
            ),
            lambda: _core.quant_linear(
                device, core_quantizer(), core_quantizer(), some(x), some(x), some(None)
            ),
            lambda: _core.Session(
                self.model._engine.core, max_sequences=some(1), max_length=some(2), max_tokens=some(0)
            ),
            lambda: _core.Device(some("ref"), some(1)),
            lambda: _core.Device("ref").__setattr__("num_threads", some(1)),
        ]


def test_hostile_arguments_are_refused_by_a_sentence() -> None:
    caller = Caller()
    before = {name: value.copy() for name, value in caller.model.state_dict().items()}
    expected = caller.model(caller.batch).start_logits.copy()
    ways = caller.ways()
    defects, refused = [], 0
    with np.errstate(all="ignore"):
        for index in range(CALLS):
            try:
                ways[index % len(ways)]()
            except SENTENCES as error:
                refused += 1
                if not str(error):
                    defects.append(f"way {index % len(ways)}: {type(error).__name__} without a sentence")
            except BaseException as error:
                place = traceback.extract_tb(error.__traceback__)[-1]
                defects.append(f"way {index % len(ways)}: {error!r:.120} at {place.filename}:{place.lineno}")
    assert not defects, f"{len(defects)} defects\n" + "\n".join(sorted(set(defects))[:40])
    assert refused > CALLS // 3
    caller.model.load_state_dict(before)
    assert caller.model(caller.batch).start_logits.tobytes() == expected.tobytes()


# ---- other threads ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("argument", ["input_ids", "token_type_ids", "position_ids", "attention_mask"])
def test_arrays_that_another_thread_changes_lead_nowhere(argument: str) -> None:
    """The check of an id and its use must see one value."""
    model = tiny_model.question_answering(max_position_embeddings=512)
    arrays = {
        "input_ids": np.ones((16, 512), np.int64),
        "token_type_ids": np.zeros((16, 512), np.int64),
        "position_ids": np.zeros((16, 512), np.int64),
        "attention_mask": np.ones((16, 512), np.int64),
    }
    target, sound = arrays[argument], arrays[argument].copy()
    hostile = 0 if argument == "attention_mask" else 2**33
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            target[:, 1:] = hostile
            np.copyto(target, sound)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(60):
            try:
                model(**arrays)
            except (IndexError, ValueError) as error:
                assert argument in str(error)  # noqa: PT017
    finally:
        stop.set()
        thread.join()
    np.copyto(target, sound)
    assert np.isfinite(model(**arrays).start_logits).all()


def test_settings_changed_during_forwards_are_refused_or_take_effect_between_them() -> None:
    model = tiny_model.question_answering()
    batch = tiny_model.batch(rows=4, length=31)
    qdqbert.calibrate(model, [batch], method="max", progress=False)
    expected = model(**batch).start_logits.tobytes()
    quantizers = [module for _, module in model.named_modules() if isinstance(module, nn.TensorQuantizer)]
    amax = [quantizer.amax for quantizer in quantizers]
    defects: list[BaseException] = []
    stop = threading.Event()

    def toggle() -> None:
        while not stop.is_set():
            for threads, quantizer in enumerate(quantizers[:12]):
                for change in (
                    quantizer.disable_quant,
                    quantizer.enable_quant,
                    quantizer.disable,
                    quantizer.enable,
                    lambda: qdqbert.set_num_threads(1 + threads % 2),  # noqa: B023
                    lambda: setattr(quantizer, "amax", 1.0),  # noqa: B023
                    model.state_dict,
                ):
                    try:
                        change()
                    except (Error, ValueError):
                        continue
                    except BaseException as error:
                        defects.append(error)

    def forward() -> None:
        while not stop.is_set():
            try:
                model(**batch)
            except Error:
                continue
            except BaseException as error:
                defects.append(error)

    threads = [threading.Thread(target=target) for target in (toggle, forward, forward)]
    for thread in threads:
        thread.start()
    for _ in range(40):
        try:
            model(**batch)
        except Error:
            continue
    stop.set()
    for thread in threads:
        thread.join()
    assert not defects, repr(defects[:3])
    for quantizer, value in zip(quantizers, amax, strict=True):
        quantizer.enable()
        quantizer.enable_quant()
        quantizer.amax = value
    assert model(**batch).start_logits.tobytes() == expected


# ---- lifetimes --------------------------------------------------------------------------------------------


def test_views_sessions_and_quantizers_outlive_their_model() -> None:
    model = tiny_model.question_answering()
    views = dict(model.named_parameters())
    values = {name: value.copy() for name, value in views.items()}
    core = model._engine.core
    session = _core.Session(core, max_sequences=2, max_length=5, keep_probabilities=True)
    quantizers = core.quantizers()
    target = core.parameter_write(0)
    gone = weakref.ref(model)
    del model, core
    gc.collect()
    assert gone() is None
    for name, value in views.items():
        assert value.tobytes() == values[name].tobytes()
    target[:] = 0.5
    assert (
        session.forward(np.array([[1, 2]]), *[None] * 5, False, False, *[None] * 6, _core.OUTPUT_LOGITS)[2]
        is not None
    )
    for _, quantizer in quantizers:
        quantizer.set_amax(np.array(1.0, np.float32))
    del session
    gc.collect()
    quantizers[0][1].forward(np.ones(3, np.float32))


def test_a_model_dropped_during_its_forward_lives_until_the_end() -> None:
    batch = tiny_model.batch(rows=8, length=31)
    results: list[Any] = []
    for _ in range(20):
        box = [tiny_model.question_answering()]
        thread = threading.Thread(target=lambda call=box[0].__call__: results.append(call(**batch)))
        thread.start()
        box.clear()
        gc.collect()
        thread.join()
        del thread
    assert len({result.start_logits.tobytes() for result in results}) == 1
