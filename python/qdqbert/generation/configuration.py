# SPDX-License-Identifier: Apache-2.0
"""`GenerationConfig`: how `generate` chooses tokens, and the file ``generation_config.json``.

Names and defaults are those of transformers 4.39.  Fields of methods that are not built (groups of beams,
constraints, typical sampling, ...) may stand in a file with the value that switches them off; any other value
is refused by `generate`.  Other keys are kept and written back.
"""

from __future__ import annotations

import copy
import json
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from qdqbert.errors import CheckpointError, UnsupportedError
from qdqbert.serialization.atomic import write_text

if TYPE_CHECKING:
    from qdqbert.configuration_qdqbert import QDQBertConfig

__all__ = ["GENERATION_CONFIG_NAME", "GenerationConfig"]

GENERATION_CONFIG_NAME = "generation_config.json"

_DEFAULTS: dict[str, Any] = {
    "max_length": 20,
    "max_new_tokens": None,
    "min_length": 0,
    "min_new_tokens": None,
    "do_sample": False,
    "num_beams": 1,
    "num_return_sequences": 1,
    "early_stopping": False,
    "length_penalty": 1.0,
    "use_cache": True,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
    "output_scores": False,
    "return_dict_in_generate": False,
}
# What is not built, and the values that mean "off".
_OFF: dict[str, tuple[Any, ...]] = {
    "assistant_early_exit": (None,),
    "bad_words_ids": (None,),
    "begin_suppress_tokens": (None,),
    "cache_implementation": (None,),
    "constraints": (None,),
    "diversity_penalty": (None, 0.0),
    "encoder_no_repeat_ngram_size": (None, 0),
    "encoder_repetition_penalty": (None, 1.0),
    "epsilon_cutoff": (None, 0.0),
    "eta_cutoff": (None, 0.0),
    "exponential_decay_length_penalty": (None,),
    "force_words_ids": (None,),
    "forced_bos_token_id": (None,),
    "forced_decoder_ids": (None,),
    "forced_eos_token_id": (None,),
    "guidance_scale": (None, 1.0),
    "low_memory": (None, False),
    "max_time": (None,),
    "num_beam_groups": (None, 1),
    "output_attentions": (None, False),
    "output_hidden_states": (None, False),
    "output_logits": (None, False),
    "penalty_alpha": (None, 0.0),
    "prompt_lookup_num_tokens": (None,),
    "remove_invalid_values": (None, False),
    "renormalize_logits": (None, False),
    "sequence_bias": (None,),
    "suppress_tokens": (None,),
    "typical_p": (None, 1.0),
}
# Rows of a batch for each prompt: a number from a damaged file must not reach the memory's size.
_MOST_COPIES = 10_000
_LOWEST = {
    "max_length": 1,
    "max_new_tokens": 1,
    "min_length": 0,
    "min_new_tokens": 0,
    "num_beams": 1,
    "num_return_sequences": 1,
    "top_k": 0,
    "no_repeat_ngram_size": 0,
    "pad_token_id": 0,
    "bos_token_id": 0,
}
# Attributes that say where an object comes from, not how to generate.
_NOTES = ("_made_with", "_from_model_config", "_follows_model")
_SAMPLING_ONLY = ("temperature", "top_k", "top_p")
_BEAMS_ONLY = ("early_stopping", "length_penalty")


