# SPDX-License-Identifier: Apache-2.0
"""From the tensors of a checkpoint to the slots of a model, with an honest report.

The steps: rename what TensorFlow called gamma and beta (as the last part of a name only); add or strip the
prefix of the base model; compare names and shapes; refuse, or read.  Nothing is read before every name and
shape is known.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from qdqbert.errors import CheckpointError
from qdqbert.module import Slot
from qdqbert.serialization.folder import Source
from qdqbert.serialization.safetensors_file import SafetensorsFile

if TYPE_CHECKING:
    from qdqbert.configuration_qdqbert import QDQBertConfig

__all__ = [
    "LoadingReport",
    "Tensor",
    "load_tensors",
    "log_report",
    "open_tensors",
    "refuse_disproportion",
    "tensors_of_files",
    "tensors_of_state_dict",
]

_logger = logging.getLogger(__name__)

# Buffers that old checkpoints hold and that follow from the configuration.
_DERIVED = ("embeddings.position_ids", "embeddings.token_type_ids")
# Modules, quantizers and names of one layer, and what a model may need beyond its checkpoint's numbers.
_BYTES_OF_LAYER_OBJECTS = 100_000
_BYTES_BEYOND_CHECKPOINT = 64 << 20
_OLD_NAMES = {"gamma": "weight", "beta": "bias"}


@dataclasses.dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a checkpoint: its shape, and how to read it as float32 into memory of that shape.

    Attributes
    ----------
    shape : tuple of int
    read_into : callable (ndarray) -> None
        Fills a float32 array of that shape.
    """

    shape: tuple[int, ...]
    read_into: Callable[[npt.NDArray[np.float32]], None]


@dataclasses.dataclass(frozen=True, slots=True)
class LoadingReport:
    """What happened to the keys; names are the model's where it has them, otherwise the checkpoint's.

    Attributes
    ----------
    missing_keys : list of str
        Tensors of the model that the checkpoint lacks.
    unexpected_keys : list of str
        Tensors of the checkpoint that the model does not use.
    mismatched_keys : list of (str, tuple, tuple)
        Name, shape in the checkpoint, shape in the model.
    error_msgs : list of str
    """

    missing_keys: list[str]
    unexpected_keys: list[str]
    mismatched_keys: list[tuple[str, tuple[int, ...], tuple[int, ...]]]
    error_msgs: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Return the four lists under their names."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


@contextlib.contextmanager
def tensors_of_files(paths: list[Path]) -> Iterator[dict[str, Tensor]]:
    """Open safetensors files and give their tensors by name.

    Parameters
    ----------
    paths : list of path

    Raises
    ------
    CheckpointError
        If a file is damaged or two files hold a tensor of one name.
    """
    with contextlib.ExitStack() as stack:
        tensors: dict[str, Tensor] = {}
        for path in paths:
            file = stack.enter_context(SafetensorsFile(path))
            for name, info in file.tensors.items():
                if name in tensors:
                    raise CheckpointError(f"{path}: {name} is in another file of this checkpoint too")
                tensors[name] = Tensor(info.shape, _reader_of_file(file, name))
        yield tensors


