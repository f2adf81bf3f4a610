# SPDX-License-Identifier: Apache-2.0
"""`QDQBertConfig`: the shape of a model and everything else that ``config.json`` holds.

Fields, defaults and the two dictionary forms are those of transformers' QDQBERT 4.39.  Keys that are not
fields are kept as attributes and written back, so a file survives the round trip.  Written differently on
purpose: the keys of ``pruned_heads`` are integers however the configuration was read, and quantization
settings have a home under ``qdqbert_quantization``.
"""

from __future__ import annotations

import copy
import json
import logging
import os
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, overload

from qdqbert.copies import VERSION, constructed, restore
from qdqbert.errors import CheckpointError, UnsupportedError
from qdqbert.serialization.atomic import write_text

__all__ = ["QDQBERT_PRETRAINED_CONFIG_ARCHIVE_MAP", "SUPPORTED_MODEL_TYPES", "QDQBertConfig"]

_logger = logging.getLogger(__name__)

CONFIG_NAME = "config.json"
SUPPORTED_MODEL_TYPES = ("bert", "qdqbert")
# Each label has a name in two dictionaries, so a number from a damaged file must not reach the memory's size.
_MAX_LABELS = 1_000_000
_POSITION_TYPES = ("absolute", "relative_key", "relative_key_query")
_SWITCHES = (
    "is_decoder",
    "is_encoder_decoder",
    "add_cross_attention",
    "use_cache",
    "tie_word_embeddings",
    "return_dict",
    "output_hidden_states",
    "output_attentions",
    "torchscript",
)
_PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")

# The fields of the library's base configuration that models, tests or files use.  A field that still has this
# value is left out of config.json.
_BASE_DEFAULTS: dict[str, Any] = {
    "return_dict": True,
    "output_hidden_states": False,
    "output_attentions": False,
    "torchscript": False,
    "torch_dtype": None,
    "pruned_heads": {},
    "position_embedding_type": "absolute",
    "tie_word_embeddings": True,
    "chunk_size_feed_forward": 0,
    "is_encoder_decoder": False,
    "is_decoder": False,
    "cross_attention_hidden_size": None,
    "add_cross_attention": False,
    "tie_encoder_decoder": False,
    "architectures": None,
    "finetuning_task": None,
    "problem_type": None,
    "tokenizer_class": None,
    "prefix": None,
    "sep_token_id": None,
    "decoder_start_token_id": None,
    "task_specific_params": None,
}