class GenerationConfig:
    """How `generate` chooses tokens.

    Parameters
    ----------
    **kwargs
        The arguments of the same names of `GenerationMixin.generate`, which describes them; anything else is
        kept as an attribute.

    Notes
    -----
    Values are checked by `validate`, which `generate` calls.
    """

    max_length: int
    max_new_tokens: int | None
    min_length: int
    min_new_tokens: int | None
    do_sample: bool
    num_beams: int
    num_return_sequences: int
    early_stopping: bool | str
    length_penalty: float
    use_cache: bool
    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float
    no_repeat_ngram_size: int
    pad_token_id: int | None
    bos_token_id: int | None
    eos_token_id: int | list[int] | None
    output_scores: bool
    return_dict_in_generate: bool

    def __init__(self, **kwargs: Any) -> None:
        kwargs = {name: _plain(value) for name, value in kwargs.items()}
        for name, default in _DEFAULTS.items():
            setattr(self, name, kwargs.pop(name, default))
        self._from_model_config = bool(kwargs.pop("_from_model_config", False))
        self._follows_model = False
        for name, value in kwargs.items():
            if not name or hasattr(type(self), name):
                raise ValueError(f"{name!r} cannot be a key of a generation configuration")
            setattr(self, name, value)
        self._made_with = self._values()

    @property
    def follows_model(self) -> bool:
        """Whether `from_model_config` made the object and no attribute has changed since."""
        return self._follows_model and self._made_with == self._values()

    @property
    def eos_token_ids(self) -> list[int]:
        """`eos_token_id` as a list; empty if there is none."""
        if self.eos_token_id is None:
            return []
        return list(self.eos_token_id) if isinstance(self.eos_token_id, list | tuple) else [self.eos_token_id]

    def _values(self) -> dict[str, Any]:
        return copy.deepcopy({name: value for name, value in vars(self).items() if name not in _NOTES})

    # ---- checks --------------------------------------------------------------------------------------------

    def validate(self) -> None:
        """Check every value by itself, and how they go together.

        Raises
        ------
        TypeError, ValueError
            If a value is of another type or out of range; the field is named.
        UnsupportedError
            If a field of a method that is not built is set.

        Warns
        -----
        UserWarning
            If a field is set that the chosen method does not use.
        """
        for name, lowest in _LOWEST.items():
            self._check_integer(name, lowest)
        for name in ("do_sample", "use_cache", "output_scores", "return_dict_in_generate"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name}: expected True or False, got {getattr(self, name)!r}")
        for name in ("temperature", "repetition_penalty"):
            self._check_number(name, "greater than 0", lambda value: value > 0)
        self._check_number("top_p", "in [0, 1]", lambda value: 0 <= value <= 1)
        self._check_number("length_penalty", "that is finite", lambda value: abs(value) < float("inf"))
        for index in self.eos_token_ids:
            if isinstance(index, bool) or not isinstance(index, int) or index < 0:
                raise ValueError(f"eos_token_id: expected token ids or None, got {self.eos_token_id!r}")
        if not (isinstance(self.early_stopping, bool) or self.early_stopping == "never"):
            raise ValueError(f"early_stopping: expected True, False or 'never', got {self.early_stopping!r}")
        for name, off in _OFF.items():
            value = getattr(self, name, None)
            if not any(value is each or value == each for each in off):
                raise UnsupportedError(f"{name}={value!r}: this way to choose tokens is not built")
        self._check_relations()

    def _check_integer(self, name: str, lowest: int) -> None:
        value = getattr(self, name)
        if value is None and _DEFAULTS[name] is None:
            return
        if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
            raise ValueError(f"{name}: expected an integer of at least {lowest}, got {value!r}")
        if name in ("num_beams", "num_return_sequences") and value > _MOST_COPIES:
            raise ValueError(f"{name}: expected at most {_MOST_COPIES}, got {value}")

    def _check_number(self, name: str, expected: str, is_fine: Any) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not is_fine(value):
            raise ValueError(f"{name}: expected a number {expected}, got {value!r}")

    def _check_relations(self) -> None:
        if self.num_beams == 1 and self.num_return_sequences > 1 and not self.do_sample:
            raise ValueError(
                "num_return_sequences: greedy search finds one sequence, got "
                f"{self.num_return_sequences}; set do_sample=True or num_beams"
            )
        if 1 < self.num_beams < self.num_return_sequences:
            raise ValueError(
                f"num_return_sequences: expected at most num_beams ({self.num_beams}), "
                f"got {self.num_return_sequences}"
            )
        for names, is_used, needed in (
            (_SAMPLING_ONLY, self.do_sample, "do_sample=True"),
            (_BEAMS_ONLY, self.num_beams > 1, "num_beams above 1"),
        ):
            for name in names:
                if not is_used and getattr(self, name) != _DEFAULTS[name]:
                    text = f"{name}={getattr(self, name)!r} has no effect without {needed}"
                    warnings.warn(text, UserWarning, stacklevel=5)

    # ---- dictionaries and files ----------------------------------------------------------------------------

    def update(self, **kwargs: Any) -> dict[str, Any]:
        """Set the fields that are given, and return the arguments that name no field.

        Parameters
        ----------
        **kwargs
            Values by field name.
        """
        unused = {}
        for name, value in kwargs.items():
            if name in _DEFAULTS or name in _OFF or name in vars(self):
                setattr(self, name, _plain(value))
            else:
                unused[name] = value
        return unused

    def to_dict(self) -> dict[str, Any]:
        """Return every field; a deep copy."""
        return self._values() | ({"_from_model_config": True} if self._from_model_config else {})

    def to_diff_dict(self) -> dict[str, Any]:
        """Return the fields that differ from the defaults, which is what the file holds."""
        return {k: v for k, v in self.to_dict().items() if k not in _DEFAULTS or v != _DEFAULTS[k]}

    def to_json_string(self, use_diff: bool = True) -> str:
        """Return JSON with sorted keys and an indent of two, ending in a newline.

        Parameters
        ----------
        use_diff : bool
            `to_diff_dict` instead of `to_dict`.
        """
        fields = self.to_diff_dict() if use_diff else self.to_dict()
        return json.dumps(fields, indent=2, sort_keys=True) + "\n"

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        """Write ``generation_config.json`` into a folder, which is made if it is missing.

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
        write_text(folder / GENERATION_CONFIG_NAME, self.to_json_string())

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Self:
        """Build a configuration from a dictionary, with the fields in `kwargs` set over it.

        Parameters
        ----------
        config_dict : dict
        **kwargs
            Values by field name.

        Raises
        ------
        TypeError
            If `config_dict` is no dictionary.
        ValueError
            If a key cannot be one.
        """
        if not isinstance(config_dict, dict):
            raise TypeError(f"config_dict: expected a dict, got {type(config_dict).__name__}")
        return cls(**{**config_dict, **kwargs})

    @classmethod
    def from_json_file(cls, json_file: str | os.PathLike[str]) -> Self:
        """Read a file.

        Parameters
        ----------
        json_file : path

        Raises
        ------
        CheckpointError
            If it is missing or is not a JSON object that could be one.
        """
        from qdqbert.serialization.folder import read_json

        fields = read_json(Path(json_file))
        try:
            return cls.from_dict(fields)
        except ValueError as error:
            raise CheckpointError(f"{json_file}: {error}") from error

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name: str | os.PathLike[str],
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        subfolder: str = "",
        **kwargs: Any,
    ) -> Self:
        """Read ``generation_config.json`` of a folder or of a repository on the Hugging Face hub.

        Parameters
        ----------
        pretrained_model_name : str or path
        revision, cache_dir, local_files_only, token, subfolder
            As in `QDQBertConfig.from_pretrained`.
        **kwargs
            Fields to set over those of the file.

        Raises
        ------
        CheckpointError
            If there is no such file or it is damaged.
        ValueError
            If a name in `kwargs` cannot be a field.
        """
        from qdqbert.serialization.folder import Source

        source = Source(
            pretrained_model_name,
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            token=token,
            subfolder=subfolder,
        )
        made = cls.from_json_file(source.require(GENERATION_CONFIG_NAME))
        return cls(**{**made.to_dict(), **kwargs})

    @classmethod
    def from_model_config(cls, config: QDQBertConfig) -> Self:
        """Take the token ids, and whatever else of generation a model's configuration holds.

        Parameters
        ----------
        config : QDQBertConfig
        """
        fields = {name: value for name, value in vars(config).items() if name in _DEFAULTS or name in _OFF}
        fields = {name: value for name, value in fields.items() if not name.startswith("output_")}
        made = cls(**copy.deepcopy(fields), _from_model_config=True)
        made._follows_model = True
        return made

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GenerationConfig) and self._values() == other._values()

    __hash__: ClassVar[None] = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"


def _plain(value: Any) -> Any:
    """Return numbers of NumPy, and arrays of them, as Python's, which JSON can hold."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value
