# SPDX-License-Identifier: Apache-2.0
"""A model as a table: weights, quantizers, and the way each product is computed.

The facts are the model's own: `Module.named_modules` and the slots of each module, `QuantizerState`, and
``execution_sites``.  Here they are put into rows, one for each module with tensors and one for each product
between activations, in the order of computation.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from typing import Any

from qdqbert._core import STAGE_CALIB, STAGE_DISABLED, STAGE_QUANT
from qdqbert.layer_blocks import LayerBlock, folded
from qdqbert.module import Module, ModuleList
from qdqbert.nn import TensorQuantizer
from qdqbert.text_table import format_bytes, format_table, shorten

__all__ = ["Block", "ModelSummary", "QuantizerFacts", "SummaryRow", "quantizer_state", "summarize"]

STATES = ("calibrated", "dynamic", "collecting", "idle", "off")
_WIDTH = 100
_LEAST_NAME = 24
_FLOAT32_BYTES = 4
# Products that are no module: the quantizers of their operands, which stand beside them in the tree.
_OPERANDS = {
    "scores": ("matmul_q_input_quantizer", "matmul_k_input_quantizer"),
    "context": ("matmul_a_input_quantizer", "matmul_v_input_quantizer"),
    "add": ("add_local_input_quantizer", "add_residual_input_quantizer"),
}


@dataclasses.dataclass(frozen=True)
class QuantizerFacts:
    """One quantizer in a row.

    Attributes
    ----------
    name : str
        The last part of its name.
    state : {"calibrated", "dynamic", "collecting", "idle", "off"}
        Quantizing with a range, or with that of the tensor at hand; collecting statistics, perhaps while it
        quantizes; enabled without a task; disabled.
    bits : int or str
        Of the integer format, or ``"E4M3"``.
    """

    name: str
    state: str
    bits: int | str


@dataclasses.dataclass(frozen=True)
class SummaryRow:
    """A module with tensors, or a product of two activations.

    Attributes
    ----------
    name : str
        Dotted name.
    kind : str
        Class of the module, or ``"product"``.
    shape : tuple of int or None
        Of the weight.
    parameters : int
        Elements of its own tensors; those that are tied to another module count there.
    tied_to : str or None
        The tensor that its weight is.
    quantizers : tuple of QuantizerFacts
    path : {"integer", "float", "dequantized", ""}
        How it is computed; empty for what is no product.
    reason : str
        Why not with integers, where that is not plain.
    """

    name: str
    kind: str
    shape: tuple[int, ...] | None = None
    parameters: int = 0
    tied_to: str | None = None
    quantizers: tuple[QuantizerFacts, ...] = ()
    path: str = ""
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields in plain Python types; quantizers as a dictionary of states by name."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields["shape"] = None if self.shape is None else list(self.shape)
        fields["quantizers"] = {each.name: each.state for each in self.quantizers}
        return fields


class Block(LayerBlock[SummaryRow]):
    """Neighbouring rows that share the beginning of their name; equal blocks of a list are one.

    Attributes
    ----------
    title : str
        What they share, such as ``"bert.encoder.layer.0-11"``; empty for a row alone.
    count : int
        Number of equal blocks.
    rows : tuple of (str, SummaryRow)
        The rest of the name, and the row; of the first block if there are several.
    """

    @property
    def parameters(self) -> int:
        """Elements in all equal blocks."""
        return self.count * sum(row.parameters for _, row in self.rows)


class ModelSummary:
    """What `summarize` found; shown as a table by `print` and by notebooks.

    Parameters
    ----------
    title : str
        What the model is.
    rows : tuple of SummaryRow
        In the order of computation.
    lists : tuple of str
        Dotted names of the lists of layers, of which equal ones share their rows when shown.
    """

    def __init__(self, title: str, rows: tuple[SummaryRow, ...], lists: tuple[str, ...] = ()) -> None:
        self.title = title
        self.rows = rows
        self._lists = lists

    @property
    def parameters(self) -> int:
        """Elements of all parameters; tied ones count once."""
        return sum(row.parameters for row in self.rows)

    @property
    def bytes(self) -> int:
        """Bytes of the parameters, which are float32."""
        return _FLOAT32_BYTES * self.parameters

    @property
    def quantizers(self) -> dict[str, int]:
        """Number of quantizers by state; states that none is in are left out."""
        counts = Counter(each.state for row in self.rows for each in row.quantizers)
        return {state: counts[state] for state in STATES if counts[state]}

    @property
    def paths(self) -> dict[str, int]:
        """Number of products by the way they are computed; see `SummaryRow`."""
        counts = Counter(row.path for row in self.rows if row.path)
        return {path: counts[path] for path in ("integer", "float", "dequantized") if counts[path]}

    @property
    def reasons(self) -> list[str]:
        """Why products are not computed with integers, each reason once, in order."""
        return list(dict.fromkeys(row.reason for row in self.rows if row.reason))

    def as_dict(self) -> dict[str, Any]:
        """Return everything in plain Python types, as `json` takes them."""
        return {
            "model": self.title,
            "rows": [row.as_dict() for row in self.rows],
            "parameters": self.parameters,
            "bytes": self.bytes,
            "quantizers": self.quantizers,
            "paths": self.paths,
        }

    def blocks(self) -> list[Block]:
        """Return the rows as they are shown: grouped, and equal layers once."""
        blocks = folded(self.rows, self._lists, lambda row: dataclasses.replace(row, name=""))
        return [Block(block.title, block.count, block.rows) for block in blocks]

    def totals(self) -> list[str]:
        """Return the lines below the table."""
        lines = [f"{self.parameters:,} parameters ({format_bytes(self.bytes)} as float32)"]
        states, paths = self.quantizers, self.paths
        if states:
            lines.append(f"{sum(states.values())} quantizers: {_listed(states)}")
        if paths:
            lines.append(f"{sum(paths.values())} products: {_listed(paths)}")
        return lines

    def __str__(self) -> str:
        lines = [shorten(self.title, _WIDTH), ""]
        reasons = self.reasons
        cells: list[list[str]] = []
        for block in self.blocks():
            if block.title:
                times = f"  ({block.count} x)" if block.count > 1 else ""
                total = f"{block.parameters:,}" if block.count > 1 else ""
                cells.append([f"{block.title}{times}", "", total, "", ""])
            for label, row in block.rows:
                cells.append([f"  {label}" if block.title else label, *row_cells(row, reasons)])
        header = ["module", "weight", "parameters", "quantizers", "computed"]
        others = [max(len(line[i]) for line in [header, *cells]) for i in range(1, len(header))]
        room = max(_LEAST_NAME, _WIDTH - sum(others) - 2 * len(others))
        cells = [[shorten(line[0], room), *line[1:]] for line in cells]
        lines += format_table(header, cells, left=(0, 1, 3, 4))
        lines += ["", *self.totals()]
        lines += [f"({number}) {reason}" for number, reason in enumerate(reasons, start=1)]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from qdqbert.notebook import summary_html

        return summary_html(self)


def row_cells(row: SummaryRow, reasons: list[str]) -> list[str]:
    """Return what a table shows of a row beside its name: weight, parameters, quantizers, way of computing.

    Parameters
    ----------
    row : SummaryRow
    reasons : list of str
        Notes of the table, referred to by their number from 1.
    """
    shape = "" if row.shape is None else " x ".join(str(size) for size in row.shape)
    parameters = f"{row.parameters:,}" if row.parameters or row.tied_to is None else ""
    if row.tied_to is not None:
        parameters = f"tied + {row.parameters:,}" if row.parameters else "tied"
    elif not row.parameters:
        parameters = ""
    path = f"{row.path} ({reasons.index(row.reason) + 1})" if row.reason else row.path
    return [shape, parameters, _states_text(row.quantizers), path]


def quantizer_state(quantizer: TensorQuantizer) -> str:
    """Return one of the states of `QuantizerFacts`.

    Parameters
    ----------
    quantizer : TensorQuantizer
    """
    stages = quantizer._handle.stages
    if stages & STAGE_DISABLED:
        return "off"
    if stages & STAGE_CALIB:
        return "collecting"
    if not stages & STAGE_QUANT:
        return "idle"
    return "dynamic" if quantizer._handle.amax() is None else "calibrated"


def summarize(model: Module) -> ModelSummary:
    """Put a model, or any module, into a table.

    Parameters
    ----------
    model : Module
        `QDQBertPreTrainedModel.summary` calls this; modules of one's own can be given as well.  How products
        are computed is known of whole models only.

    Returns
    -------
    ModelSummary
        As things stand now; later changes do not reach it.
    """
    modules = dict(model.named_modules())
    quantizers = {path: module for path, module in modules.items() if isinstance(module, TensorQuantizer)}
    sites = {name: (path, reason) for name, path, reason in _sites(model)}
    owners = {path: _owner(path, sites) for path in quantizers}
    order = [path for path in modules if not _below(path, quantizers)]
    after: str | None = None
    for site in sites:
        if site not in modules:  # stands behind the product before it
            order.insert(0 if after is None else order.index(after) + 1, site)
        after = site
    rows = (_row(path, modules, owners, quantizers, sites) for path in order)
    lists = tuple(path for path, module in modules.items() if isinstance(module, ModuleList))
    source = str(getattr(model, "name_or_path", ""))
    title = type(model).__name__ + (f" from {source}" if source else "")
    return ModelSummary(
        title,
        tuple(row for row in rows if row.shape or row.parameters or row.quantizers or row.path),
        lists,
    )


def _sites(model: Module) -> list[tuple[str, str, str]]:
    sites = getattr(model, "execution_sites", None)
    return [] if sites is None else list(sites())


def _owner(path: str, sites: dict[str, tuple[str, str]]) -> str:
    """Return the row of a quantizer: the product of its operand, or the module that it is in."""
    parent, _, name = path.rpartition(".")
    for product, operands in _OPERANDS.items():
        site = f"{parent}.{product}" if parent else product
        if name in operands and site in sites:
            return site
    return parent


def _below(path: str, quantizers: dict[str, TensorQuantizer]) -> bool:
    """Whether a module is a quantizer or inside one."""
    return path in quantizers or any(path.startswith(f"{each}.") for each in quantizers)


def _row(
    path: str,
    modules: dict[str, Module],
    owners: dict[str, str],
    quantizers: dict[str, TensorQuantizer],
    sites: dict[str, tuple[str, str]],
) -> SummaryRow:
    mine = [quantizer for quantizer, owner in owners.items() if owner == path]
    facts = tuple(_facts(each.rpartition(".")[2], quantizers[each]) for each in mine)
    way, reason = sites.get(path, ("", ""))
    # Learned bounds of a quantizer are parameters of the row that it is in.
    inside = [name for name in modules if any(name == each or name.startswith(f"{each}.") for each in mine)]
    parameters = sum(_elements(modules[name]) for name in inside)
    if path not in modules:
        return SummaryRow(path, "product", None, parameters, None, facts, way, reason)
    module = modules[path]
    weight = module._slots().get("weight")
    return SummaryRow(
        path,
        type(module).__name__,
        None if weight is None else weight.shape,
        parameters + _elements(module),
        None if weight is None else weight.tied_to,
        facts,
        way,
        reason,
    )


def _elements(module: Module) -> int:
    """Count the elements of a module's own parameters that are not another's."""
    slots = (
        slot
        for name, slot in module._slots().items()
        if (slot.is_parameter or slot.refusal is not None) and slot.tied_to is None
    )
    return sum(math.prod(slot.shape) for slot in slots if slot.shape is not None)


def _facts(name: str, quantizer: TensorQuantizer) -> QuantizerFacts:
    bits = quantizer.num_bits
    return QuantizerFacts(name, quantizer_state(quantizer), "E4M3" if isinstance(bits, tuple) else bits)


def _states_text(quantizers: tuple[QuantizerFacts, ...]) -> str:
    """Say how many are in which state, and with how many bits if these are not the usual 8."""
    counts = Counter(each.state for each in quantizers)
    text = _listed({state: counts[state] for state in STATES if counts[state]})
    bits = sorted({str(each.bits) for each in quantizers if each.state != "off"} - {"8"})
    return text + (f", {'/'.join(bits)} bit" if bits else "").replace("E4M3 bit", "E4M3")


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
