# SPDX-License-Identifier: Apache-2.0
"""`TrainingArguments`: transformers' names and defaults, and nothing that is accepted and ignored."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from qdqbert import TrainingArguments, UnsupportedError
from qdqbert.training.refused_arguments import REFUSED

FIELDS = {field.name: field for field in dataclasses.fields(TrainingArguments)}

# Another value for every field that is refused; of the type that the field has.
OTHER: dict[type, Any] = {bool: True, int: 3, str: "something", type(None): "something", float: 0.5}


def other_than(default: Any) -> Any:
    return (not default) if isinstance(default, bool) else OTHER[type(default)]


def test_every_refused_name_is_a_field() -> None:
    assert set(REFUSED) <= set(FIELDS)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_refused_argument_says_why_when_it_is_set(name: str) -> None:
    value = other_than(FIELDS[name].default)
    if value in REFUSED[name].allowed:
        value = "something"
    with pytest.raises(UnsupportedError) as caught:
        TrainingArguments("out", **{name: value})
    assert str(caught.value) == f"{name}={value!r}: {REFUSED[name].reason}"


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, refusal in REFUSED.items() for value in refusal.allowed],
)
def test_a_value_that_asks_for_what_is_done_anyway_is_taken(name: str, value: Any) -> None:
    assert getattr(TrainingArguments("out", **{name: value}), name) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", -1e-5),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("weight_decay", -0.1),
        ("adam_beta1", 1.0),
        ("adam_beta2", -0.1),
        ("adam_epsilon", 0.0),
        ("max_grad_norm", -1.0),
        ("num_train_epochs", 0.0),
        ("warmup_ratio", 1.5),
        ("label_smoothing_factor", 1.0),
        ("per_device_train_batch_size", 0),
        ("per_device_eval_batch_size", -1),
        ("gradient_accumulation_steps", 0),
        ("max_steps", -2),
        ("warmup_steps", -1),
        ("seed", -1),
        ("data_seed", -1),
        ("evaluation_strategy", "sometimes"),
        ("logging_strategy", "always"),
        ("save_strategy", "best"),
        ("lr_scheduler_type", "warm"),
        ("optim", "adam"),
        ("log_level", "loud"),
        ("logging_steps", 1.5),
        ("logging_steps", 0),
        ("save_steps", -1),
        ("eval_steps", 2.5),
    ],
)
def test_a_value_out_of_range_is_named(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        TrainingArguments("out", **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", "3e-5"),
        ("learning_rate", True),
        ("per_device_train_batch_size", 8.0),
        ("seed", 1.5),
        ("group_by_length", "yes"),
        ("disable_tqdm", 1),
        ("greater_is_better", "yes"),
        ("lr_scheduler_kwargs", [1]),
        ("label_names", "labels"),
        ("save_total_limit", 1.5),
        ("run_name", 3),
    ],
)
def test_a_value_of_another_type_is_named(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"^{name}: expected"):
        TrainingArguments("out", **{name: value})


def test_numbers_of_numpy_are_numbers() -> None:
    arguments = TrainingArguments(
        "out",
        per_device_train_batch_size=np.int64(4),
        learning_rate=np.float32(0.5),
        group_by_length=np.bool_(True),
        save_total_limit=np.int32(2),
    )
    found = arguments.to_dict()
    assert (found["per_device_train_batch_size"], found["learning_rate"]) == (4, 0.5)
    assert (found["group_by_length"], found["save_total_limit"]) == (True, 2)
    json.dumps(found)
    with pytest.raises(ValueError, match=r"^per_device_train_batch_size: expected at least 1, got 0"):
        TrainingArguments("out", per_device_train_batch_size=np.int64(0))


def test_evaluation_by_steps_takes_the_steps_of_the_log() -> None:
    arguments = TrainingArguments("out", evaluation_strategy="steps", logging_steps=7)
    assert (arguments.eval_steps, arguments.do_eval) == (7, True)


def test_the_later_name_of_the_strategy_means_the_same() -> None:
    assert TrainingArguments("out", eval_strategy="epoch").evaluation_strategy == "epoch"


def test_the_loss_says_which_is_best_unless_something_else_does() -> None:
    by_loss = TrainingArguments(
        "out", load_best_model_at_end=True, evaluation_strategy="epoch", save_strategy="epoch"
    )
    assert (by_loss.metric_for_best_model, by_loss.greater_is_better) == ("loss", False)
    assert TrainingArguments("out", metric_for_best_model="f1").greater_is_better is True


@pytest.mark.parametrize(
    "changes",
    [
        {"evaluation_strategy": "epoch", "save_strategy": "steps"},
        {"evaluation_strategy": "no", "save_strategy": "no"},
        {"evaluation_strategy": "steps", "eval_steps": 3, "save_steps": 7},
        {"evaluation_strategy": "steps", "eval_steps": 0.1, "save_steps": 7},
        {"evaluation_strategy": "steps", "eval_steps": 0.2, "save_steps": 0.3},
        {"evaluation_strategy": "steps", "eval_steps": 8, "save_steps": 4},
    ],
)
def test_best_checkpoints_need_evaluations_at_the_same_times(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^load_best_model_at_end: expected"):
        TrainingArguments("out", load_best_model_at_end=True, **changes)


@pytest.mark.parametrize(("evaluate", "save"), [(3, 9), (0.1, 0.3), (0.07, 0.21)])
def test_multiples_of_shares_are_told_from_rounding(evaluate: float, save: float) -> None:
    TrainingArguments(
        "out",
        load_best_model_at_end=True,
        evaluation_strategy="steps",
        eval_steps=evaluate,
        save_steps=save,
    )


def test_warmup_steps_go_before_the_ratio() -> None:
    assert TrainingArguments("out", warmup_ratio=0.1).get_warmup_steps(95) == 10
    assert TrainingArguments("out", warmup_ratio=0.1, warmup_steps=3).get_warmup_steps(95) == 3


def test_options_of_sgd_are_checked_and_those_of_adamw_refused() -> None:
    TrainingArguments("out", optim="sgd", optim_args="momentum=0.9, nesterov=true")
    for text in ("momentum", "momentum=much", "rho=1", "nesterov=1"):
        with pytest.raises(ValueError, match=r"^optim_args: "):
            TrainingArguments("out", optim="sgd", optim_args=text)
    with pytest.raises(UnsupportedError, match=r"^optim_args='momentum=0.9': is for sgd"):
        TrainingArguments("out", optim_args="momentum=0.9")


@pytest.mark.parametrize(
    ("given", "expected"),
    [(None, ["jsonl"]), ("all", ["jsonl"]), ("none", []), (["jsonl"], ["jsonl"]), ([], [])],
)
def test_the_log_is_written_unless_it_is_refused(given: Any, expected: list[str]) -> None:
    assert TrainingArguments("out", report_to=given).report_to == expected


def test_services_that_there_are_none_for_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="report_to='wandb': expected 'jsonl'"):
        TrainingArguments("out", report_to="wandb")


def test_json_has_every_field_but_tokens() -> None:
    fields = json.loads(TrainingArguments("out", lr_scheduler_type="cosine").to_json_string())
    assert set(FIELDS) - set(fields) == {"hub_token", "push_to_hub_token"}
    assert fields["lr_scheduler_type"] == "cosine"


@pytest.mark.witness
def test_names_order_and_defaults_are_those_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    if not transformers.__version__.startswith("4.39"):
        pytest.skip(f"transformers is {transformers.__version__}, the reference is 4.39")
    theirs = {f.name: f for f in dataclasses.fields(transformers.TrainingArguments) if f.init}
    assert [name for name in FIELDS if name in theirs] == list(theirs)
    for name, field in theirs.items():
        assert name == "output_dir" or default_of(FIELDS[name]) == default_of(field), name


def default_of(field: Any) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
