# SPDX-License-Identifier: Apache-2.0
"""``pytorch_model.bin`` as PyTorch has written it since 1.6: a ZIP archive with a member for each storage.

Members, under one folder of any name: ``data.pkl``, the program that describes tensors over storages;
``data/KEY``, the numbers of a storage; ``byteorder``, since 2.1; ``version`` and others that say nothing that
matters here.
"""

from __future__ import annotations

from typing import Any

from qdqbert.serialization.data_file import DataFile
from qdqbert.serialization.pickle_machine import PickleError
from qdqbert.serialization.torch_objects import Storage, TorchPickles, storage_of
from qdqbert.serialization.zip_archive import Member, stored_members

__all__ = ["MAX_PICKLE_BYTES", "read_zip"]

# A tensor takes some 200 bytes; the rest is what somebody saved beside.
MAX_PICKLE_BYTES = 16 << 20


def read_zip(file: DataFile) -> tuple[Any, dict[str, int]]:
    """Run the pickle of an archive.

    Parameters
    ----------
    file : DataFile
        That starts as an archive does.

    Returns
    -------
    value : object
        What was saved; see `torch_objects`.
    begins : dict of str to int
        First byte of each storage by key.

    Raises
    ------
    CheckpointError
        If it is no archive of ``torch.save``, or damaged.
    PickleError
        If the pickle is none that torch writes.
    """
    members = _below_one_folder(file, stored_members(file))
    if "data.pkl" not in members:
        kind = "a TorchScript archive (torch.jit.save)" if "constants.pkl" in members else "a ZIP archive"
        raise file.fail(f"is {kind} without data.pkl, not what torch.save writes")
    if "constants.pkl" in members:
        raise file.fail(
            "is a TorchScript archive (torch.jit.save): code and weights; save model.state_dict() instead"
        )
    if "byteorder" in members:
        order = file.read(members["byteorder"][0], min(members["byteorder"][1], 16), "byteorder")
        if order != b"little":
            raise file.fail(f"byteorder is {order!a}; only 'little' is read")
    begin, size = members["data.pkl"]
    if size > MAX_PICKLE_BYTES:
        raise file.fail(f"data.pkl has {size} bytes; at most {MAX_PICKLE_BYTES} are accepted")

    def load_storage(identity: tuple[Any, ...]) -> Storage:
        if len(identity) != 4:
            raise PickleError(f"a storage described by {len(identity)} values, expected 4")
        storage_class, key, _location, count = identity
        storage = storage_of(storage_class, key, count)
        _, there = members.get(f"data/{storage.key}", (0, -1))
        if there < 0:
            raise PickleError(f"a storage 'data/{storage.key[:60]!a}' that is not in the archive")
        expected = storage.count * storage.bytes_per_number
        if there != expected:
            raise PickleError(
                f"the storage {key[:60]!a} should have {expected} bytes, the archive has {there}"
            )
        return storage

    pickles = TorchPickles(file.read(begin, size, "data.pkl"), load_storage)
    value = pickles.machine.run()
    if pickles.machine.position != size:
        raise PickleError(f"{size - pickles.machine.position} bytes behind the end of the pickle")
    return value, {name[5:]: first for name, (first, _) in members.items() if name.startswith("data/")}


def _below_one_folder(file: DataFile, members: dict[str, Member]) -> dict[str, Member]:
    folders = {name.partition("/")[0] for name in members}
    if len(folders) != 1:
        raise file.fail(f"is a ZIP archive of {len(members)} members, not what torch.save writes")
    return {name.partition("/")[2]: member for name, member in members.items()}
