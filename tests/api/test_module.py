# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qdqbert
import tiny_model
from qdqbert import CheckpointError, UnsupportedError
from qdqbert.module import IncompatibleKeys, Module, ModuleList


class Named(Module):
    def __init__(self, text: str = "", **children: Module) -> None:
        super().__init__()
        self.text = text
        for name, child in children.items():
            self.add_module(name, child)

    def extra_repr(self) -> str:
        return self.text


def state_of(model: Any) -> dict[str, np.ndarray]:
    return {name: np.array(value) for name, value in model.state_dict().items()}


def test_text_is_that_of_pytorch() -> None:
    tree = Named("", a=Named("one line"), b=Named("first\nsecond", c=Named()), d=ModuleList([Named("x")] * 3))
    assert repr(tree) == (
        "Named(\n"
        "  (a): Named(one line)\n"
        "  (b): Named(\n"
        "    first\n"
        "    second\n"
        "    (c): Named()\n"
        "  )\n"
        "  (d): ModuleList(\n"
        "    (0-2): 3 x Named(x)\n"
        "  )\n"
        ")"
    )


def test_names_go_down_parents_before_children() -> None:
    tree = Named("", a=Named("", b=Named()), c=Named())
    assert [name for name, _ in tree.named_modules()] == ["", "a", "a.b", "c"]
    assert [name for name, _ in tree.named_modules("m")] == ["m", "m.a", "m.a.b", "m.c"]
    assert [name for name, _ in tree.named_children()] == ["a", "c"]
    assert tree.get_submodule("a.b") is tree.a.b
    assert tree.get_submodule("") is tree
    with pytest.raises(AttributeError, match="'x'"):
        tree.get_submodule("a.x")
    with pytest.raises(AttributeError, match="'x'"):
        tree.x  # noqa: B018


def test_apply_visits_children_before_parents() -> None:
    tree, seen = Named("top", a=Named("low")), []
    assert tree.apply(lambda module: seen.append(module.text)) is tree  # type: ignore[attr-defined]
    assert seen == ["low", "top"]


@pytest.mark.parametrize("name", ["", "a.b", "text", "named_modules"])
def test_names_that_cannot_be_are_refused(name: str) -> None:
    with pytest.raises(KeyError):
        Named().add_module(name, Named())
    with pytest.raises(TypeError, match="module"):
        Named().add_module("fine", 3)  # type: ignore[arg-type]


def test_modules_assigned_to_attributes_are_children() -> None:
    tree = Named("top")
    tree.first, tree.second = Named("a"), Named("b")
    assert [name for name, _ in tree.named_children()] == ["first", "second"]
    tree.first = Named("c")
    assert repr(tree) == "Named(\n  top\n  (first): Named(c)\n  (second): Named(b)\n)"
    del tree.first
    assert [name for name, _ in tree.named_children()] == ["second"]
    with pytest.raises(AttributeError, match="first"):
        tree.first  # noqa: B018


def test_a_childs_name_holds_nothing_but_modules() -> None:
    tree = Named("", a=Named())
    with pytest.raises(TypeError, match="a: expected Module, got int"):
        tree.a = 3
    tree.b = 3
    tree.b = Named("now a module")
    assert tree.get_submodule("b").extra_repr() == "now a module"


def test_a_child_needs_a_module_that_is_set_up() -> None:
    class Hasty(Module):
        def __init__(self) -> None:
            self.child = Named()

    with pytest.raises(AttributeError, match=r"child: cannot assign a module before Module\.__init__\(\)"):
        Hasty()


def test_calling_runs_forward() -> None:
    class Doubling(Module):
        def forward(self, x: int, factor: int = 2) -> int:
            return x * factor

    assert Doubling()(4) == 8
    assert Doubling()(4, factor=3) == 12


def test_parts_of_a_model_say_that_they_do_not_run_alone() -> None:
    with pytest.raises(UnsupportedError, match="QDQBertEncoder has no forward of its own"):
        tiny_model.question_answering().bert.encoder(np.zeros((1, 1, 24), np.float32))


