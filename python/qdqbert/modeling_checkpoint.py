# SPDX-License-Identifier: Apache-2.0
"""`from_pretrained` and `save_pretrained`: from a folder or the hub to a model, and back into a folder."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, overload

import numpy as np

from qdqbert._core import Quantizer
from qdqbert.configuration_qdqbert import QDQBertConfig
from qdqbert.device import Device
from qdqbert.errors import CheckpointError, StateError, UnsupportedError
from qdqbert.module import Module
from qdqbert.quantization_settings import (
    apply_deviations,
    describe,
    is_float,
    read_descriptors,
    section_of,
    store_section,
)
from qdqbert.seeds import require_seed
from qdqbert.serialization.checkpoint_tensors import (
    Checkpoint,
    Tensor,
    open_bundle,
    open_weights,
    tensors_of_state_dict,
)
from qdqbert.serialization.folder import Source, read_json
from qdqbert.serialization.folder_change import FolderChange
from qdqbert.serialization.int8_weights import (
    INT8_SECTION,
    codes_key,
    describe_codes,
    take_section,
    tensors_with_codes,
)
from qdqbert.serialization.loading import LoadingReport, load_tensors, log_report, refuse_disproportion
from qdqbert.serialization.saving import save_weights
from qdqbert.serialization.tensorflow_files import CONFIG_NAMES, find_bundle
from qdqbert.serialization.weight_files import find_weights

__all__ = ["CheckpointModule", "load_tf_weights_in_qdqbert"]


# Numbers of a parameter that a frozen model reads from the mapped file instead of copying them.
_LEAST_LENT = 1 << 18
# As str() shows what users may mean by it.
_FLOAT32 = ("float32", "auto", "torch.float32", "<class 'numpy.float32'>")


class CheckpointModule(Module):
    """A module that is built from a configuration, and that a folder can hold.

    Subclasses take ``(config, *, device, seed)``, give every tensor a slot, and fill fresh weights in
    `_initialize`.
    """

    config_class: ClassVar[type[QDQBertConfig]]
    base_model_prefix: ClassVar[str]
    config: QDQBertConfig
    name_or_path: str
    padding: Any
    # As in transformers: patterns of tensors that a checkpoint may lack; they are drawn, and nothing is said.
    _keys_to_ignore_on_load_missing: ClassVar[Sequence[str] | None] = None
    _engine: Any
    _prefix: str = ""  # of the engine's names; a base model inside another has its own without it

    def _core_quantizers(self) -> list[tuple[str, Quantizer]]:
        """Return (name in this model, quantizer) of every quantizer."""
        quantizers = self._engine.core.quantizers()
        return [(name.removeprefix(self._prefix), quantizer) for name, quantizer in quantizers]

    def _initialize(self, seed: int, names: set[str]) -> None:
        """Give the parameters of these names fresh weights."""
        raise NotImplementedError

    @overload
    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | None,
        *,
        output_loading_info: Literal[False] = False,
        **options: Any,
    ) -> Self: ...

    @overload
    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | None,
        *,
        output_loading_info: Literal[True],
        **options: Any,
    ) -> tuple[Self, dict[str, Any]]: ...

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | None,
        *,
        config: QDQBertConfig | str | os.PathLike[str] | None = None,
        state_dict: Mapping[str, Any] | None = None,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        subfolder: str = "",
        output_loading_info: bool = False,
        ignore_mismatched_sizes: bool = False,
        from_tf: bool = False,
        from_flax: bool = False,
        use_safetensors: bool | None = None,
        variant: str | None = None,
        torch_dtype: Any = None,
        low_cpu_mem_usage: bool | None = None,
        thaw: bool = False,
        padding: str = "skip",
        device: Device | None = None,
        seed: int = 0,
        **kwargs: Any,
    ) -> Any:
        """Load a model from a folder, or from the Hugging Face hub.

        Parameters
        ----------
        pretrained_model_name_or_path : str, path or None
            A folder (the network is never touched) or the name of a repository; None together with `config`
            and `state_dict`.
        config : QDQBertConfig or path, optional
            Instead of the folder's ``config.json``.
        state_dict : mapping of str to array, optional
            Instead of the folder's weights.
        revision, cache_dir, local_files_only, token, subfolder
            As in ``huggingface_hub``.
        output_loading_info : bool
            Return (model, dictionary with ``missing_keys``, ``unexpected_keys``, ``mismatched_keys``,
            ``error_msgs``).
        ignore_mismatched_sizes : bool
            Initialize tensors of another shape anew instead of refusing the checkpoint.
        from_tf : bool
            Read an original TensorFlow checkpoint (``model.ckpt.index`` or ``bert_model.ckpt.index`` of the
            folder, or the index that `pretrained_model_name_or_path` is the path of), with ``config.json`` or
            ``bert_config.json`` beside it. See `load_tf_weights_in_qdqbert`.
        from_flax : bool
            Refused: Flax checkpoints are not read.
        use_safetensors : bool, optional
            True: read ``model.safetensors`` only. False: read ``pytorch_model.bin`` only. Left out: the first
            of them that is there. Nothing is unpickled in either case.
        variant : str, optional
            Such as ``"fp16"``: read ``model.fp16.safetensors`` instead.
        torch_dtype : optional
            ``"float32"``, ``"auto"``, or PyTorch's or NumPy's float32: weights are float32 whatever the file
            has.  Anything else is refused.
        low_cpu_mem_usage : bool, optional
            Both values mean the same here: a model is filled tensor by tensor from the file, and ranges
            are never left out.
        thaw : bool
            Of a checkpoint of int8 codes (see `save_pretrained`), which otherwise gives a frozen model: make
            floats of them again, ``code / scale``, so that the model can be trained.  What rounding took when
            the codes were made is lost; quantizing gives the same codes, so forward gives the same bits.
        padding : {"skip", "compute"}
            See `padding`.
        device : Device, optional
        seed : int
            Of weights that the checkpoint lacks.
        **kwargs
            Fields of the configuration to override, and for `QDQBertModel` ``add_pooling_layer``.

        Returns
        -------
        model, or (model, dict)

        Notes
        -----
        A frozen model reads its embeddings from the mapped file: of tables of which a text needs a few rows,
        memory holds what was read.  Until the model is dropped the file must not be cut or written in place,
        which nothing can survive; a file that is replaced by a rename, as `save_pretrained` does, is fine.

        Raises
        ------
        CheckpointError
            If files are missing or damaged, the model is of another kind, or shapes differ.
        UnsupportedError
            For formats and features that are not built yet.
        TypeError
            For an unknown keyword, or a `seed` that is no integer.
        """
        require_seed("seed", seed)
        if torch_dtype is not None and str(torch_dtype) not in _FLOAT32:
            raise UnsupportedError(f"torch_dtype: expected float32, which all weights are, got {torch_dtype}")
        if not isinstance(low_cpu_mem_usage, bool | None):
            raise TypeError(f"low_cpu_mem_usage: expected bool, got {type(low_cpu_mem_usage).__name__}")
        model_kwargs = {key: kwargs.pop(key) for key in cls._model_arguments() if key in kwargs}
        if from_flax:
            raise UnsupportedError(
                "from_flax=True: Flax checkpoints are not read; save PyTorch's or safetensors"
            )
        source, bundle = None, None
        config_names: Sequence[str] = CONFIG_NAMES[:1]
        if pretrained_model_name_or_path is None:
            if config is None or state_dict is None:
                raise ValueError("pretrained_model_name_or_path: None needs both config and state_dict")
        elif from_tf:
            bundle = find_bundle(pretrained_model_name_or_path, subfolder)
            source, config_names = Source(bundle.parent), CONFIG_NAMES
        else:
            source = Source(
                pretrained_model_name_or_path,
                revision=revision,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                token=token,
                subfolder=subfolder,
            )
        is_from_file = not isinstance(config, QDQBertConfig)
        config = _resolve_config(cls, config, source, config_names, kwargs)
        if not isinstance(thaw, bool):
            raise TypeError(f"thaw: expected bool, got {type(thaw).__name__}")
        where = source.name if source else "state_dict"
        coded = take_section(config, str(Path(where) / "config.json") if source else "config")
        if thaw and coded is None:
            raise ValueError(f"thaw: {where} holds no int8 codes: its weights are floats")
        config.validate()
        read_descriptors(section_of(config))
        with contextlib.ExitStack() as stack:
            if state_dict is not None:
                checkpoint = tensors_of_state_dict(state_dict)
            elif bundle is not None:
                checkpoint = stack.enter_context(open_bundle(bundle))
            else:
                assert source is not None
                files = find_weights(source, use_safetensors=use_safetensors, variant=variant)
                checkpoint = stack.enter_context(open_weights(files))
            if coded is not None or any(key.endswith(".weight_codes") for key in checkpoint.tensors):
                found = tensors_with_codes(coded, checkpoint.tensors, where)
                checkpoint = Checkpoint(found, lambda slots: found)
            if is_from_file:
                refuse_disproportion(config, checkpoint.tensors, where)
            model = cls(config, device=device, seed=None, **model_kwargs)  # type: ignore[call-arg]
            model.padding = padding
            apply_deviations(section_of(config), model._core_quantizers(), cls.base_model_prefix)
            if coded is None:
                report = model._load(checkpoint, where, ignore_mismatched_sizes)
            else:
                report = model._load_codes(checkpoint, where, ignore_mismatched_sizes, thaw)
        fresh = {*report.missing_keys, *(name for name, _, _ in report.mismatched_keys)}
        model._initialize(seed, fresh)
        model.name_or_path = source.name if source else ""
        model._load_generation_config(source)
        report = report.without_missing(cls._keys_to_ignore_on_load_missing or ())
        log_report(report, cls.__name__, where, config.architectures)
        return (model, report.as_dict()) if output_loading_info else model

    def _load_generation_config(self, source: Source | None) -> None:
        """Read the folder's ``generation_config.json``, in models that generate."""

    @classmethod
    def _model_arguments(cls) -> tuple[str, ...]:
        return ()

    def _load_codes(
        self, checkpoint: Checkpoint, where: str, ignore_mismatched_sizes: bool, thaw: bool
    ) -> LoadingReport:
        """Load a checkpoint of codes: make floats of them, or freeze the model with them."""
        from qdqbert.freezing import freeze_engine

        codes: dict[str, Tensor] = {}
        lent: dict[str, Any] = {}
        bound, prefix = self._engine.handles.bound, self._prefix

        def take(name: str, tensor: Tensor) -> bool:
            if tensor.read_codes is not None and name.endswith(".weight"):
                codes[prefix + name] = tensor
                return True
            if (
                thaw
                or tensor.mapped is None
                or tensor.count < _LEAST_LENT
                or prefix + name not in bound.parameters
            ):
                return False
            array = tensor.mapped()
            if array is not None:
                lent[prefix + name] = array
            return array is not None

        report = self._load(checkpoint, where, ignore_mismatched_sizes, take)
        try:
            if thaw:
                # One after the other goes through the same memory.
                buffer = np.empty(max((math.prod(each.shape) for each in codes.values()), default=0), np.int8)
                for name, tensor in codes.items():
                    assert tensor.read_codes is not None
                    index = bound.parameters[name][0]
                    values = bound.model.values_of_codes(index, tensor.read_codes(buffer))
                    bound.model.parameter_write(index)[...] = values
            elif codes:
                freeze_engine(self._engine, {name: _place_of(tensor) for name, tensor in codes.items()}, lent)
        except (StateError, ValueError, EOFError, OSError) as error:
            if isinstance(error, CheckpointError):
                raise
            text = str(error)
            layers = {name.removesuffix(".weight"): name for name in codes}
            name = next((part for part in codes if part in text), "") or layers.get(
                re.split(r":|\.weight|\._", text, maxsplit=1)[0], ""
            )
            at = codes[name].source if name else where
            raise CheckpointError(f"{at}: {error}") from error
        return report

    def _load(
        self,
        checkpoint: Checkpoint,
        where: str,
        ignore_mismatched_sizes: bool,
        take: Callable[[str, Tensor], bool] | None = None,
    ) -> LoadingReport:
        slots = {name: slot for name, slot in self._named_slots() if slot.persistent}
        return load_tensors(
            slots,
            checkpoint.named_for(slots),
            where=where,
            class_name=type(self).__name__,
            base_prefix=self.base_model_prefix,
            ignore_mismatched_sizes=ignore_mismatched_sizes,
            take=take,
        )

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        *,
        max_shard_size: int | str = "5GB",
        safe_serialization: bool = True,
        variant: str | None = None,
    ) -> None:
        """Write ``config.json`` and the weights, with the range of every quantizer that has one.

        The files replace those of an older model as one: whatever stops the process, and whenever,
        `from_pretrained` finds the old model or the new one, never parts of both. Weights of an older save
        that the new one does not need are removed; other files stay.

        A float model, one without ranges whose quantizers are all as they come or all off, is written as the
        BERT that it is, with ``model_type`` "bert" and the architecture's plain name, so that it opens with
        transformers' own classes. Otherwise ``model_type`` is "qdqbert". Settings that are not the defaults
        stand under ``qdqbert_quantization``, which others ignore: transformers' ``BertFor...`` classes open
        such a folder too, and leave the ranges out.

        A frozen model (see `freeze`) is written with int8 codes, ``....weight_codes``, in place of the floats
        that it no longer has, a quarter of their size, and ``qdqbert_int8_weights`` in ``config.json`` lists
        them.  `from_pretrained` makes a frozen model of such a folder, with equal bits, or floats that have
        the same codes (``thaw=True``).  Codes lie row by row: whoever loads them packs them for its machine.

        Parameters
        ----------
        save_directory : str or path
            Made if it is missing.
        max_shard_size : int or str
            Largest amount of tensor data in one file, in bytes or as ``"200MB"``.
        safe_serialization : bool
            False, PyTorch's pickled format, is refused: whoever reads that format reads safetensors too.
        variant : str, optional
            Such as ``"fp16"``: write ``model.fp16.safetensors``. The numbers are float32 whatever it says.

        Raises
        ------
        NotADirectoryError
            If `save_directory` is a file.
        UnsupportedError
            If `safe_serialization` is false.
        OSError
            If a file cannot be written; the folder is as it was, or the new model is complete.
        """
        if not safe_serialization:
            raise UnsupportedError(
                "safe_serialization=False: pytorch_model.bin is read, not written; save safetensors, which "
                "transformers reads as well"
            )
        folder = Path(save_directory)
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"save_directory: {folder} is a file")
        folder.mkdir(parents=True, exist_ok=True)
        state = self._saved_state()
        with FolderChange(folder) as change:
            save_weights(change, state, max_shard_size, variant)
            change.write_text("config.json", self._saved_config())
            self._save_more(change)

    def _saved_state(self) -> dict[str, Any]:
        """Tensors by key: of a frozen weight its codes."""
        bound, prefix, state = self._engine.handles.bound, self._prefix, {}
        for name, slot in self._named_slots():
            if slot.tied_to is not None or not slot.persistent:
                continue
            if prefix + name in bound.codes:
                state[codes_key(name)] = bound.read_codes(prefix + name)
            elif (value := slot.read()) is not None:
                state[name] = value
        return state

    def _saved_config(self) -> str:
        """Text of ``config.json``."""
        quantizers = self._core_quantizers()
        engine = self._engine
        section = describe(quantizers, engine.input_desc, engine.weight_desc, engine.calibration)
        config = type(self.config).from_dict(self.config.to_dict())
        config.torch_dtype = "float32"
        store_section(config, section)
        coded = [name.removeprefix(self._prefix) for name in engine.handles.bound.codes]
        if hasattr(config, INT8_SECTION):
            delattr(config, INT8_SECTION)
        if coded:
            setattr(config, INT8_SECTION, describe_codes(coded))
        name, model_type = type(self).__name__, config.model_type
        if is_float(section, quantizers):
            name, model_type = name.removeprefix("QDQ"), "bert"
        config.architectures = [name]
        fields = {**config.to_diff_dict(), "model_type": model_type}
        return json.dumps(fields, indent=2, sort_keys=True) + "\n"

    def _save_more(self, change: FolderChange) -> None:
        """Write what some models have beside: a generation configuration."""


