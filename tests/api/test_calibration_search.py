# SPDX-License-Identifier: Apache-2.0
"""The mix of calibration methods: what it finds, what it costs, and that a failure leaves no trace."""

from __future__ import annotations

import json
import pickle
import threading
from typing import Any

import numpy as np
import pytest

import qdqbert
import tiny_model
from qdqbert import Calibration, StateError
from qdqbert.calibration_search import METHODS_TRIED, CalibrationSearch, kind_of, method_options
from qdqbert.logit_error import LogitError
from qdqbert.rules import QuantizerState, named_quantizers

HEADS: list[tuple[str, dict[str, Any]]] = [
    ("QDQBertForSequenceClassification", {"num_labels": 3}),
    ("QDQBertForSequenceClassification", {"num_labels": 1}),
    ("QDQBertForSequenceClassification", {"num_labels": 3, "problem_type": "multi_label_classification"}),
    ("QDQBertForTokenClassification", {"num_labels": 5}),
    ("QDQBertForQuestionAnswering", {}),
    ("QDQBertForMaskedLM", {}),
    ("QDQBertLMHeadModel", {"is_decoder": True}),
    ("QDQBertForMultipleChoice", {}),
    ("QDQBertForNextSentencePrediction", {}),
    ("QDQBertModel", {}),
    ("QDQBertModel", {"is_decoder": True, "add_cross_attention": True}),
]
FEW = ("max", "percentile-95", "percentile-80")  # quickly found


def batches(name: str = "", first: int = 0, count: int = 3) -> list[dict[str, np.ndarray]]:
    data = [tiny_model.batch(rows=3, length=9, seed=seed) for seed in range(first, first + count)]
    if name == "QDQBertForMultipleChoice":
        data = [{key: np.stack([value, value[::-1]], axis=1) for key, value in each.items()} for each in data]
    return data


def collected(
    name: str = "QDQBertForQuestionAnswering", seed: int = 0, **fields: Any
) -> tuple[Any, Calibration]:
    model = getattr(qdqbert, name)(tiny_model.config(**fields), seed=seed)
    extra = {}
    if fields.get("add_cross_attention"):
        states = np.random.default_rng(7).standard_normal((3, 6, 24), dtype=np.float32)
        extra = {"encoder_hidden_states": states}
    return model, Calibration(model).collect([each | extra for each in batches(name)])


def states(model: Any) -> dict[str, QuantizerState]:
    return {name: QuantizerState.of(quantizer) for name, quantizer in named_quantizers(model)}


def input_sites(model: Any) -> list[str]:
    return [name for name, _ in named_quantizers(model) if name.endswith("_input_quantizer")]


# ---- what it finds -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "fields", "sites"),
    [*((name, fields, 5) for name, fields in HEADS), ("QDQBertForQuestionAnswering", {}, 0)],
)
@pytest.mark.uninstrumented  # the search is Python: hundreds of equal forwards
def test_every_head_gets_what_the_report_says(name: str, fields: Any, sites: int) -> None:
    model, calibration = collected(name, **fields)
    ranking = batches(name, 50)
    if fields.get("add_cross_attention"):
        encoded = np.random.default_rng(8).standard_normal((3, 6, 24), dtype=np.float32)
        ranking = [each | {"encoder_hidden_states": encoded} for each in ranking]

    found = calibration.search(ranking, methods=FEW, sites=sites)

    assert list(found.errors) == [*FEW, "mix", *(["mix-by-site"] if sites else [])]
    assert found.errors[found.best] == min(found.errors.values())
    assert LogitError(model, ranking).measure() == found.errors[found.best]
    assert list(found.sites) == input_sites(model)
    ranges = {method: calibration.ranges(**method_options(method)) for method in FEW}
    for site, state in states(model).items():
        assert state.state == "on", site
        if site in found.sites:
            np.testing.assert_array_equal(state.amax, ranges[found.sites[site]][site], err_msg=site)
        else:
            assert state.amax is not None, site


