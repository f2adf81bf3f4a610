# SPDX-License-Identifier: Apache-2.0
"""Checkpoint folders that lie, from a seed: damage done to a small folder that loads.

Every kind of damage knows the format, so that it gets past the first check: a header that is valid JSON with
one wrong member, a configuration with one hostile field, an index that leads elsewhere.  Bytes are changed
too.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import qdqbert
import tiny_model

FIELDS = {
    "vocab_size": 7,
    "hidden_size": 4,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 5,
    "max_position_embeddings": 6,
}
SIZES = (0, 1, 3, 4, 1000, 2**16, 2**20, 2**31 - 1, 2**31, 2**40, 2**63 - 1, 2**63, 2**64, 10**400)
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    "",
    "x",
    "\ud800",
    "\x00",
    "../../etc/passwd",
    "1" * 5000,
    -1,
    -(2**63),
    0.5,
    float("nan"),
    float("inf"),
    -float("inf"),
    1e308,
    5e-324,
    *SIZES,
    [],
    [[]],
    [None],
    [2**70],
    list(range(50)),
    {},
    {"": None},
    {"0": "x"},
    {"a": float("inf")},
    {"0": [1]},
    {"quant_method": "qdqbert"},
    {str(i): i for i in range(3)},
)
DTYPES = ("F32", "F16", "BF16", "F64", "I64", "I8", "BOOL", "F8_E4M3", "C64", "f32", "", None, 7, ["F32"])


def sound_folder(root: Path) -> Path:
    """Write a calibrated model small enough to be loaded thousands of times."""
    model = tiny_model.question_answering(**FIELDS)
    batch = {"input_ids": np.array([[1, 2, 3], [4, 5, 6]])}
    qdqbert.calibrate(model, [batch], method="max", progress=False)
    model.save_pretrained(root)
    return root


class Hostile:
    """A source of damaged folders.

    Parameters
    ----------
    sound : Path
        What `sound_folder` wrote.
    seed : int
    """

    def __init__(self, sound: Path, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._weights = (sound / "model.safetensors").read_bytes()
        self._config = json.loads((sound / "config.json").read_text())
        self._length = int.from_bytes(self._weights[:8], "little")
        self._header = self._weights[8 : 8 + self._length]
        self._data = self._weights[8 + self._length :]
        self._kinds: tuple[Callable[[Path], str], ...] = (
            self._entry,
            self._entry,
            self._shape_and_offsets,
            self._names,
            self._length_field,
            self._bytes,
            self._cut,
            self._field,
            self._field,
            self._settings,
            self._config_bytes,
            self._index,
        )

    def write(self, folder: Path, kind: int | None = None) -> str:
        """Replace the files of a folder by damaged ones; return what was done."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(self._config))
        (folder / "model.safetensors").write_bytes(self._weights)
        chosen = self._pick(self._kinds) if kind is None else self._kinds[kind % len(self._kinds)]
        return f"{chosen.__name__[1:]}: {chosen(folder)}"

    def _pick(self, choices: Any) -> Any:
        return choices[int(self._random.integers(len(choices)))]

    def _write_header(self, folder: Path, header: Any, data: bytes | None = None) -> None:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        content = self._data if data is None else data
        (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + content)

    # ---- weights -------------------------------------------------------------------------------------------

    def _entry(self, folder: Path) -> str:
        """One member of one entry becomes anything."""
        header = json.loads(self._header)
        name = self._pick(list(header))
        member = self._pick(("dtype", "shape", "data_offsets", "entry", "extra", "one"))
        value = self._pick(DTYPES) if member == "dtype" else self._pick(VALUES)
        if member == "entry" or name == "__metadata__":
            header[name] = value
        elif member == "one":
            member = self._pick(("shape", "data_offsets"))
            if header[name][member]:
                header[name][member][int(self._random.integers(len(header[name][member])))] = value
        else:
            header[name][member] = value
        self._write_header(folder, header)
        return f"{name}.{member} = {value!r:.60}"

    def _shape_and_offsets(self, folder: Path) -> str:
        """Shapes and offsets that agree with each other but not with the model or the file."""
        header = json.loads(self._header)
        names = [name for name in header if name != "__metadata__"]
        name, other = self._pick(names), self._pick(names)
        shape = [
            int(self._pick((0, 1, 2, 4, 7, 2**20, 2**40))) for _ in range(int(self._random.integers(0, 5)))
        ]
        count = int(np.prod(shape, dtype=object)) * 4
        begin = header[other]["data_offsets"][int(self._random.integers(2))]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, begin + count]}
        if self._random.integers(2):
            del header[other]
        self._write_header(folder, header, self._data + bytes(int(self._random.integers(3)) * 4))
        return f"{name}: {shape} at {begin}"

    def _names(self, folder: Path) -> str:
        """Names that stand twice, mean the same, or are no names."""
        header = json.loads(self._header)
        names = [name for name in header if name != "__metadata__"]
        name = self._pick(names)
        new = self._pick(
            ("", "x", "\ud800", "\x00", "bert." + name, name.removeprefix("bert."), *names, "a" * 70000)
        )
        text = self._header.decode().replace(json.dumps(name) + ":", json.dumps(new) + ":")
        if self._random.integers(2):
            text = text.replace("bert.", self._pick(("", "bert.bert.", "albert.", "roberta.")))
        self._write_header(folder, text.encode())
        return f"{name} -> {new!r:.40}"

    def _length_field(self, folder: Path) -> str:
        length = int(self._pick((0, 1, 2, 7, self._length - 1, self._length + 1, *SIZES[:-2])))
        content = length.to_bytes(8, "little") + self._weights[8:]
        (folder / "model.safetensors").write_bytes(content)
        return str(length)

    def _bytes(self, folder: Path) -> str:
        content = bytearray(self._weights)
        places = [
            int(self._random.integers(8 + self._length)) for _ in range(int(self._random.integers(1, 4)))
        ]
        for place in places:
            content[place] = (
                self._pick(b'\x00\xff{}[]":,0129.-eE\\') if self._random.integers(2) else place % 256
            )
        (folder / "model.safetensors").write_bytes(content)
        return str(places)

    def _cut(self, folder: Path) -> str:
        end = int(self._random.integers(len(self._weights)))
        (folder / self._pick(("model.safetensors", "config.json"))).write_bytes(self._weights[:end])
        return str(end)

    # ---- configuration -------------------------------------------------------------------------------------

    def _field(self, folder: Path) -> str:
        config = dict(self._config)
        fields = (
            *vars(qdqbert.QDQBertConfig()),
            *config,
            "num_labels",
            "model_type",
            "name_or_path",
            "self",
            "validate",
        )
        changes = {self._pick(fields): self._pick(VALUES) for _ in range(int(self._random.integers(1, 3)))}
        (folder / "config.json").write_text(json.dumps({**config, **changes}))
        return f"{changes!r:.100}"

    def _settings(self, folder: Path) -> str:
        """One member of the quantization settings becomes anything."""
        config = json.loads(json.dumps(self._config))
        section = config["qdqbert_quantization"]
        part = self._pick(
            ("quant_method", "input", "weight", "quantizers", "deviation", "descriptor", "option")
        )
        names = (
            "num_bits",
            "axis",
            "amax",
            "calib_method",
            "unsigned",
            "narrow_range",
            "learn_amax",
            "scale_amax",
        )
        options = (*names, "fake_quant", "name", "disabled", "quant", "stages", "")
        value = self._pick(VALUES)
        sites = ("bert.encoder.layer.0.attention.self.query._input_quantizer", "x", "")
        if part == "deviation":
            section["quantizers"] = {self._pick(sites): value}
        elif part == "option":
            section["quantizers"] = {sites[0]: {self._pick(options): value}}
        elif part == "descriptor":
            section[self._pick(("input", "weight"))] = {self._pick(options): value, self._pick(options): True}
        else:
            section[part] = value
        (folder / "config.json").write_text(json.dumps(config))
        return f"{part} = {value!r:.60}"

    def _config_bytes(self, folder: Path) -> str:
        content = bytearray((folder / "config.json").read_bytes())
        place = int(self._random.integers(len(content)))
        match int(self._random.integers(4)):
            case 0:
                content[place] = int(self._random.integers(256))
            case 1:
                del content[place:]
            case 2:
                content[place:place] = self._pick(
                    (b"[" * 2000, b"9" * 5000, b"NaN", b"1e999", b"\xff", b"\\ud800", b'{"a":')
                )
            case _:
                content[:] = self._pick(
                    (b"", b"null", b"[]", b"\xef\xbb\xbf{}", b"\x00" * 99, b'{"a":' * 300 + b"1" + b"}" * 300)
                )
        (folder / "config.json").write_bytes(content)
        return f"at {place}"

    # ---- index ---------------------------------------------------------------------------------------------

    def _index(self, folder: Path) -> str:
        (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
        names = (
            "model-00001-of-00001.safetensors",
            "missing.safetensors",
            "../x",
            "/etc/passwd",
            "config.json",
            ".",
            "..",
        )
        names += ("", "a/b", "\x00", "\ud800", "a" * 300, "model.safetensors.index.json")  # type: ignore[assignment]
        entries = {f"t{i}": self._pick(names) for i in range(int(self._random.integers(1, 3)))}
        if not self._random.integers(4):
            entries["t0"] = self._pick(VALUES)
        content: Any = {"weight_map": entries}
        if not self._random.integers(4):
            content = self._pick((self._pick(VALUES), {"weight_map": self._pick(VALUES)}))
        (folder / "model.safetensors.index.json").write_text(json.dumps(content))
        return f"{content!r:.80}"
