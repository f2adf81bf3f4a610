# SPDX-License-Identifier: Apache-2.0
"""Which kernel computes each part of a model, on codes or on floats, and what would change that.

How a site is computed is decided in C (csrc/layers/site.h), which also says why it is not integer, which
kernel of the device's table it takes, and whether codes or floats travel to the next site and why.  Here that
is joined with the rows of `qdqbert.summary`, the ranges of the quantizers, the multiply-adds of a batch, and
what a user can do about it (`qdqbert.remedies`).
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import textwrap
from functools import cached_property
from typing import Any

import numpy as np

from qdqbert.layer_blocks import LayerBlock, folded, split_name
from qdqbert.modeling_base import QDQBertPreTrainedModel
from qdqbert.modeling_tree import Embedding, LayerNorm
from qdqbert.module import Module, ModuleList
from qdqbert.nn import TensorQuantizer
from qdqbert.remedies import hint_for_ranges, remedy_of
from qdqbert.summary import SummaryRow, quantizer_state, summarize
from qdqbert.text_table import format_table, shorten

__all__ = ["ExplainedOperand", "ExplainedSite", "Explanation", "explain"]

PATHS = ("integer", "dequantized", "float")
_WIDTH = 120
_LEAST_NAME = 24
_USUAL_LENGTH = 128
_WEIGHT = "._weight_quantizer"
# Sites by the last part of their names; all others are linear layers.
_KINDS = {"scores": "product", "context": "product", "add": "add", "distance_embedding": "positions"}


@dataclasses.dataclass(frozen=True)
class ExplainedOperand:
    """One quantizer of a site.

    Attributes
    ----------
    name : str
        Its dotted name.
    state : {"calibrated", "dynamic", "collecting", "idle", "off"}
        As in `QuantizerFacts`; a range that is learned counts as calibrated.
    codes : str
        ``"int8"``, ``"int4"``, ``"uint7"``, ``"E4M3"``, or ``"float"`` of one that does not quantize.
    lowest, highest : int or None
        Codes; None unless they are integers.
    ranges : int
        How many ranges it has: 1 of the tensor, one for each row, ...; 0 while they are those of each batch.
    least_range, largest_range : float or None
        Of its amax; None while there is none, or it is not finite.
    arrives : {"codes", "floats", ""}
        How its tensor comes to the site: as the codes that the site multiplies or adds, or as floats, which
        it quantizes itself if it is integer; empty for a weight.
    floats_because : str
        Why floats come.
    """

    name: str
    state: str
    codes: str
    lowest: int | None
    highest: int | None
    ranges: int
    least_range: float | None
    largest_range: float | None
    arrives: str = ""
    floats_because: str = ""


@dataclasses.dataclass(frozen=True)
class ExplainedSite:
    """A part of a model: a linear layer, a product of attention, a residual add, an embedding, a LayerNorm.

    Attributes
    ----------
    name : str
        Dotted name.
    kind : {"linear", "product", "add", "layer_norm", "embedding", "positions"}
        ``"positions"`` are the products with relative positions.
    path : {"integer", "dequantized", "float"}
        On codes; on floats that were quantized and dequantized; on floats as they are.
    kernel : str
        What combines the operands, a name of ``Device.kernels``.
    isa : str
        The variant that the device has it from.
    shape : tuple of int or None
        Of the weight.
    operands : tuple of ExplainedOperand
        Its quantizers; none where QDQBERT has none.
    multiply_adds : int
        Of the batch that was asked for.
    reason : str
        Why it is not integer.
    obstacle : str
        The quantizer that the reason speaks of.
    advice : str
        What would change it, or make it faster, in a sentence; empty if there is nothing to do.
    rules : dict or None
        The same for ``qdqbert.quantizers(model, rules)``, where that can be said in rules.
    gives : {"codes", "floats", "both"}
        How its result travels to those that read it; of a residual add, after LayerNorm.
    floats_because : str
        Why floats travel, where codes could.
    """

    name: str
    kind: str
    path: str
    kernel: str
    isa: str
    shape: tuple[int, ...] | None = None
    operands: tuple[ExplainedOperand, ...] = ()
    multiply_adds: int = 0
    reason: str = ""
    obstacle: str = ""
    advice: str = ""
    rules: dict[str, Any] | None = None
    gives: str = "floats"
    floats_because: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields in plain Python types, as `json` takes them."""
        fields = dataclasses.asdict(self)
        fields["shape"] = None if self.shape is None else list(self.shape)
        fields["operands"] = [dataclasses.asdict(operand) for operand in self.operands]
        return fields


