# SPDX-License-Identifier: Apache-2.0
"""Which files of a folder or repository are its weights, and how each kind is opened.

The order is that of transformers: one safetensors file, safetensors shards, one PyTorch file, PyTorch shards.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from qdqbert.errors import CheckpointError, UnsupportedError
from qdqbert.serialization.folder import Source, read_json
from qdqbert.serialization.safetensors_file import SafetensorsFile
from qdqbert.serialization.torch_file import TorchFile

__all__ = ["INDEX_NAME", "WEIGHTS_NAME", "WeightFiles", "find_weights", "with_variant"]

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
TORCH_NAME = "pytorch_model.bin"
TORCH_INDEX_NAME = "pytorch_model.bin.index.json"
# What a folder without weights of the kinds above may hold instead.
_OTHER_FORMATS = {
    "tf_model.h5": "a Keras checkpoint",
    "flax_model.msgpack": "a Flax checkpoint",
    "rust_model.ot": "a checkpoint of rust-bert",
    "adapter_model.safetensors": "a PEFT adapter, not a whole model; merge it into its base model",
    "adapter_model.bin": "a PEFT adapter, not a whole model; merge it into its base model",
    "model.onnx": "an exported graph, not a checkpoint (qdqbert.onnx.from_onnx reads those of a BERT)",
    "openvino_model.xml": "an exported graph, not a checkpoint",
    "model.pt": "a PyTorch file of another name; if it is a state dict, name it pytorch_model.bin",
    "model.pth": "a PyTorch file of another name; if it is a state dict, name it pytorch_model.bin",
}


@dataclasses.dataclass(frozen=True, slots=True)
class WeightFiles:
    """The files of one checkpoint.

    Attributes
    ----------
    kind : {"safetensors", "torch"}
    paths : list of Path
        One file, or the shards of an index, each once.
    """

    kind: str
    paths: list[Path]

    def open(self, path: Path) -> SafetensorsFile | TorchFile:
        """Open one of the files; errors as those of its class.

        Parameters
        ----------
        path : path
            Of `paths`.
        """
        return SafetensorsFile(path) if self.kind == "safetensors" else TorchFile(path)


def with_variant(name: str, variant: str | None) -> str:
    """Put a variant into the name of a file, as transformers does: ``model.fp16.safetensors``.

    Parameters
    ----------
    name : str
    variant : str or None
    """
    if variant is None:
        return name
    stem, dot, ending = name.rpartition(".")
    return f"{stem}.{variant}{dot}{ending}"


def find_weights(
    source: Source, *, use_safetensors: bool | None = None, variant: str | None = None
) -> WeightFiles:
    """Find the weights of a model.

    Parameters
    ----------
    source : Source
    use_safetensors : bool, optional
        True: only safetensors. False: only PyTorch's files. Left out: the first there are, safetensors first.
    variant : str, optional
        Such as ``"fp16"``, which stands in the names of the files.

    Raises
    ------
    UnsupportedError
        If there are only weights in a format that is not read.
    CheckpointError
        If there are none, or an index is damaged or names a file that is missing.
    """
    kinds = []
    if use_safetensors is not False:
        kinds.append(("safetensors", WEIGHTS_NAME, INDEX_NAME))
    if use_safetensors is not True:
        kinds.append(("torch", TORCH_NAME, TORCH_INDEX_NAME))
    tried = []
    for kind, name, index_name in kinds:
        single = source.find(with_variant(name, variant))
        if single is not None:
            return WeightFiles(kind, [single])
        index = source.find(with_variant(index_name, variant))
        if index is not None:
            return WeightFiles(kind, [source.require(shard) for shard in _shard_names(index)])
        tried += [with_variant(name, variant), with_variant(index_name, variant)]
    for name, kind in _OTHER_FORMATS.items():
        if source.folder is not None and (source.folder / name).exists():
            raise UnsupportedError(
                f"{source.name}: no {' or '.join(tried)}; {name} is {kind}; convert it to {WEIGHTS_NAME}"
            )
    if source.folder is not None and any(source.folder.glob("*.ckpt*.index")):
        raise CheckpointError(
            f"{source.name}: no {' or '.join(tried)}, but a TensorFlow checkpoint; load it with from_tf=True"
        )
    raise CheckpointError(f"{source.name}: no weights ({' or '.join(tried)}){source.contents()}")


def _shard_names(index: Path) -> list[str]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: expected a 'weight_map' from tensor to file")
    for key, name in weight_map.items():
        # A shard lies beside its index: a path would lead out of the folder; no file system has longer names.
        if not isinstance(name, str) or not 0 < len(name) < 256 or Path(name).name != name or name == "..":
            raise CheckpointError(
                f"{index}: {key:.120}: expected the name of a file in the same folder, got {name!r:.80}"
            )
    return sorted(set(weight_map.values()))
