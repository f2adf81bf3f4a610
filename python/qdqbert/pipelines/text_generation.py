# SPDX-License-Identifier: Apache-2.0
"""``text-generation``: how a causal model continues a text.

Prompts of one length are continued together, and each as if it were alone: no bit of it depends on the
others, and each draws from streams of its own.  Prompts of different lengths never share a batch, since
padding before a prompt would move its tokens to other positions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from qdqbert.generation.sampling import streams_of
from qdqbert.pipelines.base import Options, Pipeline, Row, has_dynamic_range
from qdqbert.tasks.batching import MAX_BATCH_TOKENS, chunks

__all__ = ["TextGenerationOptions", "TextGenerationPipeline"]

_RETURN = ("full_text", "new_text", "tensors")


@dataclasses.dataclass(frozen=True, slots=True)
class TextGenerationOptions(Options):
    """Options of ``text-generation``.

    Attributes
    ----------
    return_full_text : bool, optional
        Whether the prompt stands before what was generated; True if nothing is said.
    return_tensors, return_text : bool, optional
        Token ids instead of text; only one of the three may be named, and `return_text` is True if it is.
    clean_up_tokenization_spaces : bool
        As in decoding.
    prefix : str
        Put before each prompt and not returned.
    handle_long_generation : {None, "hole"}
        hole: drop the beginning of a prompt that leaves no room for what is to be generated.
    stop_sequence : str, optional
        Its first token ends a text.
    add_special_tokens, truncation
        As in a call of the tokenizer.
    generate : mapping
        Arguments of ``model.generate``; a call takes them by name.
    """

    return_full_text: bool | None = None
    return_tensors: bool | None = None
    return_text: bool | None = None
    clean_up_tokenization_spaces: bool = True
    prefix: str = ""
    handle_long_generation: str | None = None
    stop_sequence: str | None = None
    add_special_tokens: bool = False
    truncation: bool | str | None = None
    generate: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        named = [
            name
            for name in ("return_full_text", "return_tensors", "return_text")
            if getattr(self, name) is not None
        ]
        if len(named) > 1:
            raise ValueError(f"{named[0]}, {named[1]}: only one of them may be named")
        if self.return_text is False:
            raise ValueError(
                "return_text: False leaves nothing to return; return_tensors=True gives token ids"
            )
        for name in ("return_dict_in_generate", "output_scores"):
            if self.generate.get(name):
                raise ValueError(f"{name}: scores are no text; call model.generate, which returns them")
        if self.handle_long_generation not in (None, "hole"):
            raise ValueError(
                f"handle_long_generation: expected None or 'hole', got {self.handle_long_generation!r}"
            )


class TextGenerationPipeline(Pipeline[TextGenerationOptions]):
    """Continue texts.

    Parameters
    ----------
    model : QDQBertLMHeadModel
    tokenizer : BertTokenizerFast
    batch_size, progress
        As in every `Pipeline`; rows of one call are prompts with one number of tokens.
    **options
        `TextGenerationOptions`, and arguments of ``model.generate``.

    Examples
    --------
    >>> write = pipeline("text-generation", folder, max_new_tokens=5)          # doctest: +SKIP
    >>> write("once upon a time", do_sample=True, seed=1)                      # doctest: +SKIP
    [{'generated_text': 'once upon a time there was a king of'}]
    """

    task = "text-generation"
    auto_class = "AutoModelForCausalLM"
    options_class: ClassVar[type[Options]] = TextGenerationOptions

    def __init__(self, model: Any, tokenizer: Any, **options: Any) -> None:
        super().__init__(model, tokenizer, **self._sorted(options))

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """Continue texts.

        Parameters
        ----------
        inputs : str, a list or an iterator of them
            Prompts.
        **options
            For this call.

        Returns
        -------
        list of {"generated_text": str}, or a list or iterator of such lists
            One for each of ``num_return_sequences``; ``generated_token_ids`` with `return_tensors`.
        """
        return super().__call__(inputs, **self._sorted(options))

    def _sorted(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Move what is not an option of the pipeline to `generate`."""
        own = {field.name for field in dataclasses.fields(TextGenerationOptions)}
        own |= {"batch_size", "progress"}
        generate = {name: value for name, value in options.items() if name not in own}
        rest = {name: value for name, value in options.items() if name in own}
        earlier = self.options.generate if hasattr(self, "options") else {}
        generate = {**earlier, **rest.get("generate", {}), **generate}
        return {**rest, "generate": generate} if generate else rest

    def _rows(self, item: Any, options: TextGenerationOptions) -> list[Row]:
        if not isinstance(item, str):
            raise ValueError(f"inputs: expected a text, got {item!r:.60}")
        limit = options.generate.get("max_length")
        (row,) = self._encode(
            options.prefix + item,
            add_special_tokens=options.add_special_tokens,
            truncation=options.truncation,
            **({"max_length": limit} if options.truncation else {}),
        )
        if options.handle_long_generation != "hole":
            return [row]
        return [self._with_room(row, options.generate)]

    def _with_room(self, row: Row, generate: Mapping[str, Any]) -> Row:
        """Drop the beginning of a prompt that leaves no room."""
        count = len(row.input_ids)
        wanted = generate.get("max_new_tokens")
        if wanted is None:
            wanted = generate.get("max_length", self.model.generation_config.max_length) - count
            if wanted < 0:
                raise ValueError("max_length: less than the prompt has; name max_new_tokens")
        if count + wanted <= self.max_length:
            return row
        kept = self.max_length - wanted
        if kept <= 0:
            raise ValueError(
                f"max_new_tokens: {wanted} leaves nothing of a prompt; the model takes {self.max_length}"
            )
        return dataclasses.replace(
            row,
            input_ids=row.input_ids[-kept:],
            token_type_ids=row.token_type_ids[-kept:],
            attention_mask=row.attention_mask[-kept:],
        )

    def _compute(
        self, rows: Sequence[Row], batch_size: int | None, options: TextGenerationOptions
    ) -> list[Any]:
        arguments = self._arguments(options)
        streams = self._streams(arguments, len(rows))
        by_length: dict[int, list[int]] = {}
        for index, row in enumerate(rows):
            by_length.setdefault(len(row.input_ids), []).append(index)
        taken: list[Any] = [None] * len(rows)
        for length, group in by_length.items():
            for part in chunks(group, self._most_rows(length, batch_size)):
                own = {} if streams is None else {"seed": [each for index in part for each in streams[index]]}
                found = self._generate([rows[index].input_ids for index in part], {**arguments, **own})
                for index, sequences in zip(part, found, strict=True):
                    taken[index] = sequences
        return taken

    def _most_rows(self, length: int, batch_size: int | None) -> int:
        if length == 0:
            return 1  # it begins with the model's begin token, which `generate` puts there
        if batch_size is not None:
            return batch_size
        return 1 if has_dynamic_range(self.model) else max(MAX_BATCH_TOKENS // length, 1)

    def _take(self, outputs: Any, index: int, row: Row, options: TextGenerationOptions) -> Any:
        raise AssertionError("`_compute` takes nothing from the outputs of a forward")

    def _result(
        self,
        item: Any,
        rows: Sequence[Row],
        taken: Sequence[Any],
        options: TextGenerationOptions,
        given: frozenset[str],
    ) -> list[dict[str, Any]]:
        prompt, sequences = rows[0].input_ids, taken[0]
        if options.return_tensors:
            return [{"generated_token_ids": sequence.tolist()} for sequence in sequences]
        return [{"generated_text": self._text(item, prompt, sequence, options)} for sequence in sequences]

    def _arguments(self, options: TextGenerationOptions) -> dict[str, Any]:
        """Return the arguments of ``model.generate`` that are those of every prompt."""
        arguments = dict(options.generate)
        if options.stop_sequence is not None:
            stop = self.tokenizer.encode(options.stop_sequence, add_special_tokens=False)
            if not stop:
                raise ValueError(f"stop_sequence: {options.stop_sequence!r} has no tokens")
            arguments["eos_token_id"] = stop[0]
        if options.prefix and "max_new_tokens" not in arguments:
            # Lengths are those of the prompt that the user gave.
            prefix = len(self.tokenizer.encode(options.prefix, add_special_tokens=options.add_special_tokens))
            length = arguments.get("max_length") or self.model.generation_config.max_length
            arguments["max_length"] = length + prefix
        if arguments.get("pad_token_id") is None and self.model.generation_config.pad_token_id is None:
            arguments["pad_token_id"] = self.tokenizer.pad_token_id
        return {**arguments, "return_dict_in_generate": False, "output_scores": False}

    def _streams(self, arguments: Mapping[str, Any], count: int) -> list[list[np.random.Generator]] | None:
        """Return the streams that each prompt would draw from if it were alone, or None for fresh ones."""
        seed = arguments.get("seed")
        if seed is None:
            return None
        config = arguments.get("generation_config") or self.model.generation_config
        beams, copies = (
            arguments.get(name) or getattr(config, name, 1) for name in ("num_beams", "num_return_sequences")
        )
        of_each = copies if beams == 1 and isinstance(copies, int) else 1
        return [streams_of(seed, of_each) for _ in range(count)]

    def _generate(
        self, prompts: Sequence[npt.NDArray[np.int64]], arguments: Mapping[str, Any]
    ) -> list[npt.NDArray[np.int64]]:
        """Continue prompts of one length; return the sequences of each, as long as if it were alone."""
        ids, length = np.stack(prompts), len(prompts[0])
        states = arguments.get("encoder_hidden_states")
        encoder = {} if states is None else {"encoder_hidden_states": np.repeat(states, len(ids), axis=0)}
        sequences: npt.NDArray[np.int64] = self.model.generate(
            ids if length else None,
            attention_mask=np.ones_like(ids) if length else None,
            **{**arguments, **encoder},
        )
        if len(ids) == 1:
            return [sequences]
        ends = arguments.get("eos_token_id")
        if ends is None:
            config = arguments.get("generation_config") or self.model.generation_config
            ends = config.eos_token_id
            ends = self.model.generation_config.eos_token_id if ends is None else ends
        is_end = np.isin(sequences[:, length:], [] if ends is None else ends)
        lengths = np.where(is_end.any(axis=1), length + is_end.argmax(axis=1) + 1, sequences.shape[1])
        return [
            own[:, : longest.max()]
            for own, longest in zip(np.split(sequences, len(ids)), np.split(lengths, len(ids)), strict=True)
        ]

    def _text(
        self,
        item: str,
        prompt: npt.NDArray[np.int64],
        sequence: npt.NDArray[np.int64],
        options: TextGenerationOptions,
    ) -> str:
        whole, begin = (
            self.tokenizer.decode(
                ids,
                skip_special_tokens=True,
                clean_up_tokenization_spaces=options.clean_up_tokenization_spaces,
            )
            for ids in (sequence, prompt)
        )
        new = whole[len(begin) :]
        return new if options.return_full_text is False else item + new
