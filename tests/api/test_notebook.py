# SPDX-License-Identifier: Apache-2.0
"""`_repr_html_`: it stands alone, it says what `repr` says, and no name can become markup."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import qdqbert
import tiny_model
from qdqbert import nn
from qdqbert.calibration_search import CalibrationSearch
from qdqbert.summary import summarize
from qdqbert.tensor_quant import QuantDescriptor

TAGS = {"b", "details", "div", "span", "style", "summary", "table", "tbody", "td", "th", "thead", "tr"}
ATTRIBUTES = {"class", "open", "title"}
CLASS_NAMES = {
    *("qdqbert", "leaf", "dim", "state", "number", "inner", "block"),
    *("calibrated", "dynamic", "collecting", "idle", "off", "integer", "float", "dequantized"),
}
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</td></table></details></style><svg/onload=alert(1)>",
    "&lt;b&gt; &amp; {{7*7}}",
    "line\nbreak\r\x1b[31m\u202egnirts",
    "x" * 5000,
]


class Page(HTMLParser):
    """Tags, attributes, texts and nesting of a page; unclosed or crossed tags are errors."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.style = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1] == "style":
            self.style += data
        else:
            self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    handle_decl = unknown_decl = handle_pi = handle_comment

    @property
    def text(self) -> str:
        return "".join(self.texts)


def page_of(shown: Any) -> Page:
    """The page of an object, which has been checked to stand alone and to have expected markup only."""
    page = Page(shown._repr_html_())
    assert page.tags <= TAGS
    assert {name for name, _ in page.attributes} <= ATTRIBUTES
    used = {word for name, value in page.attributes if name == "class" for word in (value or "").split()}
    assert used <= CLASS_NAMES
    assert not re.search(r"url|@import|expression|http|//", page.style)
    return page


class Holder(nn.Module):
    """A module whose text and children's names are given."""

    def __init__(self, text: str = "", **children: nn.Module) -> None:
        super().__init__()
        self._text = text
        for name, child in children.items():
            self.add_module(name, child)

    def extra_repr(self) -> str:
        return self._text


def everything(hostile: str) -> list[Any]:
    """Every kind of object that notebooks show, with a text from outside wherever one can stand."""
    name = hostile.replace(".", "")
    config = tiny_model.config(id2label={0: hostile, 1: "fine"}, label2id={hostile: 0, "fine": 1})
    model: Any = qdqbert.QDQBertForSequenceClassification(config)
    model.name_or_path = hostile
    tree = Holder(hostile, **{name: nn.QuantLinear(2, 2), f"{name}_input_quantizer": nn.TensorQuantizer()})
    odd_class: Any = type(hostile, (Holder,), {})
    collected = Holder("", **{name: Holder("", _input_quantizer=nn.TensorQuantizer())})
    return [
        model,
        model.summary(),
        qdqbert.explain(model),
        tree,
        odd_class("", child=Holder()),
        summarize(tree),
        summarize(Holder("", **{name: tree})),
        qdqbert.Calibration(collected),
        qdqbert.quantizers(tree, {"*": "off"}),
        CalibrationSearch(
            measure="error",
            errors={"max": 1.0, "mix-by-site": 0.5},
            best="mix-by-site",
            candidates={"mix-by-site": {name: "mse"}},
            kinds={name: "max"},
            alone={name: {"max": 1.0}},
            refined_from="max",
            refined={name: "mse"},
            passes=3,
            load=lambda chosen: None,
        ),
        QuantDescriptor(name=hostile),
        nn.TensorQuantizer(QuantDescriptor(name=hostile, amax=1.0)),
    ]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_text_from_outside_becomes_markup(hostile: str) -> None:
    for shown in everything(hostile):
        page = page_of(shown)
        assert all(len(value or "") <= 120 for _, value in page.attributes)
        assert max(len(text) for text in page.texts) <= 200
        assert all(letter.isprintable() for text in page.texts for letter in text)


def test_a_hostile_text_is_still_shown_as_text() -> None:
    hostile = "<b>&</b>"
    for shown in everything(hostile)[:-1]:  # a quantizer alone has no name
        assert hostile in page_of(shown).text, type(shown)


def test_hostile_labels_of_a_folder_do_not_inject(tmp_path: Path) -> None:
    label = "<script>alert(document.cookie)</script>"
    config = tiny_model.config(id2label={0: label, 1: "b"}, label2id={label: 0, "b": 1})
    qdqbert.QDQBertForSequenceClassification(config).save_pretrained(tmp_path)
    page = page_of(qdqbert.QDQBertForSequenceClassification.from_pretrained(tmp_path))
    assert "2 labels: <script>a.../script>, b" in page.text