class Explanation:
    """What `explain` found; shown as a table by `print` and by notebooks.

    Parameters
    ----------
    title : str
        What the model is.
    isa : str
        Strongest kernel variant of its device.
    num_threads : int
    batch_size, seq_len : int
        The batch whose multiply-adds are counted.
    rows : tuple of ExplainedSite
        In the order of computation.
    lists : tuple of str
        Dotted names of the lists of layers, of which equal ones share their rows when shown.
    ends : frozenset of str
        Rows whose result no other row reads, though it is one of theirs in layers before: those at the end of
        the last layer, which shares its rows all the same.
    """

    def __init__(
        self,
        title: str,
        isa: str,
        num_threads: int,
        batch_size: int,
        seq_len: int,
        rows: tuple[ExplainedSite, ...],
        lists: tuple[str, ...] = (),
        ends: frozenset[str] = frozenset(),
    ) -> None:
        self.title = title
        self.isa = isa
        self.num_threads = num_threads
        self.batch_size = batch_size
        self.seq_len = seq_len
        self.rows = rows
        self._lists = lists
        self._ends = ends

    def __getitem__(self, name: str) -> ExplainedSite:
        """Return the row of a dotted name.

        Parameters
        ----------
        name : str

        Raises
        ------
        KeyError
            If there is none.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    @cached_property
    def multiply_adds(self) -> dict[str, int]:
        """Multiply-adds of the batch by path; paths without any are left out."""
        totals = {path: sum(row.multiply_adds for row in self.rows if row.path == path) for path in PATHS}
        return {path: total for path, total in totals.items() if total}

    @property
    def integer_share(self) -> float:
        """Share of the multiply-adds that run on codes, 0 .. 1."""
        total = sum(self.multiply_adds.values())
        return self.multiply_adds.get("integer", 0) / total if total else 0.0

    @property
    def rules(self) -> dict[str, Any]:
        """What rules can make integer, all together: ``qdqbert.quantizers(model, explanation.rules)``."""
        return {name: setting for row in self.rows for name, setting in (row.rules or {}).items()}

    def records(self) -> list[dict[str, Any]]:
        """Return a flat dictionary for each row: ``pandas.DataFrame(explanation.records())``."""
        records = []
        for row in self.rows:
            record = {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
            del record["rules"]
            record["shape"] = "" if row.shape is None else " x ".join(str(size) for size in row.shape)
            record["operands"] = _codes_text(row)
            record["arrives"] = _sign(row).join(each.arrives for each in row.operands if each.arrives)
            record["ranges"] = _ranges_text(row)
            records.append(record)
        return records

    def to_dict(self) -> dict[str, Any]:
        """Return everything in plain Python types, as `json` takes them."""
        return {
            "model": self.title,
            "isa": self.isa,
            "num_threads": self.num_threads,
            "batch_size": self.batch_size,
            "seq_len": self.seq_len,
            "multiply_adds": self.multiply_adds,
            "integer_share": self.integer_share,
            "rows": [row.to_dict() for row in self.rows],
        }

    def blocks(self, *, every_layer: bool = False) -> list[LayerBlock[ExplainedSite]]:
        """Return the rows as they are shown.

        Parameters
        ----------
        every_layer : bool
            Do not let equal layers share their rows.
        """
        if every_layer:
            return folded(self.rows, self._lists, lambda row: row.name)
        return folded(self.rows, self._lists, self._shared_facts)

    def _shared_facts(self, row: ExplainedSite) -> Any:
        operands = [
            (each.state, each.codes, each.ranges, each.arrives, each.floats_because) for each in row.operands
        ]
        given = self._layer_before(row) if row.name in self._ends else row
        gives = (given.gives, given.floats_because)
        return (row.kind, row.path, row.kernel, row.isa, row.shape, operands, self.note(row), gives)

    def _layer_before(self, row: ExplainedSite) -> ExplainedSite:
        """Return the row of this part in the layer before, or the row itself in the first."""
        head, label = split_name(row.name, self._lists)
        path, _, index = head.rpartition(".")
        return row if index == "0" else self[f"{path}.{int(index) - 1}.{label}"]

    def note(self, row: ExplainedSite) -> str:
        """Return why a row is as it is and what would change it, for any layer; empty if there is nothing.

        Parameters
        ----------
        row : ExplainedSite
        """
        obstacle = split_name(row.obstacle, self._lists)[1] if row.obstacle else ""
        reason = row.reason + (f" ({obstacle})" if obstacle and row.reason else "")
        return ": ".join(each for each in (reason, row.advice) if each)

    def note_of_floats(self, row: ExplainedSite) -> str:
        """Return why a row gives floats where it could give codes; empty if it does not.

        Parameters
        ----------
        row : ExplainedSite
        """
        is_float_product = row.kind in ("linear", "product") and row.path != "integer"
        return "" if is_float_product or not row.floats_because else f"gives floats: {row.floats_because}"

    @cached_property
    def notes(self) -> list[str]:
        """The notes of all rows, each once, in order."""
        notes = (note for row in self.rows for note in (self.note(row), self.note_of_floats(row)))
        return list(dict.fromkeys(filter(None, notes)))

    def _numbered(self, text: str, note: str) -> str:
        return f"{text} ({self.notes.index(note) + 1})" if note else text

    def share(self, block: LayerBlock[ExplainedSite]) -> str:
        """Return the share of all multiply-adds that is in the equal layers of a block, as a table shows it.

        Parameters
        ----------
        block : LayerBlock
        """
        work = block.count * sum(row.multiply_adds for _, row in block.rows)
        return _share_text(work, sum(self.multiply_adds.values()))

    def cells(self, row: ExplainedSite) -> list[str]:
        """Return what a table shows of a row beside its name: path, kernel, codes, gives, work, ranges.

        Parameters
        ----------
        row : ExplainedSite
        """
        return [
            self._numbered(row.path, self.note(row)),
            f"{row.kernel}__{row.isa}",
            _codes_text(row),
            self._numbered(row.gives, self.note_of_floats(row)),
            _share_text(row.multiply_adds, sum(self.multiply_adds.values())),
            _ranges_text(row),
        ]

    def totals(self) -> list[str]:
        """Return the lines below the table."""
        total = sum(self.multiply_adds.values())
        shares = ", ".join(
            f"{_share_text(count, total)} {path}" for path, count in self.multiply_adds.items()
        )
        return [f"{total:,} multiply-adds of {self.batch_size} x {self.seq_len} tokens: {shares or 'none'}"]

    @property
    def heading(self) -> str:
        """What the model is, and where it runs."""
        threads = f"{self.num_threads} thread{'s' if self.num_threads > 1 else ''}"
        return f"{self.title} on {self.isa}, {threads}"

    def lines(self, *, every_layer: bool = False) -> list[str]:
        """Return the table, line by line.

        Parameters
        ----------
        every_layer : bool
            Show every layer by itself, with its ranges.
        """
        cells: list[list[str]] = []
        for block in self.blocks(every_layer=every_layer):
            if block.title:
                times = f"  ({block.count} x)" if block.count > 1 else ""
                cells.append([f"{block.title}{times}", "", "", "", "", self.share(block), ""])
            for label, row in block.rows:
                cells.append([f"  {label}" if block.title else label, *self.cells(row)])
        header = ["site", "computed", "kernel", "codes", "gives", "work", "ranges"]
        if not every_layer:
            header, cells = header[:-1], [line[:-1] for line in cells]
        others = [max(len(line[i]) for line in [header, *cells]) for i in range(1, 6)]
        room = max(_LEAST_NAME, _WIDTH - sum(others) - 2 * len(others))
        cells = [[shorten(line[0], room), *line[1:]] for line in cells]
        lines = [shorten(self.heading, _WIDTH), "", *format_table(header, cells, left=(0, 1, 2, 3, 4, 6))]
        lines += ["", *self.totals()]
        for number, note in enumerate(self.notes, start=1):
            lines += textwrap.wrap(f"({number}) {note}", _WIDTH, subsequent_indent="    ")
        return lines

    def __str__(self) -> str:
        return "\n".join(self.lines())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from qdqbert.notebook import explanation_html

        return explanation_html(self)


def explain(model: QDQBertPreTrainedModel, *, batch_size: int = 1, seq_len: int | None = None) -> Explanation:
    """Say how each part of a model is computed: kernel, ISA, codes or floats, why, what would change it.

    The forward that is spoken of is ``model(...)`` in evaluation mode with arguments that ask for no other
    outputs than the configuration does (hidden states, and of a decoder its keys, which are floats), without
    `past_key_values`, and with an encoder's states where the model attends to some.

    Parameters
    ----------
    model : QDQBertPreTrainedModel
    batch_size : int
        Sequences of the batch whose multiply-adds are counted; at least 1.
    seq_len : int, optional
        Tokens of each, none of them padding, 1 .. the model's positions; 128, or as many as there are, if it
        is left out.  A decoder's queries see the keys up to their own place; an encoder's states are as many.

    Returns
    -------
    Explanation
        As things stand now; later changes do not reach it.  ``print`` shows it, notebooks
        too; `Explanation.rows`, `Explanation.records` and `Explanation.to_dict` are for programs.

    Raises
    ------
    TypeError
        If `model` is no QDQBERT model, or `batch_size` or `seq_len` no integer.
    ValueError
        If `batch_size` or `seq_len` is out of range.

    Examples
    --------
    >>> import qdqbert
    >>> model = qdqbert.QDQBertModel(qdqbert.QDQBertConfig(num_hidden_layers=2))
    >>> found = qdqbert.explain(model, batch_size=8, seq_len=384)
    >>> f"{found.integer_share:.4f}"
    '0.9999'
    >>> row = found["encoder.layer.1.output.dense"]
    >>> row.kernel, row.gives, row.floats_because
    ('product_qs8', 'floats', 'the range is dynamic: it is known when the whole tensor is')
    """
    if not isinstance(model, QDQBertPreTrainedModel):
        raise TypeError(f"model: expected a QDQBERT model, got {type(model).__name__}")
    for name, count in (("batch_size", batch_size), ("seq_len", 1 if seq_len is None else seq_len)):
        if isinstance(count, bool) or not isinstance(count, int | np.integer):
            raise TypeError(f"{name}: expected an integer, got {type(count).__name__}")
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
    most = model.config.max_position_embeddings
    seq_len = min(_USUAL_LENGTH, most) if seq_len is None else seq_len
    if not 1 <= seq_len <= most:
        raise ValueError(f"seq_len: expected 1 .. {most}, got {seq_len}")
    joined = _Join(model, batch_size, seq_len)
    summary = summarize(model)
    rows = tuple(row for each in summary.rows for row in [joined.row(each)] if row is not None)
    lists = tuple(path for path, module in joined.modules.items() if isinstance(module, ModuleList))
    device = model.device
    return Explanation(
        summary.title, device.isa, device.num_threads, batch_size, seq_len, rows, lists, joined.ends
    )


class _Join:
    """Rows of a summary, and what C and the quantizers say about them."""

    def __init__(self, model: QDQBertPreTrainedModel, batch_size: int, seq_len: int) -> None:
        self.model = model
        self.modules: dict[str, Module] = dict(model.named_modules())
        outputs = model._engine.asked_by_default(
            model.config, keeps_cache="use_cache" in inspect.signature(model.forward).parameters
        )
        self.sites = {name: rest for name, *rest in model._engine.core.sites(outputs)}
        self.arriving: dict[str, str] = {}  # by quantizer: why its tensor comes in floats, "" if in codes
        self.given: dict[str, list[str]] = {}  # by what makes a tensor: the same, for each that reads it
        readers: dict[str, list[str]] = {}
        for maker, reader, quantizer, refusal in model._engine.core.edges(outputs):
            self.given.setdefault(maker, []).append(refusal)
            readers.setdefault(maker, []).append(reader)
            if quantizer:
                self.arriving[quantizer] = refusal
        adds = [maker for maker, names in readers.items() if maker in self.sites and not any(names)]
        self.ends = frozenset(name for add in adds for name in (add, _norm_of(add)))
        self.variants = dict(model.device.kernels())
        self.batch_size, self.seq_len = batch_size, seq_len
        self.base = "" if model.base_model is model else f"{model.base_model_prefix}."

    def row(self, summary: SummaryRow) -> ExplainedSite | None:
        """Return the row, or None for a module that computes nothing by itself."""
        name = summary.name
        if name in self.sites:
            return self._site(summary)
        module = self.modules[name]
        if isinstance(module, LayerNorm):
            # The residual add normalizes in the same pass.
            add = f"{name.rpartition('.')[0]}.add"
            kernel = self.sites[add][3] if add in self.sites else "layer_norm_f32"
            maker = "embeddings" if name == f"{self.base}embeddings.LayerNorm" else add
            return self._float("layer_norm", summary, kernel, self.given.get(maker, []))
        if not isinstance(module, Embedding):
            return None
        return self._float("embedding", summary, "add_f32", [])

    def _float(self, kind: str, summary: SummaryRow, kernel: str, given: list[str]) -> ExplainedSite:
        gives, because = _gives(given)
        isa = self.variants[kernel]
        return ExplainedSite(
            summary.name,
            kind,
            "float",
            kernel,
            isa,
            summary.shape,
            gives=gives,
            floats_because=because,
        )

    def _site(self, summary: SummaryRow) -> ExplainedSite:
        name = summary.name
        path, reason, obstacle, kernel, isa = self.sites[name]
        parent, _, last = name.rpartition(".")
        owner = name if name in self.modules else parent
        quantizers = {
            f"{owner}.{each.name}": self._quantizer(f"{owner}.{each.name}") for each in summary.quantizers
        }
        kind = _KINDS.get(last, "linear")
        advice, rules = "", None
        if path == "dequantized" and obstacle in quantizers:
            advice, rules = remedy_of(obstacle, quantizers[obstacle], obstacle.endswith(_WEIGHT))
        elif path == "float":
            reason = "both quantizers are off" if quantizers else "QDQBERT does not quantize it"
            if quantizers:
                advice, rules = "switch them on", dict.fromkeys(quantizers, "on")
        elif path == "integer":
            advice = hint_for_ranges(
                quantizer_state(each)
                for path, each in quantizers.items()
                if not path.endswith(_WEIGHT)  # whose codes are made once
            )
        return ExplainedSite(
            name,
            kind,
            path,
            kernel,
            isa,
            summary.shape,
            tuple(self._operand(each, quantizer) for each, quantizer in quantizers.items()),
            self._work(name, kind, summary.shape),
            reason,
            obstacle,
            advice,
            rules,
            *_gives(self.given.get(name, [])),
        )

    def _operand(self, name: str, quantizer: TensorQuantizer) -> ExplainedOperand:
        because = self.arriving.get(name)
        arrives = "" if because is None else "floats" if because else "codes"
        return dataclasses.replace(_operand(name, quantizer), arrives=arrives, floats_because=because or "")

    def _quantizer(self, name: str) -> TensorQuantizer:
        quantizer = self.modules[name]
        assert isinstance(quantizer, TensorQuantizer)
        return quantizer

    def _work(self, name: str, kind: str, shape: tuple[int, ...] | None) -> int:
        if kind == "add":
            return 0
        if kind == "product":
            return self._pairs(name) * self._width(name)
        if kind == "positions":
            is_twice = self.model.config.position_embedding_type == "relative_key_query"
            return (1 + is_twice) * self._pairs(name) * self._width(name)
        assert shape is not None
        in_encoder = name.startswith(f"{self.base}encoder.")
        has_pooler = f"{self.base}pooler" in self.modules
        rows = self.batch_size * (1 if has_pooler and not in_encoder else self.seq_len)
        return rows * math.prod(shape)

    def _pairs(self, name: str) -> int:
        """Pairs of a query and a key that it sees."""
        sees_all = not self.model.config.is_decoder or ".crossattention." in name
        length = self.seq_len
        return self.batch_size * (length * length if sees_all else length * (length + 1) // 2)

    def _width(self, name: str) -> int:
        """Features of the heads that are left, together."""
        query = self.modules[f"{name.rpartition('.')[0]}.query"]._slots()["weight"].shape
        assert query is not None
        return query[0]


def _norm_of(add: str) -> str:
    return f"{add.rpartition('.')[0]}.LayerNorm"


def _gives(refusals: list[str]) -> tuple[str, str]:
    """Return what travels and why floats do, of a tensor's ways to all that read it."""
    because = next(filter(None, refusals), "")
    if refusals and not because:
        return "codes", ""
    return "both" if "" in refusals else "floats", because


