# SPDX-License-Identifier: Apache-2.0
"""What the pickles of ``torch.save`` are about: storages, tensors over them, and dictionaries of tensors.

Nothing here is PyTorch's.  A storage is a record of a key and a size; a tensor is a record of a storage, an
offset, a shape and strides.  Where the numbers lie, the containers say (`torch_zip`, `torch_legacy`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from qdqbert.serialization.pickle_machine import MAX_STEPS, PickleError, PickleMachine, Symbol
from qdqbert.serialization.stored_tensor import FORMAT_BYTES, placement_error

__all__ = ["SYMBOLS", "Storage", "TensorRecord", "TorchPickles", "state_dict_of", "storage_of"]

_STORAGE_FORMATS = {
    "Double": "F64",
    "Float": "F32",
    "Half": "F16",
    "BFloat16": "BF16",
    "Long": "I64",
    "Int": "I32",
    "Short": "I16",
    "Char": "I8",
    "Byte": "U8",
    "Bool": "BOOL",
    "ComplexFloat": "C64",
    "ComplexDouble": "C128",
}
# Class of a storage -> its number format; untyped ones are bytes, and their tensors say of what.
_STORAGES: dict[str, str | None] = {
    **{f"torch.{name}Storage": number_format for name, number_format in _STORAGE_FORMATS.items()},
    **{f"torch.cuda.{name}Storage": number_format for name, number_format in _STORAGE_FORMATS.items()},
    "torch.UntypedStorage": None,
    "torch.storage.UntypedStorage": None,
}
_DTYPES = {
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.int64": "I64",
    "torch.int32": "I32",
    "torch.int16": "I16",
    "torch.int8": "I8",
    "torch.uint64": "U64",
    "torch.uint32": "U32",
    "torch.uint16": "U16",
    "torch.uint8": "U8",
    "torch.bool": "BOOL",
    "torch.complex64": "C64",
    "torch.complex128": "C128",
    "torch.float8_e4m3fn": "F8_E4M3",
    "torch.float8_e5m2": "F8_E5M2",
}
_ORDERED_DICT = "collections.OrderedDict"
_CALLS = (
    _ORDERED_DICT,
    "_codecs.encode",
    "torch.Size",
    "torch.device",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
)
SYMBOLS = frozenset((*_STORAGES, *_DTYPES, *_CALLS))

_MAX_DIMENSIONS = 32
_MAX_SIZE = 1 << 48
# Where trainers put the weights when they save more than the weights.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net")


@dataclasses.dataclass(frozen=True, slots=True)
class Storage:
    """A run of numbers in a file.

    Attributes
    ----------
    key : str
        Its name in the container.
    number_format : str or None
        None: untyped, `count` bytes.
    count : int
        Numbers in it.
    first : int
        Where this one starts within the storage of that key, in numbers; not 0 for views in old files.
    whole_count : int
        Numbers of the storage of that key.
    """

    key: str
    number_format: str | None
    count: int
    first: int
    whole_count: int

    @property
    def bytes_per_number(self) -> int:
        """Size of a number."""
        return 1 if self.number_format is None else FORMAT_BYTES[self.number_format]


@dataclasses.dataclass(frozen=True, slots=True)
class TensorRecord:
    """A tensor over a storage; all its elements lie inside, and no two on one place but broadcast ones.

    Attributes
    ----------
    storage : Storage
    number_format : str
    offset : int
        Of the first element from the start of `storage`, in elements.
    shape, strides : tuple of int
    """

    storage: Storage
    number_format: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class TorchPickles:
    """Runs the pickles of one file.

    Parameters
    ----------
    data : bytes
    load_persistent : callable (tuple) -> Storage
        Makes a storage of what follows the word ``"storage"`` in its persistent id: class, key, location,
        size, and in old files a view.

    Attributes
    ----------
    machine : PickleMachine
    """

    def __init__(self, data: bytes, load_persistent: Callable[[tuple[Any, ...]], Storage]) -> None:
        self._load_storage = load_persistent
        self._copied = 0
        self.machine: PickleMachine = PickleMachine(data, SYMBOLS, self._call, self._persistent)

    def _persistent(self, identity: Any) -> Storage:
        if type(identity) is not tuple or not identity or not isinstance(identity[0], str):
            raise PickleError("a persistent id that names no storage")
        if identity[0] == "module":
            raise PickleError(
                "the file holds a whole pickled model; it was not made. Save model.state_dict() instead"
            )
        if identity[0] != "storage":
            raise PickleError(f"a persistent id of kind {identity[0][:40]!a}, expected 'storage'")
        return self._load_storage(identity[1:])

    def _call(self, function: Symbol, arguments: tuple[Any, ...]) -> Any:
        match function.name, arguments:
            case "collections.OrderedDict", ():
                return {}
            case "collections.OrderedDict", (list() as pairs,):
                return self._dictionary(pairs)
            case "_codecs.encode", (str(), str()):
                # How protocol 2 writes bytes, which nobody reads here.
                return arguments[0]
            case "torch.Size", (tuple() as sizes,):
                return sizes
            case "torch.device", (str(), *_):
                return arguments[0]
            case "torch._utils._rebuild_tensor", (storage, offset, shape, strides):
                return _tensor(storage, offset, shape, strides)
            case "torch._utils._rebuild_tensor_v2", (storage, offset, shape, strides, _, _, *_):
                return _tensor(storage, offset, shape, strides)
            case "torch._utils._rebuild_tensor_v3", (storage, offset, shape, strides, _, _, dtype, *_):
                return _tensor(storage, offset, shape, strides, dtype)
            case "torch._utils._rebuild_parameter", (TensorRecord() as tensor, _, _):
                return tensor
            case "torch._utils._rebuild_parameter_with_state", (TensorRecord() as tensor, _, _, _):
                return tensor
        raise PickleError(f"{function.name} is called with {len(arguments)} arguments it cannot take")

    def _dictionary(self, pairs: list[Any]) -> dict[Any, Any]:
        # Python 2 wrote its ordered dictionaries as a list of pairs.  A list may be referred to many times.
        self._copied += len(pairs)
        if self._copied > MAX_STEPS:
            raise PickleError(f"dictionaries of more than {MAX_STEPS} members together")
        result = {}
        for pair in pairs:
            if type(pair) not in (list, tuple) or len(pair) != 2 or not isinstance(pair[0], str):
                raise PickleError(
                    "collections.OrderedDict is called with what are no pairs of a name and a value"
                )
            result[pair[0]] = pair[1]
        return result


def storage_of(storage_class: Any, key: Any, count: Any) -> Storage:
    """Make a storage of the members of its persistent id.

    Parameters
    ----------
    storage_class, key, count : object
        Whatever the pickle has there.

    Raises
    ------
    PickleError
        If they are not what torch writes.
    """
    if type(storage_class) is not Symbol or storage_class.name not in _STORAGES:
        raise PickleError(f"a storage of no known class but {_kind(storage_class)}")
    if not isinstance(key, str) or not _is_size(count):
        raise PickleError(f"a storage with the key {_kind(key)} and the size {_kind(count)}")
    return Storage(key, _STORAGES[storage_class.name], count, 0, count)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, dtype: Symbol | None = None) -> TensorRecord:
    if type(storage) is not Storage:
        raise PickleError(f"a tensor over no storage but {_kind(storage)}")
    number_format = storage.number_format
    if dtype is not None:
        if type(dtype) is not Symbol or dtype.name not in _DTYPES:
            raise PickleError(f"a tensor of no known dtype but {_kind(dtype)}")
        number_format = _DTYPES[dtype.name]
    if number_format is None:
        raise PickleError("a tensor over untyped bytes without a dtype")
    for name, sizes in (("shape", shape), ("strides", strides)):
        if type(sizes) is not tuple or len(sizes) > _MAX_DIMENSIONS or not all(map(_is_size, sizes)):
            raise PickleError(f"a tensor whose {name} is no tuple of sizes")
    if not _is_size(offset):
        raise PickleError(f"a tensor whose offset is {_kind(offset)}")
    count = storage.count * storage.bytes_per_number // FORMAT_BYTES[number_format]
    problem = placement_error(shape, strides, offset, count)
    if problem:
        raise PickleError(f"a tensor of shape {shape} that {problem}")
    return TensorRecord(storage, number_format, offset, shape, strides)


def _kind(value: Any) -> str:
    """Say what a value is without showing what is in it, which may be endless."""
    if isinstance(value, Symbol):
        return value.name
    return repr(value)[:80] if type(value) in (int, str, bool, type(None)) else type(value).__name__


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MAX_SIZE


def state_dict_of(value: Any) -> tuple[dict[str, TensorRecord], list[str], str | None]:
    """Find the state dict in what a file holds.

    It is the dictionary itself if tensors are among its values; otherwise the one dictionary of tensors in it
    that has a name under which trainers save the weights beside an optimizer, an epoch and the like.

    Parameters
    ----------
    value : object
        Result of the machine.

    Returns
    -------
    tensors : dict of str to TensorRecord
    others : list of str
        Names of values that are no tensors.
    wrapper : str or None
        Name of the dictionary inside.

    Raises
    ------
    PickleError
        If there is none, or more than one.
    """
    if type(value) is not dict:
        raise PickleError(
            f"the file holds {_article(value)}, expected a dictionary of tensors, such as model.state_dict()"
        )
    wrapper = None
    if not _has_tensors(value):
        found = [name for name in _WRAPPERS if _has_tensors(value.get(name))]
        if len(found) != 1:
            names = ", ".join(map(_kind, list(value)[:8]))
            raise PickleError(
                f"the file holds a dictionary without tensors; its keys are {names or 'none'}, and "
                + (
                    f"{' and '.join(found)} both hold tensors"
                    if found
                    else "none of them is a known name of a state dict"
                )
                + "; save the state dict alone"
            )
        wrapper = found[0]
        value = value[wrapper]
    tensors = {}
    for name, item in value.items():
        if type(item) is TensorRecord:
            if not isinstance(name, str):
                raise PickleError(f"a tensor under {_kind(name)}, expected a name")
            tensors[name] = item
    return tensors, [str(name) for name, item in value.items() if type(item) is not TensorRecord], wrapper


def _has_tensors(value: Any) -> bool:
    return type(value) is dict and any(type(item) is TensorRecord for item in value.values())


def _article(value: Any) -> str:
    return "a single tensor" if type(value) is TensorRecord else f"a {type(value).__name__}"
