# SPDX-License-Identifier: Apache-2.0
"""From the variables of an original BERT checkpoint to the names of a state dict.

The rules are those of transformers' ``load_tf_weights_in_qdqbert``: slashes become dots and ``layer_3``
becomes ``layer.3``; ``kernel``, which is transposed, ``gamma`` and ``output_weights`` become ``weight``,
``beta`` and ``output_bias`` become ``bias``; a table of embeddings is the ``weight`` of its module; what the
optimizer keeps is left out.

Different on purpose: the heads of the original's fine-tuning scripts load.  In transformers
``cls/squad/output_weights`` ends in an AttributeError for the question answering model (the scope is sent to
``classifier``, which that model does not have), and so does ``output_weights`` of the classifier scripts in
every model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from qdqbert.errors import CheckpointError

__all__ = ["head_of", "torch_names"]

_OPTIMIZER = {"adam_v", "adam_m", "AdamWeightDecayOptimizer", "AdamWeightDecayOptimizer_1", "global_step"}
_PARTS = {
    "kernel": "weight",
    "gamma": "weight",
    "output_weights": "weight",
    "beta": "bias",
    "output_bias": "bias",
}
_NUMBERED = re.compile(r"([A-Za-z]+)_(\d+)\Z")


def torch_names(variables: Iterable[str], head: str) -> dict[str, tuple[str, bool]]:
    """Map the names of a state dict to variables.

    Parameters
    ----------
    variables : iterable of str
        TensorFlow's names.
    head : str
        Module of the model that stands for the head of a fine-tuned checkpoint: ``"qa_outputs"`` or
        ``"classifier"``.

    Returns
    -------
    dict of str to (str, bool)
        Variable, and whether it has to be transposed; those of the optimizer are left out.

    Raises
    ------
    CheckpointError
        If two variables mean one tensor.
    """
    names: dict[str, tuple[str, bool]] = {}
    for variable in variables:
        parts = variable.split("/")
        if _OPTIMIZER.intersection(parts):
            continue
        name = _torch_name(parts, head)
        if name in names:
            raise CheckpointError(f"{names[name][0]} and {variable} of the checkpoint both mean {name}")
        names[name] = variable, parts[-1] == "kernel"
    return names


def _torch_name(parts: list[str], head: str) -> str:
    if parts[0] == "output_weights" or parts[0] == "output_bias":
        parts = [head, *parts]
    elif parts[:2] == ["cls", "squad"]:
        parts = [head, *parts[2:]]
    made: list[str] = []
    for part in parts:
        numbered = _NUMBERED.match(part)
        made += [numbered[1], str(int(numbered[2]))] if numbered else [_PARTS.get(part, part)]
    if parts[-1].endswith("_embeddings"):
        made.append("weight")
    return ".".join(made)


def head_of(slots: Iterable[str]) -> str:
    """Return the module of a model that a fine-tuned head goes to.

    Parameters
    ----------
    slots : iterable of str
        Names of the model's tensors.
    """
    return "qa_outputs" if any(name.startswith("qa_outputs.") for name in slots) else "classifier"
