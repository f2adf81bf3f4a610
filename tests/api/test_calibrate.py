# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qdqbert
import tiny_model
from qdqbert import Calibration, CheckpointError, StateError
from qdqbert.rules import QuantizerState, named_quantizers

METHODS = ("max", "percentile", "mse", "entropy")


def batches(count: int = 5, rows: int = 4) -> list[dict[str, np.ndarray]]:
    return [tiny_model.batch(rows=rows, seed=seed) for seed in range(count)]


def states(model: Any) -> dict[str, QuantizerState]:
    return {name: QuantizerState.of(quantizer) for name, quantizer in named_quantizers(model)}


def ranges(model: Any) -> dict[str, np.ndarray]:
    return {name: np.array(q.amax) for name, q in named_quantizers(model)}


def assert_same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)


@pytest.mark.parametrize("method", METHODS)
def test_every_quantizer_gets_a_range_and_quantizes(method: str) -> None:
    model = tiny_model.question_answering()
    calibration = qdqbert.calibrate(model, batches(), method=method)
    assert calibration.batches_done == 5
    for name, state in states(model).items():
        assert state.state == "on", name
        assert state.amax is not None, name
        assert (state.amax > 0).all(), name
    assert {path for _, path, _ in model.execution_sites() if path != "float"} == {"integer"}


@pytest.mark.parametrize("method", METHODS)
def test_one_pass_serves_every_method(method: str) -> None:
    model = tiny_model.question_answering()
    calibration = qdqbert.calibrate(model, batches(), method="percentile")
    calibration.apply(method)
    alone = tiny_model.question_answering()
    qdqbert.calibrate(alone, batches(), method=method)
    assert_same(ranges(model), ranges(alone))


def test_histograms_hold_the_exact_maximum() -> None:
    by_max, by_histogram = tiny_model.question_answering(), tiny_model.question_answering()
    qdqbert.calibrate(by_max, batches(), method="max")
    qdqbert.calibrate(by_histogram, batches(), method="max", statistics="histogram")
    assert_same(ranges(by_max), ranges(by_histogram))


def test_maxima_do_not_depend_on_order_or_split() -> None:
    first, second = tiny_model.question_answering(), tiny_model.question_answering()
    data = batches()
    qdqbert.calibrate(first, data, method="max")
    singles = [{k: v[i : i + 1] for k, v in batch.items()} for batch in reversed(data) for i in range(4)]
    qdqbert.calibrate(second, singles, method="max")
    assert_same(ranges(first), ranges(second))


@pytest.mark.parametrize("method", METHODS)
def test_two_passes_do_not_depend_on_order_or_split(method: str) -> None:
    first, second = tiny_model.question_answering(), tiny_model.question_answering()
    data = batches()
    qdqbert.calibrate(first, data, method=method, passes=2)
    singles = [{k: v[i : i + 1] for k, v in batch.items()} for batch in reversed(data) for i in range(4)]
    qdqbert.calibrate(second, singles, method=method, passes=2)
    assert_same(ranges(first), ranges(second))


def test_padding_never_reaches_a_statistic() -> None:
    plain, padded = tiny_model.question_answering(), tiny_model.question_answering()
    data = [{k: v[:1] for k, v in tiny_model.batch(seed=s).items()} for s in range(3)]
    qdqbert.calibrate(plain, data)
    wider = [
        {
            k: np.pad(v, ((0, 0), (0, 9)), constant_values=0 if k == "attention_mask" else 1)
            for k, v in b.items()
        }
        for b in data
    ]
    qdqbert.calibrate(padded, wider)
    assert_same(ranges(plain), ranges(padded))
    padded.padding = "compute"
    qdqbert.calibrate(padded, wider)
    assert any(
        not np.array_equal(a, b) for a, b in zip(ranges(plain).values(), ranges(padded).values(), strict=True)
    )


def test_disabled_quantizers_take_no_part() -> None:
    model = tiny_model.question_answering()
    qdqbert.quantizers(model, {"*.add_*": "off", "*.query._weight_*": "off"})
    qdqbert.calibrate(model, batches())
    for name, state in states(model).items():
        out = ".add_" in name or "query._weight" in name
        assert (state.amax is None) == out, name
        assert (state.state == "off") == out, name
    qdqbert.quantizers(model, {"*_input_quantizer": "off"})
    with pytest.raises(StateError, match="no enabled quantizer"):
        qdqbert.calibrate(model, batches())


def test_weights_are_left_alone_on_request() -> None:
    model = tiny_model.question_answering()
    qdqbert.calibrate(model, batches(), weights=None)
    assert all((s.amax is None) == n.endswith("_weight_quantizer") for n, s in states(model).items())