def test_the_tree_has_every_module_and_the_sum_of_its_parameters() -> None:
    model = tiny_model.question_answering()
    text = page_of(model).text
    for name, module in model.named_modules():
        assert f"({name.rpartition('.')[2]}): {type(module).__name__}" in text or not name
    assert f"QDQBertForQuestionAnswering [{model.num_parameters():,} parameters] 40 dynamic" in text
    assert "(qa_outputs): Linear in_features=24, out_features=2, bias=True [50 parameters]" in text


def test_the_tree_folds_and_opens_at_the_top() -> None:
    model = tiny_model.question_answering()
    html = model._repr_html_()
    assert html.count("<details") == sum(bool(list(module.children())) for module in model.modules())
    assert html.count("<details open>") == 2


def test_quantizers_show_their_state() -> None:
    model = tiny_model.question_answering()
    qdqbert.calibrate(model, [tiny_model.batch()])
    layer = model.get_submodule("bert.encoder.layer.0.output.dense")
    layer.input_quantizer.disable()
    layer.weight_quantizer.num_bits = 4
    amax = layer.weight_quantizer.amax
    text = page_of(layer).text
    assert "(_input_quantizer): TensorQuantizer off(_weight" in text
    assert f"calibrated 4 bit, axis 0, amax {amax.min():.4g} .. {amax.max():.4g} (24 values)" in text
    assert "1 calibrated 1 off" in text


def test_a_quantizer_alone_is_a_table_of_its_state() -> None:
    text = page_of(nn.TensorQuantizer(QuantDescriptor(num_bits=5, amax=31.0, unsigned=True))).text
    for part in ("statecalibrated", "formatunsigned 5 bit", "codes0 .. 31", "amax31", "step1"):
        assert part in text
    assert "codes-448 .. 448" in page_of(nn.TensorQuantizer(QuantDescriptor(num_bits=(4, 3)))).text
    assert "codes-127 .. 127" in page_of(nn.TensorQuantizer(QuantDescriptor(narrow_range=True))).text
    assert "codes-128 .. 127" in page_of(nn.TensorQuantizer()).text


def test_a_descriptor_shows_its_fields_and_dims_the_defaults() -> None:
    html = QuantDescriptor(num_bits=4, axis=(0, 1))._repr_html_()
    assert "<tr><td>axis</td><td>(0, 1)</td></tr>" in html
    assert '<tr class="dim"><td>unsigned</td><td>False</td></tr>' in html


def test_the_table_of_a_summary_has_the_cells_of_its_text() -> None:
    model = tiny_model.question_answering()
    qdqbert.calibrate(model, [tiny_model.batch()])
    model.get_submodule("bert.encoder.layer.0.output.dense._weight_quantizer").disable()
    summary = model.summary()
    words = re.sub(r"-{3,}", "", str(summary)).split()
    assert "".join(words) == re.sub(r"\s", "", page_of(summary).text)


def test_calibrations_and_changes_have_tables() -> None:
    model = tiny_model.question_answering()
    calibration = qdqbert.calibrate(model, [tiny_model.batch()])
    text = page_of(calibration).text
    count = sum(name.endswith("_input_quantizer") for name, _ in model.named_modules())
    assert f"{count} quantizers, histogram, 1 batches, pass 1 of 1" in text
    name = "bert.encoder.layer.0.output.dense._input_quantizer"
    largest = calibration.ranges("max")[name]
    assert re.search(rf"{re.escape(name)}{re.escape(f'{largest.item():.4g}')}\d+", text)
    changes = qdqbert.quantizers(model, {"*.layer.0.output.dense._input_quantizer": "off"})
    assert re.search(rf"{re.escape(name)}on, 8 bits, amax [\d.]+off, 8 bits", page_of(changes).text)
    search = calibration.search([tiny_model.batch()], methods=["max", "mse"], sites=2)
    words = re.sub(r"-{3,}", "", str(search)).partition("\n\nlogit error:")[0].split()
    assert "".join(words) in re.sub(r"\s", "", page_of(search).text)
    fresh = qdqbert.Calibration(model, statistics="max")
    assert "attention.self.query._input_quantizerno data" in page_of(fresh).text


def test_models_do_not_load_what_only_notebooks_need() -> None:
    script = "import qdqbert, sys; qdqbert.QDQBertModel; print('qdqbert.notebook' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