@pytest.mark.parametrize(("seed", "sites"), [(0, 28), (1, 28), (2, 0)])
@pytest.mark.uninstrumented
def test_the_mix_is_never_worse_than_a_method_alone(seed: int, sites: int) -> None:
    model, calibration = collected(seed=seed)
    ranking = batches(first=50)
    error = LogitError(model, ranking)
    alone = {}
    for method in METHODS_TRIED:
        options = method_options(method)
        calibration.apply(options.pop("method"), **options)
        alone[method] = error.measure()

    found = calibration.search(ranking, sites=sites)

    assert error.measure() <= min(alone.values())
    assert {method: found.errors[method] for method in METHODS_TRIED} == alone


def test_a_kind_takes_the_method_with_the_least_error_when_it_alone_is_quantized() -> None:
    model, calibration = collected()
    ranking = batches(first=50)
    found = calibration.search(ranking, methods=FEW, sites=0)
    error = LogitError(model, ranking)
    assert len(found.alone) == 14
    expected: dict[str, dict[str, float]] = {kind: {} for kind in found.alone}
    for method in FEW:
        options = method_options(method)
        calibration.apply(options.pop("method"), **options)
        for kind, errors in expected.items():
            with qdqbert.quantizers(model, {"*": "off", f"*.layer.[01].{kind}": "on"}) as changes:
                errors[method] = error.measure()
            assert len(changes) == 38  # 2 of 40 stayed on
    assert found.alone == expected
    assert found.kinds == {kind: min(errors, key=errors.__getitem__) for kind, errors in expected.items()}


def planted() -> tuple[Any, str, str]:
    """Model in whose two layers the same site needs opposite methods.

    One neuron in 37 of the feed-forward layers is hundreds of times larger than the others.  In layer 0
    nothing looks at it, and a range that holds it rounds all others to 0.  In layer 1 nothing else is looked
    at, and a range that cuts it leaves nothing.
    """
    model = tiny_model.question_answering()
    tensors = {name: np.array(value) for name, value in model.state_dict().items()}
    first, last = (f"bert.encoder.layer.{layer}" for layer in (0, 1))
    tensors[f"{first}.intermediate.dense.bias"][5] = 1000.0
    tensors[f"{first}.output.dense.weight"][:, 5] = 0.0
    tensors[f"{last}.intermediate.dense.weight"][5] *= 300.0
    only = tensors[f"{last}.output.dense.weight"]
    only[:, np.arange(37) != 5] = 0.0
    only[:, 5] /= 100.0
    model.load_state_dict(tensors)
    site = "output.dense._input_quantizer"
    return model, f"{first}.{site}", f"{last}.{site}"


def test_a_site_that_needs_another_method_than_its_kind_gets_it() -> None:
    model, first, last = planted()
    calibration = Calibration(model).collect(batches(count=6))
    found = calibration.search(batches(first=50), methods=["max", "percentile-97"], sites=28)
    assert found.best == "mix-by-site"
    assert (found.sites[first], found.sites[last]) == ("percentile-97", "max")
    assert len({found.candidates[found.refined_from or ""][site] for site in (first, last)}) == 1
    assert found.errors["mix-by-site"] < 0.5 * found.errors["mix"]
    # One site is enough, since the one that costs most is looked at first.
    again = calibration.search(batches(first=50), methods=["max", "percentile-97"], sites=1, rounds=1)
    assert list(again.refined) in ([first], [last])
    assert (again.sites[first], again.sites[last]) == ("percentile-97", "max")


def test_of_equal_methods_the_earlier_one_is_taken() -> None:
    _, calibration = collected()
    for order in (["percentile-99", "percentile-99.0"], ["percentile-99.0", "percentile-99"]):
        found = calibration.search(batches(), methods=order, sites=3)
        assert set(found.sites.values()) == {order[0]}
        assert found.best == order[0]
        assert not found.refined
        # Equal ranges are run once: the answers in float, 14 kinds, everything on, and 28 sites off.
        assert found.passes == 1 + 14 + 1 + 28


def test_what_is_switched_off_stays_off() -> None:
    model = tiny_model.question_answering()
    qdqbert.quantizers(model, {"*.add_*": "off", "*.query._weight_*": "off"})
    calibration = Calibration(model).collect(batches())
    late = "bert.encoder.layer.1.output.dense._input_quantizer"
    qdqbert.quantizers(model, {late: "off"})
    before = states(model)
    found = calibration.search(batches(first=50), methods=FEW, sites=2)
    assert len(found.kinds) == 10
    assert late not in found.sites
    after = states(model)
    off = [name for name, state in before.items() if state.state == "off"]
    assert len(off) == 8 + 2 + 1
    assert all(after[name] == before[name] for name in off)
    assert all((state.state == "off") == (name in off) for name, state in after.items())
    qdqbert.quantizers(model, {"*_input_quantizer": "off"})
    with pytest.raises(StateError, match="every input quantizer of the calibration is off"):
        calibration.search(batches())


