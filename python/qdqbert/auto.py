# SPDX-License-Identifier: Apache-2.0
"""`AutoConfig`, `AutoTokenizer`, `AutoModelFor...`: the class for a task, without its name in the code.

There is one kind of model here, so what these choose is the head: the table below is transformers' for
QDQBERT.  As there, any BERT can be loaded with any head; weights that its files lack are fresh and are warned
of, which is where fine-tuning starts.  A folder that holds another kind of model is refused with what it is.
"""

from __future__ import annotations

import importlib
import os
import warnings
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Protocol, TypeVar, overload

from qdqbert.configuration_qdqbert import SUPPORTED_MODEL_TYPES, QDQBertConfig
from qdqbert.device import Device
from qdqbert.errors import CheckpointError, UnsupportedError
from qdqbert.modeling_base import QDQBertPreTrainedModel
from qdqbert.serialization.folder import Source, read_json
from qdqbert.tokenization import BertTokenizerFast

if TYPE_CHECKING:
    from qdqbert.modeling_qdqbert import (
        QDQBertForMaskedLM,
        QDQBertForMultipleChoice,
        QDQBertForNextSentencePrediction,
        QDQBertForQuestionAnswering,
        QDQBertForSequenceClassification,
        QDQBertForTokenClassification,
        QDQBertLMHeadModel,
        QDQBertModel,
    )

__all__ = [
    "MODEL_CLASSES",
    "AutoConfig",
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoModelForMaskedLM",
    "AutoModelForMultipleChoice",
    "AutoModelForNextSentencePrediction",
    "AutoModelForQuestionAnswering",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "AutoModelWithLMHead",
    "AutoTokenizer",
]

# Auto class -> model class.
MODEL_CLASSES = {
    "AutoModel": "QDQBertModel",
    "AutoModelForCausalLM": "QDQBertLMHeadModel",
    "AutoModelForMaskedLM": "QDQBertForMaskedLM",
    "AutoModelForMultipleChoice": "QDQBertForMultipleChoice",
    "AutoModelForNextSentencePrediction": "QDQBertForNextSentencePrediction",
    "AutoModelForQuestionAnswering": "QDQBertForQuestionAnswering",
    "AutoModelForSequenceClassification": "QDQBertForSequenceClassification",
    "AutoModelForTokenClassification": "QDQBertForTokenClassification",
    "AutoModelWithLMHead": "QDQBertForMaskedLM",
}


ModelT = TypeVar("ModelT", bound=QDQBertPreTrainedModel, covariant=True)


class _Makes(Protocol[ModelT]):
    """An auto class by what it makes."""

    @classmethod
    def model_class(cls) -> type[ModelT]: ...


class AutoConfig:
    """Reads the configuration of a model.

    Examples
    --------
    >>> AutoConfig.for_model("qdqbert", hidden_size=96).hidden_size
    96
    """

    def __init__(self) -> None:
        _refuse_instance(type(self), "from_pretrained")

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> QDQBertConfig:
        """Read ``config.json`` of a folder or of a repository.

        Parameters
        ----------
        pretrained_model_name_or_path : str or path
        **kwargs
            As in `QDQBertConfig.from_pretrained`.

        Raises
        ------
        CheckpointError
            If there is none, it is damaged, or it describes another kind of model.
        """
        config: QDQBertConfig = QDQBertConfig.from_pretrained(pretrained_model_name_or_path, **kwargs)
        return config

    @classmethod
    def for_model(cls, model_type: str, **kwargs: Any) -> QDQBertConfig:
        """Make a configuration.

        Parameters
        ----------
        model_type : {"qdqbert", "bert"}
        **kwargs
            Fields of `QDQBertConfig`.

        Raises
        ------
        ValueError
            For another `model_type`.
        """
        if model_type not in SUPPORTED_MODEL_TYPES:
            raise ValueError(
                f"model_type: {model_type!r} is not supported; supported are {_listed(SUPPORTED_MODEL_TYPES)}"
            )
        return QDQBertConfig(**kwargs)