def test_ranges_that_a_state_dict_lacks_are_kept_and_named_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = tiny_model.question_answering()
    names = [f"bert.encoder.layer.{i}.output.dense._input_quantizer" for i in (0, 1)]
    for name in names:
        model.get_submodule(name).amax = 2.0
    state = {name: value for name, value in state_of(model).items() if not name.endswith("_amax")}
    model.load_state_dict(state)
    assert caplog.messages == [
        f"No amax in state_dict: {names[0]}._amax, {names[1]}._amax stay as they were."
    ]
    assert model.get_submodule(names[1]).amax == 2.0
    caplog.clear()
    model.load_state_dict(state_of(model))
    assert not caplog.messages


def test_lists_index_slice_and_count() -> None:
    modules = [Named(str(i)) for i in range(4)]
    listed = ModuleList(modules)
    assert len(listed) == 4
    assert listed[1] is modules[1]
    assert listed[-1] is modules[3]
    assert list(listed[1:3]) == modules[1:3]
    assert list(listed) == modules


def test_modes() -> None:
    model = tiny_model.question_answering()
    assert model.eval() is model
    assert model.train(False) is model
    assert not model.training
    assert model.train() is model
    assert model.training


def test_parameters_cannot_be_written_through_views() -> None:
    model = tiny_model.question_answering()
    for name, value in model.named_parameters():
        assert not value.flags.writeable, name
        with pytest.raises(ValueError, match="read-only"):
            value[...] = 0


def test_load_state_dict_changes_what_is_read_and_what_runs() -> None:
    source, target = tiny_model.question_answering(seed=1), tiny_model.question_answering(seed=2)
    batch = tiny_model.batch()
    different = target(**batch).start_logits
    assert str(target.load_state_dict(source.state_dict())) == "<All keys matched successfully>"
    np.testing.assert_array_equal(target(**batch).start_logits, source(**batch).start_logits)
    assert not np.array_equal(different, source(**batch).start_logits)


def test_changed_weights_change_integer_products_too() -> None:
    model = tiny_model.question_answering(seed=1)
    qdqbert.calibrate(model, [tiny_model.batch()])
    batch = tiny_model.batch()
    before = model(**batch).start_logits
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    model.load_state_dict({name: -state_of(model)[name]}, strict=False)
    assert not np.array_equal(model(**batch).start_logits, before)
    model.load_state_dict({name: -state_of(model)[name]}, strict=False)
    np.testing.assert_array_equal(model(**batch).start_logits, before)


def test_strict_lists_everything_and_changes_nothing() -> None:
    model = tiny_model.question_answering()
    before = state_of(model)
    state: dict[str, Any] = {**before, "stray.weight": np.zeros(1), "qa_outputs.weight": np.zeros((3, 24))}
    del state["qa_outputs.bias"]
    with pytest.raises(CheckpointError) as caught:
        model.load_state_dict(state)
    text = str(caught.value)
    assert isinstance(caught.value, RuntimeError)
    assert text.startswith("Error(s) in loading state_dict for QDQBertForQuestionAnswering:")
    for part in (
        "Missing key(s) in state_dict: 'qa_outputs.bias'.",
        "Unexpected key(s) in state_dict: 'stray.weight'.",
        "size mismatch for qa_outputs.weight",
    ):
        assert part in text
    for name, value in state_of(model).items():
        np.testing.assert_array_equal(value, before[name])