def _operand(name: str, quantizer: TensorQuantizer) -> ExplainedOperand:
    state = quantizer_state(quantizer)
    amax = quantizer._handle.amax()
    quantizes = not quantizer._disabled and quantizer._if_quant
    bits = quantizer.num_bits
    lowest = highest = None
    if not quantizes:
        codes = "float"
    elif isinstance(bits, tuple):
        codes = "E4M3"
    else:
        codes = f"{'u' * quantizer.unsigned}int{bits}"
        highest = int(quantizer.maxbound)
        lowest = 0 if quantizer.unsigned else -highest - (not quantizer.narrow_range)
    is_known = amax is not None and amax.size and bool(np.all(np.isfinite(amax)))
    least, largest = (float(amax.min()), float(amax.max())) if amax is not None and is_known else (None, None)
    return ExplainedOperand(
        name, state, codes, lowest, highest, 0 if amax is None else int(amax.size), least, largest
    )


def _codes_text(row: ExplainedSite) -> str:
    return _sign(row).join(operand.codes for operand in row.operands)


def _ranges_text(row: ExplainedSite) -> str:
    return _sign(row).join(_range_text(operand) for operand in row.operands)


def _sign(row: ExplainedSite) -> str:
    return " + " if row.kind == "add" else " x "


def _range_text(operand: ExplainedOperand) -> str:
    if operand.codes == "float":
        return "-"
    if operand.ranges == 0:
        return "the weight's" if operand.name.endswith(_WEIGHT) else "each batch's"
    if operand.least_range is None or operand.largest_range is None:
        return "not finite"
    if operand.ranges == 1:
        return f"{operand.largest_range:.4g}"
    return f"{operand.least_range:.4g} .. {operand.largest_range:.4g}"


def _share_text(part: int, whole: int) -> str:
    """Return a share of the multiply-adds; nothing and 100 % are exact."""
    if not part or not whole:
        return ""
    if part == whole:
        return "100 %"
    share = round(100 * part / whole, 1)
    return "< 0.1 %" if share == 0 else "> 99.9 %" if share == 100 else f"{share:.1f} %"