def test_statistics_are_those_of_the_float_model() -> None:
    fresh, used = tiny_model.question_answering(), tiny_model.question_answering()
    qdqbert.calibrate(used, batches(2), method="mse")
    qdqbert.calibrate(used, batches())
    qdqbert.calibrate(fresh, batches())
    assert_same(ranges(fresh), ranges(used))


def test_the_documented_recipe_is_the_short_form() -> None:
    linear, descriptor = qdqbert.nn.QuantLinear, qdqbert.tensor_quant.QuantDescriptor
    saved = linear.default_quant_desc_input, linear.default_quant_desc_weight
    try:
        linear.set_default_quant_desc_input(descriptor(num_bits=8, calib_method="histogram"))
        linear.set_default_quant_desc_weight(descriptor(num_bits=8, axis=(0,)))
        model = tiny_model.question_answering()
    finally:
        linear.set_default_quant_desc_input(saved[0])
        linear.set_default_quant_desc_weight(saved[1])
    for name, module in model.named_modules():
        if name.endswith("_input_quantizer"):
            module.enable_calib()
            module.disable_quant()
        elif name.endswith("_weight_quantizer"):
            module.disable_quant()  # so that the statistics are those of the float model
    for batch in batches():
        model(**batch)
    for name, module in model.named_modules():
        if name.endswith("_input_quantizer"):
            module.load_calib_amax("percentile", percentile=99.99)
            module.enable_quant()
            module.disable_calib()
        elif name.endswith("_weight_quantizer"):
            module.enable_quant()
    short = tiny_model.question_answering()
    qdqbert.calibrate(short, batches(), method="percentile", percentile=99.99, weights=None)
    inputs = [name for name in states(model) if name.endswith("_input_quantizer")]
    for name in inputs:
        np.testing.assert_array_equal(states(model)[name].amax, states(short)[name].amax)
    batch = batches()[0]
    np.testing.assert_array_equal(model(**batch).start_logits, short(**batch).start_logits)


# ---- errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "kl"}, "method"),
        ({"percentile": 101}, "percentile"),
        ({"percentile": float("nan")}, "percentile"),
        ({"percentile": "99"}, "percentile"),
        ({"weights": "entropy"}, "weights"),
        ({"passes": 3}, "passes"),
        ({"num_bins": 0}, "num_bins"),
        ({"num_bins": 2.5}, "num_bins"),
        ({"statistics": "all"}, "statistics"),
    ],
)
def test_arguments_that_cannot_be_are_refused_before_any_work(arguments: Any, message: str) -> None:
    model = tiny_model.question_answering()
    before = states(model)

    def data() -> Any:
        raise AssertionError("the data were touched")
        yield

    with pytest.raises(ValueError, match=message):
        qdqbert.calibrate(model, data(), **arguments)
    assert states(model) == before


def test_no_batches_is_an_error_that_names_a_quantizer() -> None:
    model = tiny_model.question_answering()
    before = states(model)
    with pytest.raises(StateError, match=r"query\._input_quantizer: no data"):
        qdqbert.calibrate(model, [])
    assert states(model) == before


def test_two_passes_need_data_that_can_be_read_twice() -> None:
    with pytest.raises(ValueError, match="passes=2"):
        qdqbert.calibrate(tiny_model.question_answering(), iter(batches()), passes=2)


def test_a_failing_batch_is_numbered_and_leaves_everything_as_it_was() -> None:
    model = tiny_model.question_answering()
    before = states(model)
    data = batches()
    data[3] = {"input_ids": np.full((1, 2), 99)}
    with pytest.raises(IndexError, match=r"batch 3: .*input_ids"):
        qdqbert.calibrate(model, data)
    assert states(model) == before


def test_nan_activations_name_batch_and_quantizer() -> None:
    model = tiny_model.question_answering()
    before = states(model)
    data: list[dict[str, Any]] = [dict(batch) for batch in batches()]
    embeds = np.zeros((1, 4, 24), np.float32)
    embeds[0, 2, 5] = np.nan
    data[1] = {"inputs_embeds": embeds}
    with pytest.raises(ValueError, match=r"batch 1: .*encoder\.layer\.0\.attention\.self.*nan"):
        qdqbert.calibrate(model, data)
    assert states(model) == before


def test_nan_weights_are_named() -> None:
    model = tiny_model.question_answering()
    name = "bert.encoder.layer.1.output.dense.weight"
    broken = np.array(model.state_dict()[name])
    broken[3, 4] = np.inf
    model.load_state_dict({name: broken}, strict=False)
    before = states(model)
    with pytest.raises(ValueError, match=r"layer\.1\.output\.(dense|add)"):
        qdqbert.calibrate(model, batches())
    assert states(model) == before