def test_weights_are_as_asked() -> None:
    model, calibration = collected()
    calibration.search(batches(), methods=["max"], sites=0, weights=None)
    assert all((s.amax is None) == n.endswith("_weight_quantizer") for n, s in states(model).items())
    calibration.search(batches(), methods=["max"], sites=0, weights="mse")
    by_search = states(model)
    calibration.apply("max", weights="mse")
    assert states(model) == by_search


def test_maxima_serve_the_method_that_needs_no_more() -> None:
    model = tiny_model.question_answering()
    calibration = Calibration(model, statistics="max").collect(batches())
    assert calibration.search(batches(), methods=["max"]).best == "max"
    before = states(model)
    with pytest.raises(StateError, match="only maxima were collected"):
        calibration.search(batches())
    assert states(model) == before


def test_threads_do_not_matter() -> None:
    def run(count: int) -> tuple[dict[str, Any], dict[str, QuantizerState]]:
        model = tiny_model.question_answering(hidden_size=48, intermediate_size=131, seed=4)
        calibration = Calibration(model).collect(batches())
        before = qdqbert.get_num_threads()
        qdqbert.set_num_threads(count)
        try:
            found = calibration.search(batches(first=50), methods=["max", "mse"], sites=4)
        finally:
            qdqbert.set_num_threads(before)
        return found.as_dict(), states(model)

    assert run(1) == run(3)


# ---- the report ----------------------------------------------------------------------------------------


def test_candidates_can_be_loaded_again() -> None:
    model, calibration = collected()
    found = calibration.search(batches(first=50), methods=FEW, sites=4)
    best = states(model)
    calibration.apply("max")
    found.apply()
    assert states(model) == best
    error = LogitError(model, batches(first=50))
    for candidate, expected in found.errors.items():
        found.apply(candidate)
        assert error.measure() == expected
    before = states(model)
    with pytest.raises(ValueError, match=r"candidate: expected one of max, .*mix, mix-by-site, got 'best'"):
        found.apply("best")
    assert states(model) == before


def test_a_pickled_report_loads_into_the_model_that_came_with_it() -> None:
    model, calibration = collected()
    found = calibration.search(batches(first=50), methods=["max", "mse"], sites=2)
    assert found.best != "max"
    best = states(model)
    copied = pickle.loads(pickle.dumps(found))
    assert copied.as_dict() == found.as_dict()
    other = copied.load.calibration.model
    copied.apply("max")
    assert states(model) == best
    assert states(other) != best
    copied.apply()
    assert states(other) == best


def test_the_report_says_everything_in_text_and_json() -> None:
    _, calibration = collected()
    found = calibration.search(batches(first=50), methods=FEW, sites=4)
    text = str(found)
    for words in (*found.errors, *found.kinds, *found.refined, "loaded", found.measure, f"{found.passes} p"):
        assert words in text
    assert repr(found) == text
    data = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert data["sites"] == found.sites
    assert data["errors"] == found.errors
    assert data["kinds"] == found.kinds
    assert data["alone"] == found.alone


def test_an_infinite_error_is_null_in_json() -> None:
    found = CalibrationSearch(
        measure="m",
        errors={"max": float("inf")},
        best="max",
        candidates={"max": {"a": "max"}},
        kinds={"a": "max"},
        alone={"a": {"max": float("inf")}},
        refined_from=None,
        refined={},
        passes=1,
        load=lambda chosen: None,
    )
    data = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert data["errors"] == {"max": None}
    assert data["alone"] == {"a": {"max": None}}