def tensors_of_state_dict(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """Give the tensors of a state dict in memory.

    Parameters
    ----------
    state_dict : mapping of str to array_like

    Raises
    ------
    CheckpointError
        If a value is no array of numbers.
    """
    tensors = {}
    for name, value in state_dict.items():
        array = np.asarray(value)
        if array.dtype.kind not in "fiub":
            raise CheckpointError(f"state_dict: {name}: expected numbers, got {array.dtype}")
        tensors[name] = Tensor(array.shape, _reader_of_array(array))
    return tensors


def _reader_of_file(file: SafetensorsFile, name: str) -> Callable[[npt.NDArray[np.float32]], None]:
    return lambda target: file.read_into(name, target)


def _reader_of_array(array: npt.NDArray[Any]) -> Callable[[npt.NDArray[np.float32]], None]:
    return lambda target: np.copyto(target, array, casting="unsafe")


@contextlib.contextmanager
def open_tensors(source: Source | None, state_dict: Mapping[str, Any] | None) -> Iterator[dict[str, Tensor]]:
    """Give the tensors of a state dict, or those of a folder's files while they are open.

    Parameters
    ----------
    source : Source or None
    state_dict : mapping of str to array_like, or None
        One of the two.

    Raises
    ------
    CheckpointError, UnsupportedError
        See `Source.weight_files` and `tensors_of_files`.
    """
    if state_dict is not None:
        yield tensors_of_state_dict(state_dict)
        return
    assert source is not None
    with tensors_of_files(source.weight_files()) as tensors:
        yield tensors


def refuse_disproportion(config: QDQBertConfig, tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse a configuration that asks for far more memory than its checkpoint has numbers for.

    Shapes are compared when there is a model to compare them with; a file of a few bytes must not make one of
    gigabytes first.

    Parameters
    ----------
    config : QDQBertConfig
        Validated.
    tensors : mapping of str to Tensor
    where : str
        Of the checkpoint, for the message.

    Raises
    ------
    CheckpointError
        If a model needs more than twice the checkpoint's numbers and 64 MiB.
    """
    held = 4 * sum(math.prod(tensor.shape) for tensor in tensors.values())
    hidden, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    rows = config.vocab_size + config.max_position_embeddings + config.type_vocab_size + config.num_labels
    layer = 4 * hidden * (hidden + 1) + 2 * hidden * inner + inner + 5 * hidden
    needed = 4 * (rows * hidden + layers * layer + hidden * hidden) + layers * _BYTES_OF_LAYER_OBJECTS
    if needed > 2 * held + _BYTES_BEYOND_CHECKPOINT:
        raise CheckpointError(
            f"{where}: config.json describes a model of {needed} bytes, the checkpoint holds {held}: "
            f"vocab_size {config.vocab_size}, hidden_size {hidden}, num_hidden_layers {layers}, "
            f"intermediate_size {inner}, max_position_embeddings {config.max_position_embeddings}, "
            f"type_vocab_size {config.type_vocab_size}, num_labels {config.num_labels}"
        )


def load_tensors(
    slots: Mapping[str, Slot],
    tensors: Mapping[str, Tensor],
    *,
    class_name: str,
    base_prefix: str,
    ignore_mismatched_sizes: bool = False,
) -> LoadingReport:
    """Fill the slots of a fresh model.

    Parameters
    ----------
    slots : mapping of str to Slot
        Of the whole model, by dotted name.
    tensors : mapping of str to Tensor
        By the checkpoint's names.
    class_name : str
        For messages.
    base_prefix : str
        ``"bert"``: what names of a model with a head start with.
    ignore_mismatched_sizes : bool
        Leave tensors of another shape out instead of refusing the checkpoint.

    Returns
    -------
    LoadingReport

    Raises
    ------
    CheckpointError
        If a shape differs (all are listed), two keys mean one tensor, a value is not allowed, or reading
        fails.
    """
    named = _match_names(slots, tensors, class_name, base_prefix)
    mismatched = [
        (name, tensors[key].shape, slots[name].shape or ())
        for name, key in named.items()
        if name in slots and slots[name].shape is not None and slots[name].shape != tensors[key].shape
    ]
    if mismatched and not ignore_mismatched_sizes:
        lines = [
            f"size mismatch for {name}: copying a param with shape {found} from checkpoint, "
            f"the shape in current model is {expected}."
            for name, found, expected in mismatched
        ]
        raise CheckpointError(
            f"Error(s) in loading state_dict for {class_name}:\n\t"
            + "\n\t".join(lines)
            + "\n\tYou may consider adding `ignore_mismatched_sizes=True` in `from_pretrained`."
        )
    left_out = {name for name, _, _ in mismatched}
    # A tied tensor may come under either name, or both: then the first one counts.
    tied = {slot.tied_to: name for name, slot in slots.items() if slot.tied_to and name in named}
    left_out |= {name for owner, name in tied.items() if owner in named}
    for name, key in named.items():
        if name in slots and name not in left_out:
            _fill(name, slots[name], tensors[key])
    return LoadingReport(
        missing_keys=[
            name for name, slot in slots.items() if slot.required and name not in named and name not in tied
        ],
        unexpected_keys=[
            key for name, key in named.items() if name not in slots and not name.endswith(_DERIVED)
        ],
        mismatched_keys=mismatched,
        error_msgs=[],
    )


def _match_names(
    slots: Mapping[str, Slot], tensors: Mapping[str, Tensor], class_name: str, base_prefix: str
) -> dict[str, str]:
    """Map the model's name of every tensor to the checkpoint's key."""
    prefix = base_prefix + "."
    has_head = any(name.startswith(prefix) for name in slots)
    from_head = any(key.startswith(prefix) for key in tensors)
    if has_head and not from_head:
        strays = [key for key in tensors if _renamed(key) in slots]
        if strays:
            raise CheckpointError(
                f"The state dictionary for {class_name} is corrupted: no key starts with {prefix!r}, "
                f"as if it came from a base model, and yet {', '.join(strays[:5])}"
            )
    named: dict[str, str] = {}
    for key in tensors:
        name = _renamed(key)
        if has_head and not from_head:
            name = prefix + name
        elif not has_head and from_head:
            name = name.removeprefix(prefix) if name.startswith(prefix) else key
        if name in named:
            raise CheckpointError(f"{key} and {named[name]} of the checkpoint both mean {name}")
        named[name] = key
    if not has_head and from_head:
        # A head's own key may spell a name of the base model only by accident; it is not the base model's.
        named = {n: k for n, k in named.items() if k.startswith(prefix) or n not in slots}
    return named


def _renamed(key: str) -> str:
    head, dot, last = key.rpartition(".")
    return head + dot + _OLD_NAMES.get(last, last)


def _fill(name: str, slot: Slot, tensor: Tensor) -> None:
    if slot.open is not None:
        tensor.read_into(slot.open())
        return
    try:
        if slot.check is not None:
            # The shape, before there is memory of it: a file may claim any.
            slot.check(np.broadcast_to(np.float32(0), tensor.shape))
        value = np.empty(tensor.shape, np.float32)
    except ValueError as error:
        raise CheckpointError(f"{name}: {error}") from error
    tensor.read_into(value)
    try:
        if slot.check is not None:
            slot.check(value)
        slot.write(value)
    except ValueError as error:
        raise CheckpointError(f"{name}: {error}") from error


def log_report(report: LoadingReport, class_name: str, source: str, architectures: list[str] | None) -> None:
    """Tell users through `logging` what was not used and what is new, as transformers does.

    Parameters
    ----------
    report : LoadingReport
    class_name : str
        The model's.
    source : str
        Where the checkpoint is from.
    architectures : list of str or None
        What its configuration says it was.
    """
    if report.unexpected_keys:
        # A configuration file may say anything here.
        is_for_class = isinstance(architectures, list) and class_name in architectures
        level = logging.WARNING if is_for_class else logging.INFO
        _logger.log(
            level,
            "Some weights of the checkpoint at %s were not used when initializing %s: %s",
            source,
            class_name,
            report.unexpected_keys,
        )
    if report.missing_keys:
        _logger.warning(
            "Some weights of %s were not initialized from the checkpoint at %s and are newly initialized: "
            "%s\nYou should probably TRAIN this model on a down-stream task to be able to use it for "
            "predictions and inference.",
            class_name,
            source,
            report.missing_keys,
        )
    if report.mismatched_keys:
        _logger.warning(
            "Some weights of %s were not initialized from the checkpoint at %s and are newly initialized "
            "because the shapes did not match:\n%s",
            class_name,
            source,
            "\n".join(
                f"- {name}: found shape {found} in the checkpoint and {expected} in the model instantiated"
                for name, found, expected in report.mismatched_keys
            ),
        )
