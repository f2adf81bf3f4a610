# SPDX-License-Identifier: Apache-2.0
"""``pytorch_model.bin`` as PyTorch wrote it before 1.6: five pickles in a row, and the storages behind them.

The pickles are a magic number, the protocol (1001), facts about the machine, what was saved, and the keys of
the storages in the order in which they follow; a storage is the number of its elements (eight bytes) and its
bytes.
"""

from __future__ import annotations

from typing import Any

from qdqbert.serialization.data_file import DataFile
from qdqbert.serialization.pickle_machine import IncompletePickle, PickleError
from qdqbert.serialization.torch_objects import Storage, TorchPickles, storage_of
from qdqbert.serialization.torch_zip import MAX_PICKLE_BYTES

__all__ = ["read_legacy"]

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
# The pickles of a BERT take a tenth of this.
_WINDOW_BYTES = 1 << 19


def read_legacy(file: DataFile) -> tuple[Any, dict[str, int]]:
    """Run the pickles of a file and find its storages.

    Parameters
    ----------
    file : DataFile

    Returns
    -------
    value : object
        What was saved; see `torch_objects`.
    begins : dict of str to int
        First byte of each storage by key.

    Raises
    ------
    CheckpointError
        If the file is cut off, or holds more than it says.
    PickleError
        If the pickles are none that torch writes.
    """
    window = _WINDOW_BYTES
    while True:
        # How long the pickles are is known when they have run.
        data = file.read(0, min(window, file.size), "the pickles")
        try:
            value, keys, storages, position = _run(data)
            break
        except IncompletePickle as error:
            if len(data) == file.size or window >= MAX_PICKLE_BYTES:
                raise PickleError(str(error)) from error
            window *= 4
    return value, _find_storages(file, position, keys, storages)


def _run(data: bytes) -> tuple[Any, list[str], dict[str, Storage], int]:
    """Return what was saved, the keys in order, the storages by key, and where the first one begins."""
    storages: dict[str, Storage] = {}

    def load_storage(identity: tuple[Any, ...]) -> Storage:
        if len(identity) not in (4, 5):
            raise PickleError(f"a storage described by {len(identity)} values, expected 5")
        storage_class, key, _location, count, *view = identity
        whole = storage_of(storage_class, key, count)
        if storages.setdefault(key, whole) != whole:
            raise PickleError(f"the storage {key[:60]!a} is described in two ways")
        return _view(whole, view[0]) if view and view[0] is not None else whole

    pickles = TorchPickles(data, load_storage)
    machine = pickles.machine
    magic = machine.run()
    if magic != _MAGIC:
        raise PickleError("the file is a pickle that torch.save did not write")
    protocol = machine.run()
    if protocol != _PROTOCOL:
        raise PickleError("a protocol that is not known" + (f": {protocol}" if type(protocol) is int else ""))
    facts = machine.run()
    if type(facts) is not dict or facts.get("little_endian") is not True:
        raise PickleError("written by a machine that is not little-endian")
    value = machine.run()
    keys = machine.run()
    if type(keys) is not list or not all(isinstance(key, str) for key in keys):
        raise PickleError("no list of storages behind the pickle")
    if len(set(keys)) != len(keys) or set(keys) != set(storages):
        raise PickleError(f"{len(keys)} storages follow, the pickle describes {len(storages)} or others")
    return value, keys, storages, machine.position


def _view(whole: Storage, view: Any) -> Storage:
    """Return a part of a storage, as versions before 0.4 shared them: (key, offset, size)."""
    if type(view) is not tuple or len(view) != 3 or not isinstance(view[0], str):
        raise PickleError("a view of a storage that is not described by three values")
    _, first, count = view
    if not all(type(number) is int and number >= 0 for number in (first, count)):
        raise PickleError("a view of a storage without an offset and a size")
    if first + count > whole.count:
        raise PickleError(f"a view that reaches to {first + count} of a storage of {whole.count}")
    return Storage(whole.key, whole.number_format, count, first, whole.count)


def _find_storages(
    file: DataFile, position: int, keys: list[str], storages: dict[str, Storage]
) -> dict[str, int]:
    begins = {}
    for key in keys:
        storage = storages[key]
        count = int.from_bytes(file.read(position, 8, f"storage {key[:60]!a}"), "little")
        if count != storage.count:
            raise file.fail(f"storage {key[:60]!a} has {count} numbers, the pickle says {storage.count}")
        begins[key] = position + 8
        position += 8 + count * storage.bytes_per_number
        if position > file.size:
            raise file.fail(f"cut off inside storage {key[:60]!a}: it ends at byte {position} of {file.size}")
    if position != file.size:
        raise file.fail(f"has {file.size - position} bytes that belong to no storage")
    return begins