def test_progress_is_shown_when_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    _, calibration = collected()
    calibration.search(batches(), methods=["max"], sites=0)
    assert capfd.readouterr().err == ""
    calibration.search(batches(), methods=["max"], sites=0, progress=True)
    assert "searching methods: 100%" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("bert.encoder.layer.11.output.dense._input_quantizer", "output.dense._input_quantizer"),
        (
            "encoder.layer.0.crossattention.self.key._input_quantizer",
            "crossattention.self.key._input_quantizer",
        ),
        ("0._input_quantizer", "_input_quantizer"),
        ("conv1.layer2.linear._input_quantizer", "conv1.layer2.linear._input_quantizer"),
    ],
)
def test_a_kind_is_the_place_in_a_layer(name: str, kind: str) -> None:
    assert kind_of(name) == kind


# ---- errors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"methods": []}, "methods: expected a list of at least one"),
        ({"methods": "max"}, "methods: expected a list"),
        ({"methods": ["max", "kl"]}, "method: expected max, mse, entropy or percentile-P .*'kl'"),
        ({"methods": ["percentile"]}, "method"),
        ({"methods": ["percentile-0"]}, "method"),
        ({"methods": ["percentile-nan"]}, "method"),
        ({"methods": ["percentile-101"]}, "method"),
        ({"methods": [None]}, "method"),
        ({"sites": -1}, "sites: expected an integer of at least 0, got -1"),
        ({"sites": 1.5}, "sites"),
        ({"sites": True}, "sites"),
        ({"rounds": 0}, "rounds: expected an integer of at least 1, got 0"),
        ({"weights": "entropy"}, "weights"),
    ],
)
def test_arguments_that_cannot_be_are_refused_before_any_work(arguments: Any, message: str) -> None:
    model, calibration = collected()
    before = states(model)

    def data() -> Any:
        raise AssertionError("the data were touched")
        yield

    with pytest.raises(ValueError, match=message):
        calibration.search(data(), **arguments)
    assert states(model) == before


def test_a_failing_batch_is_numbered() -> None:
    model, calibration = collected()
    before = states(model)
    with pytest.raises(IndexError, match=r"batch 2: .*input_ids"):
        calibration.search([*batches(count=2), {"input_ids": [[99]]}])
    with pytest.raises(ValueError, match="batches: expected at least one"):
        calibration.search([])
    assert states(model) == before


class Failure(Exception):
    pass


def failing_at(call: int, error: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    forward = qdqbert.QDQBertForQuestionAnswering.forward
    seen = 0

    def failing(self: Any, *arguments: Any, **keywords: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == call:
            raise error
        return forward(self, *arguments, **keywords)

    monkeypatch.setattr(qdqbert.QDQBertForQuestionAnswering, "forward", failing)


# In float; in the first of 14 kinds; among kinds; everything on; sites off; in the rounds.
@pytest.mark.parametrize("call", [2, 4, 25, 48, 60, 100, 145])
@pytest.mark.parametrize(("error", "method"), [(Failure, None), (KeyboardInterrupt, "max")])
def test_a_failure_leaves_the_model_as_it_was(
    call: int, error: type[BaseException], method: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, calibration = collected()
    if method is not None:
        calibration.apply(method)
    qdqbert.quantizers(model, {"*.1.output.dense._input_quantizer": "calib"})
    before = states(model)
    failing_at(call, error, monkeypatch)
    with pytest.raises(error):
        calibration.search(batches(first=50, count=3), methods=["max", "percentile-95"])
    assert states(model) == before


def test_a_weight_that_is_not_finite_is_named_and_nothing_is_changed() -> None:
    model, calibration = collected()
    before = states(model)
    name = "bert.encoder.layer.1.output.dense.weight"
    broken = np.array(model.state_dict()[name])
    broken[3, 4] = np.nan
    model.load_state_dict({name: broken}, strict=False)
    with pytest.raises(ValueError, match="answers in float are NaN"):
        calibration.search(batches())
    assert states(model) == before


def test_forwards_of_another_thread_stop_the_search_and_leave_no_trace() -> None:
    model, calibration = collected()
    calibration.apply("max")
    before = states(model)
    stop, answers = threading.Event(), 0

    def work() -> None:
        nonlocal answers
        while not stop.is_set():
            try:
                model(**tiny_model.batch(rows=5, length=30))
                answers += 1
            except StateError:
                pass

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(50):
            try:
                calibration.search(batches(), methods=FEW, sites=2)
            except StateError:
                break
            calibration.apply("max")
        else:
            pytest.fail("no forward met a switch")
        assert states(model) == before
    finally:
        stop.set()
        thread.join()
    assert answers > 0
