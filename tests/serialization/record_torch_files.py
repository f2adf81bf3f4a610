# SPDX-License-Identifier: Apache-2.0
"""Record small files that PyTorch itself wrote, and what is in them; adds to `torch_files.json`.

    python record_torch_files.py

Needs PyTorch.  Run it once with each version that is to be recorded; a version that is there is replaced.
"""

from __future__ import annotations

import base64
import io
import json
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent


def state_dicts() -> dict[str, Any]:
    """What is saved, by the name of the case."""
    floats = torch.arange(24, dtype=torch.float32).reshape(4, 6) / 8 - 1
    linear = torch.nn.Linear(3, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.arange(6).reshape(2, 3) / 4)
        linear.bias.copy_(torch.tensor([-0.5, 7.0]))
    formats = {
        str(dtype).removeprefix("torch."): (torch.arange(5) - 2).to(dtype)
        for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32)
    }
    formats |= {
        str(dtype).removeprefix("torch."): torch.arange(5).to(dtype)
        for dtype in (torch.int16, torch.int8, torch.uint8, torch.bool)
    }
    shared = torch.arange(12, dtype=torch.float32)
    views = OrderedDict(
        transposed=floats.t(),
        columns=floats[:, 1:3],
        every_second=floats[::2, ::3],
        expanded=torch.tensor([[1.5], [2.5]]).expand(2, 5),
        first_half=shared[:6].view(2, 3),
        second_half=shared[6:].view(3, 2),
        permuted=torch.arange(24, dtype=torch.float16).reshape(2, 3, 4).permute(2, 0, 1),
        scalar=torch.tensor(2.25),
        one=torch.tensor([3.25]),
        empty=torch.zeros(0, 4),
        cut=shared[5:5],
    )
    return {
        "a state dict with versions": linear.state_dict(),
        "number formats": formats,
        "views": views,
        "parameters": dict(linear.named_parameters()),
        "a trainer's checkpoint": {
            "epoch": 3,
            "rate": 0.125,
            "name": "r\u00e9sum\u00e9",
            "raw": b"\x00\xff",
            "shape": torch.Size([2, 3]),
            "device": torch.device("cpu"),
            "nothing": None,
            "betas": [(0.9, True), (0.99, False)],
            "big": 2**70,
            "state_dict": linear.state_dict(),
        },
        "a single tensor": floats,
        "a whole model": linear,
        "a sparse tensor": {"x": torch.eye(3).to_sparse()},
    }


def expected_of(value: Any) -> dict[str, Any] | None:
    """Shapes and values of the tensors, or None for what has to be refused."""
    if isinstance(value, dict) and "state_dict" in value:
        value = value["state_dict"]
    if not isinstance(value, dict) or any(t.is_sparse for t in value.values()):
        return None
    return {
        name: {"shape": list(tensor.shape), "values": tensor.detach().to(torch.float64).flatten().tolist()}
        for name, tensor in value.items()
    }


def main() -> None:
    path = HERE / "torch_files.json"
    recorded = json.loads(path.read_text()) if path.exists() else {}
    cases = []
    for name, value in state_dicts().items():
        for container, options in (
            ("zip", {}),
            ("legacy", {"_use_new_zipfile_serialization": False}),
            ("zip, protocol 4", {"pickle_protocol": 4}),
        ):
            buffer = io.BytesIO()
            torch.save(value, buffer, **options)
            case = {
                "case": name,
                "container": container,
                "file": base64.b64encode(zlib.compress(buffer.getvalue(), 9)).decode(),
                "expected": expected_of(value),
            }
            cases.append(case)
    recorded[torch.__version__.partition("+")[0]] = cases
    path.write_text(json.dumps(recorded, indent=0) + "\n")


if __name__ == "__main__":
    main()