def test_a_method_without_its_statistics_is_told() -> None:
    calibration = qdqbert.calibrate(tiny_model.question_answering(), batches(), method="max")
    with pytest.raises(StateError, match="only maxima were collected"):
        calibration.apply("entropy")
    two = Calibration(tiny_model.question_answering(), passes=2).collect(batches())
    with pytest.raises(StateError, match="needs the second pass"):
        two.apply("mse")
    with pytest.raises(StateError, match="pass 1 of 1"):
        calibration.next_pass()


def test_a_failed_apply_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model.question_answering()
    calibration = qdqbert.calibrate(model, batches())
    before = states(model)

    def fail(*arguments: object, **keywords: object) -> None:
        raise ValueError("weight: broken")

    monkeypatch.setattr("qdqbert.calibration.calibrate_weights", fail)
    with pytest.raises(ValueError, match="broken"):
        calibration.apply("max", weights="mse")
    assert states(model) == before


# ---- stopping and resuming --------------------------------------------------------------------------


class Stop(Exception):
    pass


def stopping(data: list[Any], at: int) -> Any:
    for index, batch in enumerate(data):
        if index == at:
            raise Stop
        yield batch


@pytest.mark.parametrize("at", range(1, 5))
@pytest.mark.parametrize("statistics", ["histogram", "max"])
def test_a_run_resumes_to_the_same_bits_at_every_batch(at: int, statistics: str, tmp_path: Path) -> None:
    method = "percentile" if statistics == "histogram" else "max"
    whole, resumed = tiny_model.question_answering(), tiny_model.question_answering()
    qdqbert.calibrate(whole, batches(), method=method, statistics=statistics)
    before = states(resumed)
    file = tmp_path / "statistics.npz"
    with pytest.raises(Stop):
        qdqbert.calibrate(
            resumed, stopping(batches(), at), method=method, statistics=statistics, checkpoint=file
        )
    assert states(resumed) == before
    calibration = qdqbert.calibrate(resumed, batches(), method=method, resume_from=file)
    assert calibration.batches_done == 5
    assert_same(ranges(whole), ranges(resumed))


