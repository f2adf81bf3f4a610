# SPDX-License-Identifier: Apache-2.0
"""A tokenizer whose files lie is refused by a CheckpointError, or works; nothing else happens.

``QDQBERT_FUZZ`` is the number of folders; a long run takes 10000 and more.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import random
import time
import traceback
from pathlib import Path
from typing import Any

import pytest

from qdqbert.errors import CheckpointError, Error, UnsupportedError
from qdqbert.tokenization import BertTokenizerFast

FOLDERS = int(os.environ.get("QDQBERT_FUZZ", "300"))
SECONDS = 2.0
pytestmark = pytest.mark.uninstrumented  # Python, and a library that is not ours

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "what", "is", "it", "##s", "the", "\u00e9", "##ing"]
TEXT = "What is it's thing [MASK] \u00e9\u4e2d"
ODD: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    2**31,
    2**63,
    2**70,
    1e300,
    0.5,
    "",
    "x",
    "[CLS]",
    "\x00",
    "\ud800",
    "\u202e",
    "a" * 5000,
    [],
    [[]],
    ["[PAD]", 5],
    {},
    {"content": "[NEW]"},
    {"content": 5},
    {"content": "", "special": True},
    {"content": "is", "normalized": 7},
    {"__type": "AddedToken", "content": "[X]", "lstrip": True},
]


def sound(folder: Path) -> None:
    """Every file that a tokenizer may have."""
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    tokenizer = BertTokenizerFast(folder / "vocab.txt", model_max_length=16)
    tokenizer.add_tokens(["newword"])
    tokenizer.save_pretrained(folder)
    (folder / "added_tokens.json").write_text('{"newword": 12}')


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of every member of nested JSON."""
    found = [path] if path else []
    members = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, member in members:
        found += places(member, (*path, key))
    return found


def changed_json(text: str, rng: random.Random) -> str:
    value = json.loads(text)
    for _ in range(rng.randint(1, 3)):
        known = places(value)
        if not known:
            break
        path = rng.choice(known)
        parent = value
        for key in path[:-1]:
            parent = parent[key]
        kind = rng.randrange(4)
        if kind == 0 and isinstance(parent, dict):
            del parent[path[-1]]
        elif kind == 1 and isinstance(parent, dict):
            parent[str(rng.choice([*ODD[:10], path[-1] + "x" if isinstance(path[-1], str) else "k"]))] = (
                copy.deepcopy(rng.choice(ODD))
            )
        else:
            parent[path[-1]] = copy.deepcopy(rng.choice(ODD))
    return json.dumps(value)


def damage(folder: Path, rng: random.Random) -> str:
    """Damage one or two files; return what was done."""
    done = []
    names = sorted(path.name for path in folder.iterdir())
    for name in rng.sample(names, rng.randint(1, 2)):
        path = folder / name
        data = path.read_bytes()
        kind = rng.choice(["json", "json", "json", "flip", "cut", "remove", "insert", "lines"])
        if kind == "json" and name.endswith(".json"):
            path.write_text(changed_json(data.decode(), rng), encoding="utf-8", errors="surrogatepass")
        elif kind == "cut":
            path.write_bytes(data[: rng.randrange(len(data))])
        elif kind == "remove":
            path.unlink()
        elif kind == "insert":
            place = rng.randrange(len(data))
            path.write_bytes(data[:place] + rng.randbytes(rng.randint(1, 9)) + data[place:])
        elif kind == "lines":
            lines = data.split(b"\n")
            rng.shuffle(lines)
            path.write_bytes(b"\n".join(lines))
        else:
            flipped = bytearray(data)
            for _ in range(rng.randint(1, 8)):
                flipped[rng.randrange(len(flipped))] = rng.randrange(256)
            path.write_bytes(bytes(flipped))
        done.append(f"{kind} {name}")
    return ", ".join(done)


def outcome(folder: Path) -> str:
    """The sentence that refused a folder, or nothing; what is not refused must work to the end."""
    try:
        tokenizer = BertTokenizerFast.from_pretrained(folder)
    except (CheckpointError, UnsupportedError) as error:
        return str(error)
    with contextlib.suppress(Error, ValueError, TypeError):
        batch = tokenizer([TEXT, "it"], padding=True, truncation=True, return_overflowing_tokens=True)
        tokenizer.batch_decode(batch.input_ids, skip_special_tokens=True)
        assert len(batch.tokens(0)) == len(batch.input_ids[0])
    repr(tokenizer)
    assert len(tokenizer) >= 0
    tokenizer.save_pretrained(folder / "again")
    with contextlib.suppress(CheckpointError, UnsupportedError):
        BertTokenizerFast.from_pretrained(folder / "again")
    return ""


def test_damaged_folders_are_refused_or_work(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    defects, refused = [], 0
    for number in range(FOLDERS):
        folder = tmp_path / str(number)
        sound(folder)
        done = damage(folder, random.Random(number))
        begin = time.process_time()
        try:
            said = outcome(folder)
            refused += bool(said)
            if said and "\n" in said.strip() and "Traceback" in said:
                defects.append((number, done, said))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            place = traceback.extract_tb(error.__traceback__)[-1]
            defects.append(
                (number, done, f"{type(error).__name__}: {error!s:.90} at {place.filename}:{place.lineno}")
            )
        if time.process_time() - begin > SECONDS:
            defects.append((number, done, f"took {time.process_time() - begin:.1f} s"))
    capfd.readouterr()  # the library reports its panics
    assert not defects, f"{len(defects)} of {FOLDERS}: {defects[:10]}"
    assert FOLDERS // 4 < refused < FOLDERS
