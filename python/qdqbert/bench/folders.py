# SPDX-License-Identifier: Apache-2.0
"""One model in two forms: ours with its quantizers, and a float BERT for peers."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qdqbert.errors import UnsupportedError
from qdqbert.quantization_settings import SECTION

if TYPE_CHECKING:
    from qdqbert.modeling_model import QDQBertModel

__all__ = ["Folders", "write_folders"]

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclasses.dataclass(frozen=True)
class Folders:
    """Where the two forms are.

    Attributes
    ----------
    quantized : Path
        A checkpoint with its quantizers.
    plain : Path
        The same weights as a float BERT of transformers.
    """

    quantized: Path
    plain: Path


def write_folders(source: str, base: Path) -> tuple[Folders, dict[str, Any]]:
    """Write the encoder and pooler of a checkpoint twice, with quantizers and without.

    Parameters
    ----------
    source : str
        Checkpoint folder.
    base : Path
        Where they go.

    Returns
    -------
    (Folders, dict)
        And the sizes of the model.

    Raises
    ------
    CheckpointError
        If it cannot be read.
    UnsupportedError
        If it is a model that peers do not run: a decoder, or one with relative positions.
    """
    from qdqbert import QDQBertModel

    class Encoder(QDQBertModel):
        """With a pooler, since peers have one; what it gives is not compared, so it may be a new one."""

        _keys_to_ignore_on_load_missing = (r"^pooler\.",)

    model = Encoder.from_pretrained(source)
    config = model.config
    if config.is_decoder or config.position_embedding_type != "absolute":
        raise UnsupportedError(f"{source}: only encoders with absolute positions can be compared")
    is_calibrated = _calibrate(model)
    folders = Folders(base / "quantized", base / "plain")
    model.save_pretrained(str(folders.quantized))
    _write_plain(model, folders.plain)
    return folders, {
        "layers": config.num_hidden_layers,
        "hidden": config.hidden_size,
        "heads": config.num_attention_heads,
        "intermediate": config.intermediate_size,
        "vocab": config.vocab_size,
        "positions": config.max_position_embeddings,
        "calibrated_here": is_calibrated,
    }


def _calibrate(model: QDQBertModel) -> bool:
    """Give a model that has no ranges some, on random tokens: times do not depend on which."""
    import qdqbert
    from qdqbert.bench.batches import varied
    from qdqbert.nn import TensorQuantizer

    found = [each for each in model.modules() if isinstance(each, TensorQuantizer) and not each._disabled]
    if not found or any(each.amax is not None for each in found):
        return False
    qdqbert.calibrate(
        model,
        [varied(8).inputs(model.config.vocab_size)],
        method="percentile",
        percentile=99.99,
        progress=False,
    )
    return True


def _write_plain(model: QDQBertModel, folder: Path) -> None:
    """Write a BERT as transformers reads it; converters ask for a vocabulary of the right size."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    tensors = {name: np.ascontiguousarray(value) for name, value in model.named_parameters()}
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    config = {
        name: value
        for name, value in model.config.to_dict().items()
        if name not in (SECTION, "transformers_version")
    }
    config |= {"architectures": ["BertModel"], "model_type": "bert", "torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    size = model.config.vocab_size
    words = [*_SPECIAL, *(f"word{i}" for i in range(size - len(_SPECIAL)))][:size]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
