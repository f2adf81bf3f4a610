# SPDX-License-Identifier: Apache-2.0
"""What notebooks show: HTML that stands alone, for the ``_repr_html_`` methods.

No script, nothing loaded from elsewhere, and every text escaped, names from a checkpoint's files included.
The colours are those of the page, so that light and dark themes both work; where a viewer drops the style
sheet, what is left still reads well.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qdqbert.module import Module
from qdqbert.nn import TensorQuantizer
from qdqbert.summary import STATES, ModelSummary, quantizer_state, row_cells
from qdqbert.text_table import shorten

if TYPE_CHECKING:
    from qdqbert.calibration import Calibration
    from qdqbert.calibration_search import CalibrationSearch
    from qdqbert.explanation import Explanation
    from qdqbert.quant_descriptor import ScaledQuantDescriptor
    from qdqbert.rules import Changes

__all__ = [
    "calibration_html",
    "changes_html",
    "descriptor_html",
    "explanation_html",
    "module_html",
    "search_html",
    "summary_html",
]

_LONGEST = 120  # columns of a text that came from outside
_LONGEST_NOTE = 200  # of our own sentences, with a name in them
_OPEN_DEPTH = 2
_LABELS_SHOWN = 5

_STYLE = """<style>
.qdqbert{font:13px/1.5 ui-monospace,Menlo,Consolas,monospace;color:inherit;overflow-x:auto}
.qdqbert details>*:not(summary){margin-left:1.15em;padding-left:.6em}
.qdqbert details>*:not(summary){border-left:1px solid rgba(128,128,128,.3)}
.qdqbert summary{cursor:pointer;white-space:nowrap}
.qdqbert .leaf{white-space:nowrap;padding-left:1.1em}
.qdqbert .dim{opacity:.6}
.qdqbert .state{border-radius:.6em;padding:0 .5em;font-size:11px;background:rgba(128,128,128,.18)}
.qdqbert .calibrated,.qdqbert .integer{background:rgba(46,160,67,.25)}
.qdqbert .dynamic{background:rgba(210,153,34,.28)}
.qdqbert .collecting{background:rgba(56,139,253,.28)}
.qdqbert .dequantized{background:rgba(219,109,40,.3)}
.qdqbert table{border-collapse:collapse;border:0;margin:.4em 0}
.qdqbert th,.qdqbert td{text-align:left;white-space:nowrap;padding:.05em .9em .05em 0;border:0}
.qdqbert th{border-bottom:1px solid rgba(128,128,128,.6);font-weight:600}
.qdqbert .number{text-align:right}
.qdqbert .inner{padding-left:1.2em}
.qdqbert .block{padding-top:.35em;font-weight:600}
</style>"""


def module_html(module: Module) -> str:
    """Return a tree of a module that folds, with quantizer states and parameter counts.

    Parameters
    ----------
    module : Module
        A quantizer alone is shown as a table of its state.
    """
    if isinstance(module, TensorQuantizer):
        return _page(f"<b>{_text(type(module).__name__)}</b>", _fields(_quantizer_fields(module)))
    return _page(_labels_line(module), _node("", module, 0))


def summary_html(summary: ModelSummary) -> str:
    """Return the table of a summary, its totals and notes.

    Parameters
    ----------
    summary : ModelSummary
    """
    reasons = summary.reasons
    lines = []
    for block in summary.blocks():
        if block.title:
            times = f' <span class="dim">{block.count} x</span>' if block.count > 1 else ""
            total = f"{block.parameters:,}" if block.count > 1 else ""
            lines.append(
                f'<tr><td class="block">{_text(block.title)}{times}</td><td></td>'
                f'<td class="block number">{total}</td><td></td><td></td></tr>'
            )
        for label, row in block.rows:
            shape, parameters, states, path = (_text(cell) for cell in row_cells(row, reasons))
            place = ' class="inner"' if block.title else ""
            how = f'<span class="state {_text(row.path)}">{path}</span>' if path else ""
            lines.append(
                f'<tr><td{place} title="{_text(row.name)}">{_text(label)}</td><td>{shape}</td>'
                f'<td class="number">{parameters}</td><td>{states}</td><td>{how}</td></tr>'
            )
    head = "".join(
        f"<th{number}>{name}</th>"
        for name, number in (
            ("module", ""),
            ("weight", ""),
            ("parameters", ' class="number"'),
            ("quantizers", ""),
            ("computed", ""),
        )
    )
    notes = [*summary.totals(), *(f"({i}) {reason}" for i, reason in enumerate(reasons, start=1))]
    return _page(
        f"<b>{_text(summary.title)}</b>",
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>",
        *(f"<div>{_text(note)}</div>" for note in notes),
    )


def explanation_html(explanation: Explanation) -> str:
    """Return the table of an explanation, its totals and notes.

    Parameters
    ----------
    explanation : Explanation
    """
    lines = []
    for block in explanation.blocks():
        if block.title:
            times = f' <span class="dim">{block.count} x</span>' if block.count > 1 else ""
            lines.append(
                f'<tr><td class="block">{_text(block.title)}{times}</td><td></td><td></td><td></td><td></td>'
                f'<td class="block number">{_text(explanation.share(block))}</td></tr>'
            )
        for label, row in block.rows:
            place = ' class="inner"' if block.title else ""
            how, kernel, codes, gives, work, ranges = (_text(cell) for cell in explanation.cells(row))
            title = f' title="{ranges}"' if block.count == 1 and ranges else ""
            lines.append(
                f'<tr><td{place} title="{_text(row.name)}">{_text(label)}</td>'
                f'<td><span class="state {row.path}">{how}</span></td><td>{kernel}</td>'
                f'<td{title}>{codes}</td><td>{gives}</td><td class="number">{work}</td></tr>'
            )
    head = "".join(f"<th>{name}</th>" for name in ("site", "computed", "kernel", "codes", "gives"))
    head += '<th class="number">work</th>'
    below = [*explanation.totals(), *(f"({i}) {note}" for i, note in enumerate(explanation.notes, start=1))]
    return _page(
        f"<b>{_text(explanation.heading)}</b>",
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>",
        *(f"<div>{_text(note, _LONGEST_NOTE)}</div>" for note in below),
    )


def descriptor_html(descriptor: ScaledQuantDescriptor) -> str:
    """Return a table of a descriptor's fields.

    Parameters
    ----------
    descriptor : QuantDescriptor
    """
    names = (
        "num_bits",
        "name",
        "fake_quant",
        "axis",
        "amax",
        "learn_amax",
        "scale_amax",
        "calib_method",
        "unsigned",
        "narrow_range",
    )
    given = descriptor.dict()
    fields = [(name, _range_text(getattr(descriptor, name)), name in given) for name in names]
    rows = "".join(
        f"<tr{'' if is_given else _DIM}><td>{name}</td><td>{_text(value)}</td></tr>"
        for name, value, is_given in fields
    )
    return _page("<b>QuantDescriptor</b>", f"<table><tbody>{rows}</tbody></table>")


def calibration_html(calibration: Calibration) -> str:
    """Return what a calibration has collected: the largest magnitude of every quantizer, and the bins.

    Parameters
    ----------
    calibration : Calibration
    """
    rows = []
    for name, calibrator in calibration._calibrators.items():
        observer = calibrator._observer
        largest, bins = "no data", ""
        if observer.has_data:
            largest = _range_text(observer.amax())
            bins = str(len(observer.histogram()[0])) if observer.kind == "histogram" else ""
        rows.append([name, largest, bins])
    head = (
        f"{len(rows)} quantizers, {calibration.statistics}, {calibration.batches_done} batches, "
        f"pass {calibration._pass} of {calibration.passes}"
    )
    table = _table(["quantizer", "largest magnitude", "bins"], rows, numbers={2})
    return _page(f"<b>Calibration</b> <span{_DIM}>{_text(head)}</span>", table)


def changes_html(changes: Changes) -> str:
    """Return what rules have changed, before and after.

    Parameters
    ----------
    changes : Changes
    """
    rows = [
        [name, repr(before).strip("<>"), repr(after).strip("<>")] for name, (before, after) in changes.items()
    ]
    return _page(f"<b>{len(rows)} quantizers changed</b>", _table(["quantizer", "before", "after"], rows))


def search_html(search: CalibrationSearch) -> str:
    """Return the tables of a search for methods.

    Parameters
    ----------
    search : CalibrationSearch
    """
    tables = [_table(header, rows) for header, rows in search.tables()]
    note = f"{search.measure}; {search.passes} passes"
    return _page(f"<b>CalibrationSearch</b> <span{_DIM}>{_text(note)}</span>", *tables)


# ---- the tree ----------------------------------------------------------------------------------------------

_DIM = ' class="dim"'


def _node(name: str, module: Module, depth: int) -> str:
    label = f"<span{_DIM}>({_text(name)}):</span> " if name else ""
    kind = f"<b>{_text(type(module).__name__)}</b>" if not name else _text(type(module).__name__)
    if isinstance(module, TensorQuantizer):
        state = quantizer_state(module)
        text = f" <span{_DIM}>{_text(_quantizer_line(module))}</span>" if state != "off" else ""
        return f'<div class="leaf">{label}{kind} {_state(state)}{text}</div>'
    extra = f" <span{_DIM}>{_text(module.extra_repr())}</span>" if module.extra_repr() else ""
    children = list(module.named_children())
    count = sum(value.size for value in module.parameters())
    size = f" <span{_DIM}>[{count:,} parameters]</span>" if count else ""
    if not children:
        return f'<div class="leaf">{label}{kind}{extra}{size}</div>'
    states = Counter(quantizer_state(each) for each in module.modules() if isinstance(each, TensorQuantizer))
    badges = "".join(f" {_state(state, states[state])}" for state in STATES if states[state])
    is_open = " open" if depth < _OPEN_DEPTH else ""
    inner = "".join(_node(each, child, depth + 1) for each, child in children)
    return f"<details{is_open}><summary>{label}{kind}{extra}{size}{badges}</summary>{inner}</details>"


def _state(state: str, count: int | None = None) -> str:
    return f'<span class="state {state}">{state if count is None else f"{count} {state}"}</span>'


def _quantizer_line(quantizer: TensorQuantizer) -> str:
    bits = quantizer.num_bits
    words = ["E4M3" if isinstance(bits, tuple) else f"{bits} bit"]
    words += ["unsigned"] if quantizer.unsigned else []
    words += ["per tensor" if quantizer.axis is None else f"axis {quantizer.axis}"]
    amax = quantizer._handle.amax()
    words += [] if amax is None else [f"amax {_range_text(amax)}"]
    return ", ".join(words)


def _quantizer_fields(quantizer: TensorQuantizer) -> list[tuple[str, str]]:
    amax = quantizer._handle.amax()
    bits = quantizer.num_bits
    fields = [
        ("state", quantizer_state(quantizer)),
        ("format", "E4M3" if isinstance(bits, tuple) else f"{'unsigned ' * quantizer.unsigned}{bits} bit"),
        ("codes", _codes(quantizer)),
        ("ranges", "one of the tensor" if quantizer.axis is None else f"one along axis {quantizer.axis}"),
        ("amax", "that of each tensor" if amax is None else _range_text(amax)),
        ("output", "dequantized values" if quantizer.fake_quant else "codes"),
    ]
    if amax is not None:
        fields.insert(5, ("step", _range_text(amax / np.float32(quantizer.maxbound))))
    calibrator = quantizer._calibrator
    return fields if calibrator is None else [*fields, ("calibrator", type(calibrator).__name__)]


def _codes(quantizer: TensorQuantizer) -> str:
    bound = quantizer.maxbound
    if isinstance(bound, float):
        return f"-{bound:g} .. {bound:g}"
    lowest = 0 if quantizer.unsigned else -bound - (not quantizer.narrow_range)
    return f"{lowest} .. {bound}"


def _labels_line(module: Module) -> str:
    """Name the classes of a model whose configuration names them."""
    labels = getattr(getattr(module, "config", None), "id2label", None)
    if not isinstance(labels, dict) or not labels or all(f"LABEL_{i}" == name for i, name in labels.items()):
        return ""
    shown = ", ".join(_text(str(name), 20) for name in list(labels.values())[:_LABELS_SHOWN])
    more = f", and {len(labels) - _LABELS_SHOWN} more" if len(labels) > _LABELS_SHOWN else ""
    return f"<span{_DIM}>{len(labels)} labels: {shown}{more}</span>"


# ---- pieces ------------------------------------------------------------------------------------------------


def _page(*parts: str) -> str:
    return f'<div class="qdqbert">{_STYLE}{"".join(f"<div>{part}</div>" for part in parts if part)}</div>'


def _fields(rows: Iterable[tuple[str, str]]) -> str:
    lines = "".join(f"<tr><td{_DIM}>{name}</td><td>{_text(value)}</td></tr>" for name, value in rows)
    return f"<table><tbody>{lines}</tbody></table>"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: set[int] | None = None) -> str:
    classes = [' class="number"' if column in (numbers or ()) else "" for column in range(len(header))]
    head = "".join(f"<th{kind}>{_text(cell)}</th>" for cell, kind in zip(header, classes, strict=True))
    lines = "".join(
        "<tr>"
        + "".join(f"<td{kind}>{_text(cell)}</td>" for cell, kind in zip(row, classes, strict=True))
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"


def _range_text(value: Any) -> str:
    """Return a range as people read it: one number, or the smallest and the largest of many."""
    if not isinstance(value, np.ndarray | np.generic):
        return repr(value)
    if value.size == 1:
        return f"{value.item():.4g}"
    return f"{value.min():.4g} .. {value.max():.4g} ({value.size} values)" if value.size else "no values"


def _text(value: str, columns: int = _LONGEST) -> str:
    """Escape a text for HTML, in one line of bounded length."""
    return html.escape(shorten(value, columns))