def test_not_strict_returns_what_did_not_match() -> None:
    model = tiny_model.question_answering()
    result = model.load_state_dict({"stray": np.zeros(1), "qa_outputs.bias": [1.0, 2.0]}, strict=False)
    assert isinstance(result, IncompatibleKeys)
    assert result.unexpected_keys == ["stray"]
    assert "qa_outputs.weight" in result.missing_keys
    assert model.qa_outputs.bias.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("qa_outputs.bias", np.array(["a", "b"]), "expected numbers"),
        ("qa_outputs.bias", np.zeros(3), "size mismatch"),
        ("bert.encoder.layer.0.output.dense._weight_quantizer._amax", np.ones((5, 1)), "broadcasts"),
        ("bert.encoder.layer.0.output.dense._input_quantizer._amax", np.array(-1.0), "magnitudes"),
    ],
)
def test_one_bad_tensor_leaves_all_others_as_they_were(name: str, value: np.ndarray, message: str) -> None:
    model = tiny_model.question_answering(seed=1)
    before = state_of(model)
    state = {**state_of(tiny_model.question_answering(seed=2)), name: value}
    with pytest.raises(CheckpointError, match=message) as caught:
        model.load_state_dict(state, strict=False)
    assert name in str(caught.value)
    after = state_of(model)
    assert after.keys() == before.keys()
    for key in before:
        np.testing.assert_array_equal(after[key], before[key])


def test_ranges_are_created_and_then_keep_their_shape() -> None:
    model = tiny_model.question_answering()
    name = "bert.encoder.layer.0.output.dense._weight_quantizer._amax"
    model.load_state_dict({name: np.ones((24, 1))}, strict=False)
    assert state_of(model)[name].shape == (24, 1)
    with pytest.raises(CheckpointError, match="size mismatch"):
        model.load_state_dict({name: np.ones((1, 1))}, strict=False)


def test_every_number_format_can_be_loaded() -> None:
    model = tiny_model.question_answering()
    for dtype in ("float16", "float64", "int8", "uint32", "bool"):
        model.load_state_dict({"qa_outputs.bias": np.array([0, 1], dtype)}, strict=False)
        assert model.qa_outputs.bias.tolist() == [0, 1]


def test_fresh_weights_follow_the_originals_rule() -> None:
    model = tiny_model.question_answering(seed=3, hidden_size=96, vocab_size=500)
    for name, value in model.named_parameters():
        if name.endswith("LayerNorm.weight"):
            assert (value == 1).all()
        elif name.endswith("bias"):
            assert (value == 0).all()
        elif value.size > 5000:
            # The standard error of a standard deviation of n values is 1 / sqrt(2 n) of it: 1 % at n = 5,000.
            assert abs(value.std() / 0.2 - 1) < 0.05, name
    assert (model.bert.embeddings.word_embeddings.weight[0] == 0).all()
    assert model.num_parameters() == sum(value.size for value in model.parameters())


def test_seeds_make_weights() -> None:
    first, again, other = (tiny_model.question_answering(seed=s) for s in (1, 1, 2))
    for name, value in first.named_parameters():
        np.testing.assert_array_equal(value, state_of(again)[name])
    assert not np.array_equal(first.qa_outputs.weight, other.qa_outputs.weight)


@pytest.mark.parametrize(
    ("seed", "error", "message"),
    [
        (-1, ValueError, "seed: expected at least 0, got -1"),
        (1.5, TypeError, "seed: expected an integer, got float"),
        (True, TypeError, "seed: expected an integer, got bool"),
        ("1", TypeError, "seed: expected an integer, got str"),
    ],
)
def test_what_is_no_seed_is_refused_and_changes_nothing(
    seed: Any, error: type[Exception], message: str, tmp_path: Path
) -> None:
    model = tiny_model.question_answering(seed=3)
    before = {name: np.array(value) for name, value in state_of(model).items()}
    model.save_pretrained(tmp_path)
    for call in (
        lambda: tiny_model.question_answering(seed=seed),
        lambda: type(model).from_pretrained(tmp_path, seed=seed),
        lambda: model.init_weights(seed),
        lambda: model._init_weights(model.qa_outputs, seed),
        lambda: model.resize_token_embeddings(99, seed=seed),
    ):
        with pytest.raises(error, match=f"^{message}$"):
            call()
    for name, value in state_of(model).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)