def interrupted_after(calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have Ctrl-C come when the core has finished the n-th forward and Python has not yet noted it."""
    forward = qdqbert.QDQBertForQuestionAnswering.forward
    seen = 0

    def stopped(self: Any, *arguments: Any, **keywords: Any) -> Any:
        nonlocal seen
        seen += 1
        result = forward(self, *arguments, **keywords)
        if seen == calls:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(qdqbert.QDQBertForQuestionAnswering, "forward", stopped)


@pytest.mark.parametrize("at", [1, 3, 5])
@pytest.mark.parametrize("passes", [1, 2])
def test_a_batch_that_was_counted_when_the_interrupt_came_is_not_counted_again(
    at: int, passes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, resumed = tiny_model.question_answering(), tiny_model.question_answering()
    expected = qdqbert.calibrate(whole, batches(), passes=passes)
    file = tmp_path / "statistics.npz"
    with monkeypatch.context() as patch:
        interrupted_after((passes - 1) * 5 + at, patch)
        with pytest.raises(KeyboardInterrupt):
            qdqbert.calibrate(resumed, batches(), passes=passes, checkpoint=file)
    assert Calibration.load(resumed, file).batches_done == at
    calibration = qdqbert.calibrate(resumed, batches(), passes=passes, resume_from=file)
    assert_same(ranges(whole), ranges(resumed))
    for name, calibrator in expected._calibrators.items():
        mine, wanted = calibration._calibrators[name].histogram(), calibrator.histogram()
        np.testing.assert_array_equal(mine[0], wanted[0], err_msg=name)


def test_the_same_calibration_goes_on_after_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model.question_answering()
    expected = Calibration(model).collect(batches())
    calibration = Calibration(model)
    for at in (2, 1, 1):
        with monkeypatch.context() as patch:
            interrupted_after(at, patch)
            with pytest.raises(KeyboardInterrupt):
                calibration.collect(batches())
    assert calibration.batches_done == 4
    calibration.collect(batches())
    assert_same(expected.ranges("entropy"), calibration.ranges("entropy"))


def test_a_quantizer_keeps_its_own_calibrator() -> None:
    model = tiny_model.question_answering()
    quantizer = dict(named_quantizers(model))["bert.encoder.layer.0.output.dense._input_quantizer"]
    with qdqbert.quantizers(model, {"*.0.output.dense._input_quantizer": "calib"}):
        model(**batches()[0])
        seen = quantizer._calibrator.compute_amax()
        calibration = qdqbert.calibrate(model, batches())
        done = calibration.batches_done
        assert quantizer._calibrator.compute_amax() == seen
        quantizer.enable_calib()
        model(**batches()[1])
        assert calibration.batches_done == done
        assert quantizer._calibrator.compute_amax() != seen


def test_the_second_pass_resumes_too(tmp_path: Path) -> None:
    whole, resumed = tiny_model.question_answering(), tiny_model.question_answering()
    qdqbert.calibrate(whole, batches(), passes=2)
    first = Calibration(resumed, passes=2).collect(batches())
    first.next_pass()
    with pytest.raises(Stop):
        first.collect(stopping(batches(), 2), checkpoint=tmp_path / "f")
    qdqbert.calibrate(resumed, batches(), passes=2, resume_from=tmp_path / "f")
    assert_same(ranges(whole), ranges(resumed))


def test_a_file_that_cannot_serve_the_method_is_refused_before_any_work(tmp_path: Path) -> None:
    model = tiny_model.question_answering()
    Calibration(model, statistics="max").collect(batches()).save(tmp_path / "max")
    Calibration(model, passes=2).collect(batches()).save(tmp_path / "two")
    with pytest.raises(CheckpointError, match="holds maxima only"):
        qdqbert.calibrate(model, stopping(batches(), 0), resume_from=tmp_path / "max")
    with pytest.raises(CheckpointError, match="passes=2"):
        qdqbert.calibrate(model, stopping(batches(), 0), resume_from=tmp_path / "two")
    with pytest.raises(CheckpointError, match="num_bins=2048, not 512"):
        qdqbert.calibrate(model, batches(), passes=2, num_bins=512, resume_from=tmp_path / "two")
    with pytest.raises(CheckpointError, match="statistics='histogram', not 'max'"):
        qdqbert.calibrate(model, batches(), passes=2, statistics="max", resume_from=tmp_path / "two")


def test_a_file_of_another_model_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "f"
    Calibration(tiny_model.question_answering()).collect(batches()).save(file)
    with pytest.raises(CheckpointError, match="names differ"):
        Calibration.load(tiny_model.question_answering(num_hidden_layers=1), file)
    whole = file.read_bytes()
    for length in (0, 1, 50, len(whole) // 2, len(whole) - 1):
        (tmp_path / "g").write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            Calibration.load(tiny_model.question_answering(), tmp_path / "g")
    np.savez(tmp_path / "h.npz", header=np.zeros(3, np.uint8))
    with pytest.raises(CheckpointError):
        Calibration.load(tiny_model.question_answering(), tmp_path / "h.npz")
    with pytest.raises(CheckpointError, match="cannot be read"):
        Calibration.load(tiny_model.question_answering(), tmp_path / "nothing")


def test_ctrl_c_stops_soon_and_leaves_model_and_statistics_usable(tmp_path: Path) -> None:
    fields = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536, "num_hidden_layers": 4}
    model = tiny_model.question_answering(max_position_embeddings=512, **fields)
    before = states(model)
    data = [tiny_model.batch(rows=8, length=512, seed=seed) for seed in range(2)] * 500
    pressed, main = [], threading.main_thread().ident
    assert main is not None

    def press() -> None:
        pressed.append(time.monotonic())
        signal.pthread_kill(main, signal.SIGINT)

    timer = threading.Timer(1.0, press)
    # A job that a shell put into the background ignores the signal, and Python leaves it so.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            qdqbert.calibrate(model, data, checkpoint=tmp_path / "f")
        stopped = time.monotonic()
        timer.join()
    finally:
        signal.signal(signal.SIGINT, previous)
    assert states(model) == before
    # The promise is 0.1 s on an idle machine, and includes writing the checkpoint; the bound here only tells
    # a poll that works from a run that goes on for minutes.
    assert stopped - pressed[0] < 5
    calibration = Calibration.load(model, tmp_path / "f")
    assert calibration.batches_done < 1000
    if calibration.batches_done:
        calibration.apply("percentile")


# ---- progress ---------------------------------------------------------------------------------------


def test_the_bar_shows_on_request_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    qdqbert.calibrate(tiny_model.question_answering(), batches())
    assert capsys.readouterr().err == ""
    qdqbert.calibrate(tiny_model.question_answering(), batches(), progress=True)
    assert "5/5" in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    qdqbert.calibrate(tiny_model.question_answering(), batches())
    assert "calibrating, pass 1 of 1" in capsys.readouterr().err


def test_memory_does_not_depend_on_the_number_of_batches() -> None:
    model = tiny_model.question_answering()
    statistics = model.device.memory_statistics
    calibration = Calibration(model)
    # Twice, so that the journals too have the final size of the histograms.
    calibration.collect(batches(3) * 2)
    after_six = statistics()["live_bytes"]
    calibration.batches_done = 0
    calibration.collect(batches(3) * 20)
    assert statistics()["live_bytes"] == after_six


def test_one_batch_instead_of_a_list_is_refused() -> None:
    model = tiny_model.question_answering()
    with pytest.raises(TypeError, match="batches: expected batches, got one"):
        qdqbert.calibrate(model, tiny_model.batch())
    assert not any(name.endswith("_amax") for name, _ in model.named_buffers())