class QDQBertConfig:
    """Shape and options of a model.

    Parameters
    ----------
    vocab_size : int
        Rows of the word embedding.
    hidden_size : int
        Features of a token; a multiple of `num_attention_heads`.
    num_hidden_layers, num_attention_heads, intermediate_size : int
    hidden_act : str
        Activation of the feed-forward layer: a name that transformers knows, such as ``"gelu"``; another one
        is refused with the list of all. A callable, which the original takes too, cannot run in the C core.
    hidden_dropout_prob, attention_probs_dropout_prob : float
        Used by training only.
    max_position_embeddings : int
        Longest sequence.
    type_vocab_size : int
        Rows of the token-type embedding.
    initializer_range : float
        Standard deviation of fresh weights.
    layer_norm_eps : float
    use_cache : bool
        Used by decoders only.
    pad_token_id, bos_token_id, eos_token_id : int or None
        The defaults 1, 0 and 2 are the original's (RoBERTa's numbers, not BERT's); files carry their own.
    **kwargs
        Fields of the base configuration (`num_labels`, `id2label`, `label2id`, `problem_type`, `return_dict`,
        `output_attentions`, `output_hidden_states`, `pruned_heads`, ...); anything else is kept as an
        attribute.

    Raises
    ------
    ValueError
        If `problem_type`, `id2label` or `label2id` cannot be what it should be.

    Notes
    -----
    Sizes are checked when a model is built, by `validate`.
    """

    model_type: ClassVar[str] = "qdqbert"

    id2label: dict[int, str]
    label2id: dict[str, int]
    return_dict: bool
    output_hidden_states: bool
    output_attentions: bool
    torchscript: bool
    pruned_heads: dict[int, list[int]]
    is_decoder: bool
    add_cross_attention: bool
    is_encoder_decoder: bool
    architectures: list[str] | None
    torch_dtype: str | None
    problem_type: str | None
    position_embedding_type: str
    tie_word_embeddings: bool
    name_or_path: str

    def __init__(
        self,
        vocab_size: int = 30522,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        intermediate_size: int = 3072,
        hidden_act: str = "gelu",
        hidden_dropout_prob: float = 0.1,
        attention_probs_dropout_prob: float = 0.1,
        max_position_embeddings: int = 512,
        type_vocab_size: int = 2,
        initializer_range: float = 0.02,
        layer_norm_eps: float = 1e-12,
        use_cache: bool = True,
        pad_token_id: int | None = 1,
        bos_token_id: int | None = 0,
        eos_token_id: int | None = 2,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.hidden_act = hidden_act
        self.hidden_dropout_prob = hidden_dropout_prob
        self.attention_probs_dropout_prob = attention_probs_dropout_prob
        self.max_position_embeddings = max_position_embeddings
        self.type_vocab_size = type_vocab_size
        self.initializer_range = initializer_range
        self.layer_norm_eps = layer_norm_eps
        self.use_cache = use_cache
        self.pad_token_id = pad_token_id
        self.bos_token_id = bos_token_id
        self.eos_token_id = eos_token_id
        kwargs.pop("model_type", None)
        self.name_or_path = str(kwargs.pop("name_or_path", ""))
        for field, default in _BASE_DEFAULTS.items():
            setattr(self, field, kwargs.pop(field, copy.copy(default)))
        self.pruned_heads = _pruned_heads(self.pruned_heads)
        self._set_labels(
            kwargs.pop("id2label", None), kwargs.pop("label2id", None), kwargs.pop("num_labels", None)
        )
        if self.problem_type is not None and self.problem_type not in _PROBLEM_TYPES:
            raise ValueError(
                f"The config parameter `problem_type` was not understood: received {self.problem_type} "
                "but only 'regression', 'single_label_classification' and "
                "'multi_label_classification' are valid."
            )
        for key, value in kwargs.items():
            if not isinstance(key, str) or not key or hasattr(type(self), key):
                raise ValueError(f"{key!r} cannot be a key of a configuration")
            setattr(self, key, value)

    # ---- labels --------------------------------------------------------------------------------------------

    def _set_labels(self, id2label: Any, label2id: Any, num_labels: int | None) -> None:
        for name, value in (("id2label", id2label), ("label2id", label2id)):
            if value is not None and not isinstance(value, dict):
                raise ValueError(f"Argument {name} should be a dictionary, got {type(value).__name__}.")
        if id2label is None:
            if label2id is not None and num_labels is None:
                num_labels = len(label2id)
            self.num_labels = 2 if num_labels is None else num_labels
            if label2id is not None and len(label2id) == self.num_labels:
                try:
                    self.id2label = {int(index): label for label, index in label2id.items()}
                except (TypeError, ValueError, OverflowError):
                    found = list(label2id.values())[:5]
                    raise ValueError(f"label2id: expected integers, got {found}") from None
                self.label2id = dict(label2id)
            return
        try:
            self.id2label = {int(key): value for key, value in id2label.items()}
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"id2label: expected integer keys, got {list(id2label)[:5]}") from None
        if num_labels is not None and num_labels != len(id2label):
            _logger.warning(
                "You passed along `num_labels=%s` with an incompatible id to label map: %s. "
                "The number of labels will be overwritten to %s.",
                num_labels,
                id2label,
                len(id2label),
            )
        self.label2id = (
            dict(label2id)
            if label2id is not None
            else {str(label): index for index, label in self.id2label.items()}
        )

    @property
    def num_labels(self) -> int:
        """Number of labels; setting another number makes new labels ``LABEL_0`` ..."""
        return len(self.id2label)

    @num_labels.setter
    def num_labels(self, num_labels: int) -> None:
        is_integer = isinstance(num_labels, int) and not isinstance(num_labels, bool)
        if not is_integer or not 1 <= num_labels <= _MAX_LABELS:
            raise ValueError(f"num_labels: expected an integer in 1 .. {_MAX_LABELS}, got {num_labels!r}")
        if len(getattr(self, "id2label", {})) != num_labels:
            self.id2label = {index: f"LABEL_{index}" for index in range(num_labels)}
            self.label2id = {label: index for index, label in self.id2label.items()}

    @property
    def use_return_dict(self) -> bool:
        """Whether models return a `ModelOutput` unless told otherwise."""
        return bool(self.return_dict) and not self.torchscript

    # ---- validation ----------------------------------------------------------------------------------------

    def validate(self) -> None:
        """Check what building a model relies on.

        Raises
        ------
        ValueError
            If a size is not a positive integer, a switch neither True nor False, `hidden_size` no multiple of
            `num_attention_heads`, a number out of range, cross-attention without a decoder, or `pruned_heads`
            names heads that are not there or all that are; the field is named.
        UnsupportedError
            For a callable as `hidden_act`, and for an encoder and a decoder in one model.
        """
        for field in (
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "max_position_embeddings",
            "type_vocab_size",
        ):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31:
                raise ValueError(f"{field}: expected an integer in 1 .. {2**31 - 1}, got {value!r}")
        if self.hidden_size % self.num_attention_heads != 0:
            raise ValueError(
                f"The hidden size ({self.hidden_size}) is not a multiple of the number of attention heads "
                f"({self.num_attention_heads})"
            )
        for field, low, high in (
            ("layer_norm_eps", 0.0, 1.0),
            ("initializer_range", 0.0, 1e3),
            ("hidden_dropout_prob", 0.0, 1.0),
            ("attention_probs_dropout_prob", 0.0, 1.0),
        ):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise ValueError(f"{field}: expected a number in [{low:g}, {high:g}], got {value!r}")
        for field in _SWITCHES:
            value = getattr(self, field)
            if not isinstance(value, bool):
                raise ValueError(f"{field}: expected True or False, got {value!r}")
        if callable(self.hidden_act):
            raise UnsupportedError(
                "hidden_act: a callable cannot run inside the C core, which computes the activations that "
                f"have a name, such as 'gelu'; got {self.hidden_act!r}"
            )
        # A name: what has no form in UTF-8 could not even be shown.
        if not isinstance(self.hidden_act, str) or not self.hidden_act.isascii():
            raise ValueError(f"hidden_act: expected the name of an activation, got {self.hidden_act!r}")
        if self.position_embedding_type not in _POSITION_TYPES:
            raise ValueError(
                f"position_embedding_type: expected one of {', '.join(map(repr, _POSITION_TYPES))}, "
                f"got {self.position_embedding_type!r}"
            )
        if self.is_encoder_decoder:
            raise UnsupportedError(
                "is_encoder_decoder=True: a model here is an encoder, or with is_decoder=True a decoder that "
                "is given encoder_hidden_states; make two"
            )
        if self.add_cross_attention and not self.is_decoder:
            raise ValueError(
                "add_cross_attention=True: only a decoder attends to an encoder; set is_decoder=True too"
            )
        self._validate_pruned_heads()

    def _validate_pruned_heads(self) -> None:
        layers, heads = self.num_hidden_layers, self.num_attention_heads
        gone: dict[int, set[int]] = {}
        for layer, pruned in self.pruned_heads.items():
            if not -layers <= layer < layers:
                raise ValueError(f"pruned_heads: there is no layer {layer}, the model has {layers}")
            wrong = [head for head in pruned if not 0 <= head < heads]
            if wrong:
                raise ValueError(f"pruned_heads[{layer}]: there is no head {wrong[0]}, the layer has {heads}")
            gone.setdefault(layer % layers, set()).update(pruned)
        for layer, pruned_set in gone.items():
            if len(pruned_set) == heads:
                raise ValueError(f"pruned_heads[{layer}]: all {heads} heads; one must be left")

    # ---- dictionaries --------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return every field, with ``model_type``; a deep copy."""
        state = {key: value for key, value in vars(self).items() if key != "name_or_path"}
        return {**copy.deepcopy(state), "model_type": self.model_type}

    def to_diff_dict(self) -> dict[str, Any]:
        """Return the fields that ``config.json`` needs: those of this class, others where they differ."""
        state = self.to_dict()
        default = type(self)().to_dict()
        return {
            key: value
            for key, value in state.items()
            if not (key in _BASE_DEFAULTS or key in ("id2label", "label2id")) or value != default[key]
        }

    def to_json_string(self, use_diff: bool = True) -> str:
        """Return JSON with sorted keys and an indent of two, ending in a newline.

        Parameters
        ----------
        use_diff : bool
            `to_diff_dict` instead of `to_dict`.
        """
        return (
            json.dumps(self.to_diff_dict() if use_diff else self.to_dict(), indent=2, sort_keys=True) + "\n"
        )

    def to_json_file(self, json_file_path: str | os.PathLike[str], use_diff: bool = True) -> None:
        """Write `to_json_string` to a file, replacing it at once.

        Parameters
        ----------
        json_file_path : path
        use_diff : bool
            Whether fields at their defaults are left out.
        """
        write_text(Path(json_file_path), self.to_json_string(use_diff))

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        """Write ``config.json`` into a folder, which is made if it is missing.

        Parameters
        ----------
        save_directory : path

        Raises
        ------
        NotADirectoryError
            If `save_directory` is a file.
        """
        folder = Path(save_directory)
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"save_directory: {folder} is a file")
        folder.mkdir(parents=True, exist_ok=True)
        self.to_json_file(folder / CONFIG_NAME)

    def update(self, config_dict: dict[str, Any]) -> None:
        """Set attributes from a dictionary.

        Parameters
        ----------
        config_dict : dict
            Values by attribute name.
        """
        for key, value in config_dict.items():
            setattr(self, key, value)

    @overload
    @classmethod
    def from_dict(
        cls, config_dict: dict[str, Any], return_unused_kwargs: Literal[False] = False, **kwargs: Any
    ) -> Self: ...

    @overload
    @classmethod
    def from_dict(
        cls, config_dict: dict[str, Any], return_unused_kwargs: Literal[True], **kwargs: Any
    ) -> tuple[Self, dict[str, Any]]: ...

    @classmethod
    def from_dict(
        cls, config_dict: dict[str, Any], return_unused_kwargs: bool = False, **kwargs: Any
    ) -> Self | tuple[Self, dict[str, Any]]:
        """Build a configuration from a dictionary.

        Parameters
        ----------
        config_dict : dict
            As `to_dict` or ``config.json`` has it.
        return_unused_kwargs : bool
            Also return the keyword arguments that name no field.
        **kwargs
            Fields to set over those of `config_dict`.

        Raises
        ------
        CheckpointError
            If ``model_type`` is not one of `SUPPORTED_MODEL_TYPES`.
        TypeError
            If a keyword argument names no field and `return_unused_kwargs` is false.
        """
        if not isinstance(config_dict, dict):
            raise TypeError(f"config_dict: expected a dict, got {type(config_dict).__name__}")
        found = config_dict.get("model_type", "bert")
        if found not in SUPPORTED_MODEL_TYPES:
            raise CheckpointError(
                f"model_type: {found!r} is not supported; supported are "
                + " and ".join(repr(name) for name in SUPPORTED_MODEL_TYPES)
            )
        fields = dict(config_dict)
        known = {key for key in kwargs if key in fields or key in _known_fields()}
        fields.update({key: kwargs[key] for key in known})
        if "num_labels" in known and "id2label" not in known:
            fields.pop("num_labels")
        try:
            config = cls(**fields)
        except TypeError as error:
            raise CheckpointError(f"config_dict: {error}") from error
        if "num_labels" in known and "id2label" not in known:
            config.num_labels = kwargs["num_labels"]
        unused = {key: value for key, value in kwargs.items() if key not in known}
        if return_unused_kwargs:
            return config, unused
        if unused:
            raise TypeError(f"unknown configuration fields: {', '.join(sorted(unused))}")
        return config

    @classmethod
    def from_json_file(cls, json_file: str | os.PathLike[str]) -> Self:
        """Read a configuration file.

        Parameters
        ----------
        json_file : path

        Raises
        ------
        CheckpointError
            If it is missing, is not JSON, or describes another kind of model.
        """
        from qdqbert.serialization.folder import read_json

        fields = read_json(Path(json_file))
        try:
            config = cls.from_dict(fields)
        except ValueError as error:
            raise CheckpointError(f"{json_file}: {error}") from error
        config.name_or_path = str(json_file)
        return config

    @overload
    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        subfolder: str = "",
        return_unused_kwargs: Literal[False] = False,
        **kwargs: Any,
    ) -> Self: ...

    @overload
    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        return_unused_kwargs: Literal[True],
        **kwargs: Any,
    ) -> tuple[Self, dict[str, Any]]: ...

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        subfolder: str = "",
        return_unused_kwargs: bool = False,
        **kwargs: Any,
    ) -> Self | tuple[Self, dict[str, Any]]:
        """Read ``config.json`` of a folder or of a repository on the Hugging Face hub.

        Parameters
        ----------
        pretrained_model_name_or_path : str or path
            A folder (the network is never touched), a JSON file, or the name of a repository.
        revision, cache_dir, local_files_only, token, subfolder
            As in ``huggingface_hub.hf_hub_download``; `subfolder` also applies to a folder.
        return_unused_kwargs : bool
            Return (configuration, keyword arguments that name no field).
        **kwargs
            Fields to set over those of the file.

        Raises
        ------
        CheckpointError
            If there is no such file, it is damaged, or it describes another kind of model.
        """
        from qdqbert.serialization.folder import Source, read_json

        if Path(pretrained_model_name_or_path).is_file():
            path = Path(pretrained_model_name_or_path)
        else:
            source = Source(
                pretrained_model_name_or_path,
                revision=revision,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                token=token,
                subfolder=subfolder,
            )
            path = source.require(CONFIG_NAME)
        fields = read_json(path)
        try:
            config, unused = cls.from_dict(fields, return_unused_kwargs=True, **kwargs)
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from error
        config.name_or_path = str(pretrained_model_name_or_path)
        if return_unused_kwargs:
            return config, unused
        if unused:
            raise TypeError(f"unknown configuration fields: {', '.join(sorted(unused))}")
        return config

    def __reduce__(self) -> tuple[Any, ...]:
        """Take the configuration apart for ``copy`` and ``pickle``; see `qdqbert.copies`."""
        return restore, (type(self), VERSION, {"fields": dict(vars(self))})

    @classmethod
    def _restored(cls, state: dict[str, Any]) -> Self:
        """Make a configuration of its fields, as they are."""
        self: Self = constructed(cls)
        self.__dict__.update(state["fields"])
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, QDQBertConfig) and self.to_dict() == other.to_dict()

    __hash__: ClassVar[None] = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"


# The original names one checkpoint.
_ARCHIVES = ("google-bert/bert-base-uncased",)
QDQBERT_PRETRAINED_CONFIG_ARCHIVE_MAP: dict[str, str]


def __getattr__(name: str) -> Any:
    """Make the addresses of the original's configurations when they are asked for: the hub knows them."""
    if name == "QDQBERT_PRETRAINED_CONFIG_ARCHIVE_MAP":
        from huggingface_hub import hf_hub_url

        return {archive: hf_hub_url(archive, CONFIG_NAME) for archive in _ARCHIVES}
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _known_fields() -> set[str]:
    return set(vars(QDQBertConfig())) | {"num_labels"} - {"name_or_path"}


def _pruned_heads(value: Any) -> dict[int, list[int]]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"pruned_heads: expected a dict of layer to list of heads, got {value!r}")
    try:
        return {int(layer): [int(head) for head in heads] for layer, heads in value.items()}
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"pruned_heads: expected integers, got {value!r}") from None