def _place_of(tensor: Tensor) -> Any:
    assert tensor.find_codes is not None
    return tensor.find_codes()


def load_tf_weights_in_qdqbert(
    model: CheckpointModule, config: QDQBertConfig | None, tf_checkpoint_path: str | os.PathLike[str]
) -> Any:
    """Load an original TensorFlow checkpoint into a model; TensorFlow is not needed.

    Variables are renamed (``kernel``, which is transposed, ``gamma`` and ``output_weights`` to ``weight``;
    ``beta`` and ``output_bias`` to ``bias``; ``layer_3`` to ``layer.3``), those of the optimizer are left
    out, and the head of a fine-tuned checkpoint (``cls/squad``, or ``output_weights`` alone) goes to the
    model's ``qa_outputs`` or ``classifier``.  Checksums are compared.  What the checkpoint lacks stays as it
    was, and the log says so.

    Parameters
    ----------
    model : QDQBertPreTrainedModel
    config : QDQBertConfig or None
        In the original's signature, which does not use it either: the model has its own.
    tf_checkpoint_path : str or path
        Of the index, with or without ``.index``, or of its folder.

    Returns
    -------
    model

    Raises
    ------
    CheckpointError
        If files are missing or damaged, or a shape differs (the original's ValueError); the model is as it
        was.
    UnsupportedError
        For checkpoints of Keras and of TensorFlow 2's objects.
    """
    prefix = find_bundle(tf_checkpoint_path)
    with open_bundle(prefix) as checkpoint:
        report = model._load(checkpoint, str(prefix), ignore_mismatched_sizes=False)
    log_report(report, type(model).__name__, str(prefix), model.config.architectures)
    return model