class AutoTokenizer:
    """Reads the tokenizer of a model.

    Examples
    --------
    >>> from qdqbert.cli.demo import bundled_folder
    >>> AutoTokenizer.from_pretrained(bundled_folder()).tokenize("What is it?")
    ['what', 'is', 'it', '?']
    """

    def __init__(self) -> None:
        _refuse_instance(type(self), "from_pretrained")

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        use_fast: bool = True,
        **kwargs: Any,
    ) -> BertTokenizerFast:
        """Read the tokenizer of a folder or of a repository.

        Parameters
        ----------
        pretrained_model_name_or_path : str or path
        use_fast : bool
            There is no other.
        **kwargs
            As in `BertTokenizerFast.from_pretrained`.

        Raises
        ------
        CheckpointError
            If files are missing or damaged.
        UnsupportedError
            If the tokenizer is of another kind, or for ``use_fast=False``.
        """
        if not use_fast:
            raise UnsupportedError("use_fast: False asks for a tokenizer in pure Python, which there is not")
        return BertTokenizerFast.from_pretrained(pretrained_model_name_or_path, **kwargs)


class _AutoModelClass:
    """Loads or makes a model of the class that `MODEL_CLASSES` has for its subclass."""

    def __init__(self) -> None:
        _refuse_instance(type(self), "from_pretrained", "from_config")

    @classmethod
    def model_class(cls) -> type[QDQBertPreTrainedModel]:
        """Return the class of the models."""
        module = importlib.import_module("qdqbert.modeling_qdqbert")
        found: type[QDQBertPreTrainedModel] = getattr(module, MODEL_CLASSES[cls.__name__])
        return found

    @classmethod
    def from_config(
        cls: type[_Makes[ModelT]],
        config: QDQBertConfig,
        *,
        device: Device | None = None,
        seed: int = 0,
        **kwargs: Any,
    ) -> ModelT:
        """Make a model with fresh weights.

        Parameters
        ----------
        config : QDQBertConfig
        device : Device, optional
        seed : int
            Of the weights.
        **kwargs
            Further arguments of the model class.

        Raises
        ------
        TypeError
            If `config` is no `QDQBertConfig`.
        """
        made: ModelT = cls.model_class()(config, device=device, seed=seed, **kwargs)
        return made

    @overload
    @classmethod
    def from_pretrained(
        cls: type[_Makes[ModelT]],
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        output_loading_info: Literal[False] = False,
        **kwargs: Any,
    ) -> ModelT: ...

    @overload
    @classmethod
    def from_pretrained(
        cls: type[_Makes[ModelT]],
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        output_loading_info: Literal[True],
        **kwargs: Any,
    ) -> tuple[ModelT, dict[str, Any]]: ...

    @classmethod
    def from_pretrained(
        cls: type[_Makes[ModelT]], pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> ModelT | tuple[ModelT, dict[str, Any]]:
        """Load a model from a folder, or from the Hugging Face hub.

        Parameters
        ----------
        pretrained_model_name_or_path : str or path
        **kwargs
            As in ``from_pretrained`` of the model class.

        Raises
        ------
        CheckpointError
            If files are missing or damaged, or the folder holds another kind of model.
        """
        if kwargs.get("config") is None and not kwargs.get("from_tf"):
            refuse_other_kinds(pretrained_model_name_or_path, cls.__name__, kwargs)
        result: ModelT | tuple[ModelT, dict[str, Any]]
        result = cls.model_class().from_pretrained(pretrained_model_name_or_path, **kwargs)
        return result


class AutoModel(_AutoModelClass):
    """Loads or makes a `QDQBertModel`."""

    if TYPE_CHECKING:

        @classmethod
        def model_class(cls) -> type[QDQBertModel]:
            """Return the class of the models."""
            ...


class AutoModelForCausalLM(_AutoModelClass):
    """Loads or makes a `QDQBertLMHeadModel`."""

    if TYPE_CHECKING:

        @classmethod
        def model_class(cls) -> type[QDQBertLMHeadModel]:
            """Return the class of the models."""
            ...


class AutoModelForMaskedLM(_AutoModelClass):
    """Loads or makes a `QDQBertForMaskedLM`."""

    if TYPE_CHECKING:

        @classmethod
        def model_class(cls) -> type[QDQBertForMaskedLM]:
            """Return the class of the models."""
            ...


class AutoModelForMultipleChoice(_AutoModelClass):
    """Loads or makes a `QDQBertForMultipleChoice`."""

    if TYPE_CHECKING:

        @classmethod
        def model_class(cls) -> type[QDQBertForMultipleChoice]:
            """Return the class of the models."""
            ...


class AutoModelForNextSentencePrediction(_AutoModelClass):
    """Loads or makes a `QDQBertForNextSentencePrediction`."""

    if TYPE_CHECKING:

        @classmethod
        def model_class(cls) -> type[QDQBertForNextSentencePrediction]:
            """Return the class of the models."""
            ...


class AutoModelForQuestionAnswering(_AutoModelClass):
    """Loads or makes a `QDQBertForQuestionAnswering`."""

    if TYPE_CHECKING:

        @classmethod
        def model_class(cls) -> type[QDQBertForQuestionAnswering]:
            """Return the class of the models."""
            ...


class AutoModelForSequenceClassification(_AutoModelClass):
    """Loads or makes a `QDQBertForSequenceClassification`."""

    if TYPE_CHECKING:

        @classmethod
        def model_class(cls) -> type[QDQBertForSequenceClassification]:
            """Return the class of the models."""
            ...


class AutoModelForTokenClassification(_AutoModelClass):
    """Loads or makes a `QDQBertForTokenClassification`."""

    if TYPE_CHECKING:

        @classmethod
        def model_class(cls) -> type[QDQBertForTokenClassification]:
            """Return the class of the models."""
            ...


class AutoModelWithLMHead(_AutoModelClass):
    """Loads or makes a `QDQBertForMaskedLM`; deprecated in transformers in favour of the exact names."""

    @classmethod
    def model_class(cls) -> type[QDQBertForMaskedLM]:
        """Return the class of the models."""
        warnings.warn(
            "AutoModelWithLMHead is deprecated: use AutoModelForMaskedLM, or AutoModelForCausalLM for a "
            "decoder",
            FutureWarning,
            stacklevel=3,
        )
        found: type[QDQBertForMaskedLM] = super().model_class()  # type: ignore[assignment]
        return found


def refuse_other_kinds(name_or_path: str | os.PathLike[str], reader: str, options: dict[str, Any]) -> None:
    """Refuse a folder or repository that holds no BERT.

    Parameters
    ----------
    name_or_path : str or path
    reader : str
        Who wants to read it, for the message.
    options : dict
        Keyword arguments of ``from_pretrained``, of which those about the hub are used.

    Raises
    ------
    CheckpointError
        With the architecture found, and those that can be read.
    """
    hub = ("revision", "cache_dir", "local_files_only", "token", "subfolder")
    source = Source(name_or_path, **{key: options[key] for key in hub if key in options})
    path = source.require("config.json")
    config = read_json(path)
    found = config.get("architectures") or []
    names = [name for name in found if isinstance(name, str)] if isinstance(found, list) else []
    model_type = config.get("model_type")
    if model_type in SUPPORTED_MODEL_TYPES:
        return
    is_bert = any(name.startswith(("Bert", "QDQBert")) for name in names)
    if model_type is None and (is_bert or not names):
        return
    heads = sorted({name.replace("QDQ", "") for name in MODEL_CLASSES.values()} | set(MODEL_CLASSES.values()))
    raise CheckpointError(
        f"{path}: {reader} reads BERT; this is {' and '.join(names) or 'a model'} of model_type "
        f"{model_type!r}.  Supported model types: {_listed(SUPPORTED_MODEL_TYPES)}; architectures: "
        f"{', '.join(heads)}"
    )


def _refuse_instance(cls: type, *methods: str) -> NoReturn:
    calls = " or ".join(f"{cls.__name__}.{method}(...)" for method in methods)
    raise OSError(f"{cls.__name__} has no instances: call {calls}")


def _listed(names: tuple[str, ...]) -> str:
    return " and ".join(repr(name) for name in names)
