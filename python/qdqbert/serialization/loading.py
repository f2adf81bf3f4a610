# SPDX-License-Identifier: Apache-2.0
"""From the tensors of a checkpoint to the slots of a model, with an honest report.

The steps: rename what TensorFlow called gamma and beta (as the last part of a name only); add or strip the
prefix of the base model; compare names and shapes; refuse, or read.  Nothing is read before every name and
shape is known.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qdqbert.errors import CheckpointError
from qdqbert.module import Slot
from qdqbert.serialization.checkpoint_tensors import Tensor
from qdqbert.serialization.foreign_models import describe_foreign_model
from qdqbert.serialization.key_names import match_names

if TYPE_CHECKING:
    from qdqbert.configuration_qdqbert import QDQBertConfig

__all__ = ["LoadingReport", "load_tensors", "log_report", "refuse_disproportion"]

_logger = logging.getLogger(__name__)

# Buffers that old checkpoints hold and that follow from the configuration.
_DERIVED = ("embeddings.position_ids", "embeddings.token_type_ids")
# Modules, quantizers and names of one layer, and what a model may need beyond its checkpoint's numbers.
_BYTES_OF_LAYER_OBJECTS = 100_000
_BYTES_BEYOND_CHECKPOINT = 64 << 20
# Numbers of a range whose shape is checked before there is memory for them.
_LARGE_RANGE = 1 << 16


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

    def without_missing(self, patterns: Sequence[str]) -> LoadingReport:
        """Return the report without missing keys in which one of the patterns is found.

        Parameters
        ----------
        patterns : sequence of str
            Regular expressions.
        """
        left = [name for name in self.missing_keys if not any(re.search(each, name) for each in patterns)]
        return dataclasses.replace(self, missing_keys=left)

    def as_dict(self) -> dict[str, Any]:
        """Return the four lists under their names."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


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
    held = 4 * sum(tensor.count for tensor in tensors.values())
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
    where: str,
    class_name: str,
    base_prefix: str,
    ignore_mismatched_sizes: bool = False,
    take: Callable[[str, Tensor], bool] | None = None,
) -> LoadingReport:
    """Fill the slots of a fresh model.

    Parameters
    ----------
    slots : mapping of str to Slot
        Of the whole model, by dotted name.
    tensors : mapping of str to Tensor
        By the checkpoint's names.
    where : str
        Of the checkpoint, for messages.
    class_name : str
        For messages.
    base_prefix : str
        ``"bert"``: what names of a model with a head start with.
    ignore_mismatched_sizes : bool
        Leave tensors of another shape out instead of refusing the checkpoint.
    take : callable (str, Tensor) -> bool, optional
        Asked for every tensor that is to be read, with the model's name; true: it takes care of it.

    Returns
    -------
    LoadingReport

    Raises
    ------
    CheckpointError
        If a shape differs (all are listed), two keys mean one tensor, a value is not allowed, or reading
        fails.
    """
    foreign = describe_foreign_model(tensors)
    if foreign is not None:
        raise CheckpointError(
            f"{where}: the tensors are those of {foreign}; {class_name} needs those of a BERT"
        )
    named = match_names(slots, tensors, class_name=class_name, base_prefix=base_prefix)
    required = [name for name, slot in slots.items() if slot.required]
    if tensors and not any(name in named for name in required):
        raise CheckpointError(
            f"{where}: holds none of the {len(required)} tensors of a {class_name}; it has "
            f"{', '.join(list(tensors)[:3])}, ..."
        )
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
    usable = {key for key in named if key in slots} - {name for name, _, _ in mismatched}
    # A tied tensor may come under either name.
    tied = {name: slot.tied_to for name, slot in slots.items() if slot.tied_to and name in usable}
    for name in slots:
        is_read = name in usable and not (name in tied and tied[name] in usable)
        if is_read and not (take is not None and take(name, tensors[named[name]])):
            _fill(name, slots[name], tensors[named[name]])
    for name, owner in tied.items():
        if owner in usable:
            _settle_tied(name, owner, slots[name], tensors[named[name]])
    owners = set(tied.values())
    return LoadingReport(
        missing_keys=sorted(
            # Of tied names all are missing, or none.
            name
            for name, slot in slots.items()
            if (slot.required or slot.tied_to is not None)
            and named.keys().isdisjoint((name, slot.tied_to))
            and name not in owners
        ),
        unexpected_keys=sorted(
            key for name, key in named.items() if name not in slots and not name.endswith(_DERIVED)
        ),
        mismatched_keys=mismatched,
        error_msgs=[],
    )


def _fill(name: str, slot: Slot, tensor: Tensor) -> None:
    if slot.open is not None:
        tensor.read_into(slot.open())
        return
    try:
        if slot.check is not None and math.prod(tensor.shape) > _LARGE_RANGE:
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


def _settle_tied(name: str, owner: str, slot: Slot, tensor: Tensor) -> None:
    """Decide between two values for one tensor, of which the owner's has been read."""
    value = slot.read()
    if value is None or tensor.equals(value):
        return
    if name.endswith(".bias"):
        # Resizing the vocabulary used to part the two; the original goes on computing with this one.
        _logger.warning(
            "%s and %s differ in the checkpoint and are one tensor; %s is used.", owner, name, name
        )
        _fill(name, slot, tensor)
        return
    raise CheckpointError(
        f"{owner} and {name} have different values in the checkpoint, and are one tensor in the model; if "
        "they were trained apart, load with tie_word_embeddings=False"
    )


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
        names = {str(name) for name in architectures} if isinstance(architectures, list) else set()
        is_for_class = not names.isdisjoint((class_name, class_name.removeprefix("QDQ")))
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