def _resolve_config(
    cls: type[CheckpointModule],
    config: QDQBertConfig | str | os.PathLike[str] | None,
    source: Source | None,
    names: Sequence[str],
    kwargs: dict[str, Any],
) -> QDQBertConfig:
    """Return the configuration to build, a copy with the fields in `kwargs` set over it.

    It is read from the first file of `names` that there is.
    """
    if config is None:
        assert source is not None
        path = next(filter(None, map(source.find, names)), None)
        if path is None and source.folder is not None and (source.folder / CONFIG_NAMES[1]).is_file():
            raise CheckpointError(
                f"{source.name}: no {names[0]}, but {CONFIG_NAMES[1]}, as original TensorFlow checkpoints "
                "have it; load those with from_tf=True"
            )
        path = path or source.require(names[0])
        where, fields = str(path), read_json(path)
    elif isinstance(config, QDQBertConfig):
        where, fields = "config", config.to_dict()
    else:
        where, fields = str(config), cls.config_class.from_pretrained(config).to_dict()
    try:
        resolved, unused = cls.config_class.from_dict(fields, return_unused_kwargs=True, **kwargs)
    except ValueError as error:
        raise CheckpointError(f"{where}: {error}") from error
    if unused:
        raise TypeError(
            f"{cls.__name__}.from_pretrained() got unexpected arguments: {', '.join(sorted(unused))}"
        )
    resolved.name_or_path = source.name if source else ""
    return resolved
