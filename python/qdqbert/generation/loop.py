# SPDX-License-Identifier: Apache-2.0
"""`GenerationMixin.generate`: greedy search, sampling, beam search, and beam search with sampling.

The loops are in Python, one forward of the model a token: Ctrl-C stops them between two and inside one.
Scores are float64 from the model's logits on.
"""

from __future__ import annotations

import copy
import logging
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from qdqbert.errors import ShapeError
from qdqbert.forward_inputs import as_floats, as_integers, as_mask
from qdqbert.generation.beam_search import BeamSearch
from qdqbert.generation.configuration import GenerationConfig
from qdqbert.generation.logits_process import LogitsProcessor, log_softmax, processors_of, warpers_of
from qdqbert.generation.outputs import GenerateBeamDecoderOnlyOutput, GenerateDecoderOnlyOutput
from qdqbert.generation.sampling import draw, draw_distinct, require_choice, streams_of

if TYPE_CHECKING:
    from qdqbert.configuration_qdqbert import QDQBertConfig

__all__ = ["GenerationMixin"]

_logger = logging.getLogger(__name__)

# Of e, so that its power, its inverse, and a sum of log-probabilities over that are finite float64.
_LARGEST_EXPONENT = math.log(sys.float_info.max) - 32

Ids = npt.NDArray[np.int64]
Scores = npt.NDArray[Any]


class _Generator(Protocol):
    """What the loops need of a model."""

    config: QDQBertConfig

    def prepare_inputs_for_generation(self, input_ids: Any, **kwargs: Any) -> dict[str, Any]: ...

    def _next_token_logits(self, inputs: dict[str, Any], use_cache: bool) -> tuple[Scores, Any]: ...

    def _reorder_cache(self, past_key_values: Any, beam_idx: Any) -> Any: ...


class _Sequences:
    """The sequences so far, and what the model needs to go on with them.

    Parameters
    ----------
    model : model
    ids, mask : ndarray, shape (rows, length), int64
    encoder : dict
        ``encoder_hidden_states`` and ``encoder_attention_mask``, where there are such.
    use_cache : bool
    """

    def __init__(
        self, model: _Generator, ids: Ids, mask: Ids, encoder: dict[str, Any], use_cache: bool
    ) -> None:
        self.model, self.ids, self.mask, self.encoder = model, ids, mask, encoder
        self.use_cache = use_cache
        self.past: Any = None

    def next_logits(self) -> Scores:
        """Run the model; return the scores of every token that may follow, (rows, vocabulary)."""
        inputs = self.model.prepare_inputs_for_generation(
            self.ids,
            past_key_values=self.past,
            attention_mask=self.mask,
            use_cache=self.use_cache,
            **self.encoder,
        )
        logits, self.past = self.model._next_token_logits(inputs, self.use_cache)
        return logits.astype(np.float64)

    def append(self, tokens: Ids, rows: Ids | None = None) -> None:
        """Add a token to each sequence, after taking `rows` of the old ones if that is given."""
        if rows is not None and not np.array_equal(rows, np.arange(len(rows))):
            self.ids = self.ids[rows]
            if self.past is not None:
                self.past = self.model._reorder_cache(self.past, rows)
        self.ids = np.concatenate([self.ids, tokens[:, None]], axis=1)
        self.mask = np.concatenate([self.mask, np.ones((len(tokens), 1), np.int64)], axis=1)


class GenerationMixin:
    """Generation for models with a language head."""

    config: QDQBertConfig
    _generation_config: GenerationConfig | None = None

    if TYPE_CHECKING:  # the model's

        @property
        def padding(self) -> str:
            """As in `QDQBertPreTrainedModel`."""
            ...

        @padding.setter
        def padding(self, value: str) -> None: ...

    @property
    def generation_config(self) -> GenerationConfig:
        """What `generate` takes where it is given no argument: from the checkpoint's file, if it has one.

        Without a file it follows the model's configuration, until one of its attributes is set.
        """
        own = self._generation_config
        if own is None or own.follows_model:
            derived = GenerationConfig.from_model_config(self.config)
            if derived != own:
                self._generation_config = own = derived
        assert own is not None
        return own

    @generation_config.setter
    def generation_config(self, value: GenerationConfig) -> None:
        if not isinstance(value, GenerationConfig):
            raise TypeError(f"generation_config: expected GenerationConfig, got {type(value).__name__}")
        self._generation_config = value

    def can_generate(self) -> bool:
        """Whether the model has `generate`."""
        return True

    def generate(
        self,
        input_ids: Any = None,
        generation_config: GenerationConfig | None = None,
        *,
        attention_mask: Any = None,
        max_length: int | None = None,
        max_new_tokens: int | None = None,
        min_length: int | None = None,
        min_new_tokens: int | None = None,
        do_sample: bool | None = None,
        num_beams: int | None = None,
        num_return_sequences: int | None = None,
        early_stopping: bool | str | None = None,
        length_penalty: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        repetition_penalty: float | None = None,
        no_repeat_ngram_size: int | None = None,
        logits_processor: Sequence[LogitsProcessor] = (),
        eos_token_id: int | list[int] | None = None,
        pad_token_id: int | None = None,
        bos_token_id: int | None = None,
        use_cache: bool | None = None,
        seed: int | np.random.Generator | Sequence[np.random.Generator] | None = None,
        encoder_hidden_states: Any = None,
        encoder_attention_mask: Any = None,
        token_type_ids: Any = None,
        inputs: Any = None,
        output_scores: bool | None = None,
        return_dict_in_generate: bool | None = None,
    ) -> Any:
        """Continue sequences of tokens.

        Where an argument is left out or None, `generation_config` decides, or without one the model's own.
        So ``eos_token_id=None`` does not switch the end token off; ``model.generation_config.eos_token_id =
        None`` does.

        Parameters
        ----------
        input_ids : integers, shape (batch, length), optional
            The prompts, padded on the left; the begin token alone if left out.
        generation_config : GenerationConfig, optional
        attention_mask : integers or bool, shape (batch, length) or (1, length), optional
            0 at padding.  If left out: where `input_ids` is the padding token, unless that also ends
            sequences.
        max_length : int
            Most tokens of a sequence, the prompt included; 20 if nothing else is said.
        max_new_tokens : int
            Most tokens that are generated; wins over `max_length`.
        min_length, min_new_tokens : int
            No sequence ends before it has as many tokens, with or without the prompt.
        do_sample : bool
            Draw tokens instead of taking the best.
        num_beams : int
            1: no beam search.
        num_return_sequences : int
            Of each prompt; with beams at most `num_beams`, without them only with `do_sample`.
        early_stopping : {True, False, "never"}
        length_penalty : float
            See `BeamHypotheses`.
        temperature, top_k, top_p
            Of sampling: see `TemperatureLogitsWarper`, `TopKLogitsWarper` (0: off), `TopPLogitsWarper`.
        repetition_penalty : float
            See `RepetitionPenaltyLogitsProcessor`.
        no_repeat_ngram_size : int
            See `NoRepeatNGramLogitsProcessor`; 0: off.
        logits_processor : sequence of callable (ids, scores) -> scores
            Further processors, after those of the arguments.
        eos_token_id : int or list of int
            Tokens that end a sequence.
        pad_token_id : int
            What ended sequences are filled with; the first end token if nothing is said.
        bos_token_id : int
            The prompt when there is none.
        use_cache : bool
            Keep keys and values of the tokens so far; the result is the same, only slower without.  Dynamic
            ranges are the exception: they depend on how many tokens one call computes.
        seed : int, Generator or sequence of Generator, optional
            Of the draws; with a seed a call can be repeated.  A sequence has one generator for each of the
            sequences that are made, or with beams for each prompt.
        encoder_hidden_states : floats, shape (batch, encoder length, hidden)
        encoder_attention_mask : integers or bool, shape (batch, encoder length) or (1, encoder length)
            For cross-attention.
        token_type_ids : integers, shape of `input_ids`, optional
            Zeros, as a tokenizer gives them for one text each.  Generated tokens are of type 0, and the
            original runs the prompt as type 0 whatever it is given; so others are refused.
        inputs : integers, shape (batch, length), optional
            The original's name of `input_ids`; only one of the two may be given.
        output_scores : bool
            Keep the processed scores of every step; needs `return_dict_in_generate`.
        return_dict_in_generate : bool
            Return an object instead of the sequences alone.

        Returns
        -------
        ndarray, shape (batch * num_return_sequences, longest), int64
            Prompts and what follows them; or `GenerateDecoderOnlyOutput`, with beams
            `GenerateBeamDecoderOnlyOutput`.

        Raises
        ------
        TypeError, ValueError, ShapeError, IndexError
            For arguments of a wrong kind, range or shape; the argument is named.
        UnsupportedError
            If the configuration sets a field of a method that is not built.
        """
        given = {
            name: value
            for name, value in locals().items()
            if name in vars(GenerationConfig()) and value is not None
        }
        if inputs is not None:
            if input_ids is not None:
                raise ValueError(
                    "inputs: is another name of input_ids, which is given as well; give one of them"
                )
            input_ids = inputs
        config = self._configuration_of_call(generation_config, given)
        states = as_floats("encoder_hidden_states", encoder_hidden_states)
        ids = self._prompt(input_ids, config, 1 if states is None else len(states))
        given_mask = as_mask("attention_mask", attention_mask)
        if input_ids is None and given_mask is None:
            given_mask = np.ones_like(ids)  # the beginning is a token, also where padding has the same number
        mask = self._prompt_mask(ids, given_mask, config)
        _require_type_0(ids, as_integers("token_type_ids", token_type_ids))
        _require_callables(logits_processor)
        self._set_lengths(config, given, ids.shape[1])
        encoder = _encoder_inputs(ids, states, as_mask("encoder_attention_mask", encoder_attention_mask))
        copies = config.num_beams if config.num_beams > 1 else config.num_return_sequences
        sequences = _Sequences(
            self,  # type: ignore[arg-type]
            ids.repeat(copies, axis=0),
            mask.repeat(copies, axis=0),
            {name: value.repeat(copies, axis=0) for name, value in encoder.items()},
            config.use_cache,
        )
        processors = [*processors_of(config, ids.shape[1]), *logits_processor]
        warpers = warpers_of(config) if config.do_sample else []
        if config.num_beams > 1:
            beams = _search_beams(sequences, config, processors + warpers, streams_of(seed, len(ids)))
            return beams if config.return_dict_in_generate else beams.sequences
        streams = streams_of(seed, len(sequences.ids))
        chosen = _search(sequences, config, processors + warpers, streams)
        return chosen if config.return_dict_in_generate else chosen.sequences

    # ---- arguments -----------------------------------------------------------------------------------------

    def _configuration_of_call(
        self, generation_config: GenerationConfig | None, given: dict[str, Any]
    ) -> GenerationConfig:
        """Return the configuration with the arguments of the call over it, checked."""
        if generation_config is not None and not isinstance(generation_config, GenerationConfig):
            raise TypeError(
                f"generation_config: expected GenerationConfig, got {type(generation_config).__name__}"
            )
        own = self.generation_config
        config = copy.deepcopy(own if generation_config is None else generation_config)
        config.update(**given)
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            if getattr(config, name) is None:
                setattr(config, name, getattr(own, name))
        config.validate()
        if config.pad_token_id is None and config.eos_token_ids:
            config.pad_token_id = config.eos_token_ids[0]
        if config.output_scores and not config.return_dict_in_generate:
            raise ValueError("output_scores: needs return_dict_in_generate=True to return them")
        for name, tokens in (("eos_token_id", config.eos_token_ids), ("pad_token_id", [config.pad_token_id])):
            for token in tokens:
                if token is not None and token >= self.config.vocab_size:
                    raise ValueError(
                        f"{name}: {token} is no token of a vocabulary of {self.config.vocab_size}"
                    )
        return config

    def _prompt(self, input_ids: Any, config: GenerationConfig, batch: int) -> Ids:
        ids = as_integers("input_ids", input_ids)
        if ids is None:
            if config.bos_token_id is None:
                raise ValueError("input_ids: there is no prompt, and no bos_token_id to begin with")
            return np.full((batch, 1), config.bos_token_id, np.int64)
        if ids.ndim != 2 or ids.size == 0:
            raise ShapeError(f"input_ids: expected (batch, length) with at least one token, got {ids.shape}")
        return ids

    def _prompt_mask(self, ids: Ids, mask: Ids | None, config: GenerationConfig) -> Ids:
        if mask is None:
            pad = config.pad_token_id
            if pad is None or pad in config.eos_token_ids:
                return np.ones_like(ids)
            mask = np.asarray(ids != pad, np.int64)
        if mask.ndim == 2 and len(mask) == 1:
            mask = mask.repeat(len(ids), axis=0)
        if mask.shape != ids.shape:
            raise ShapeError(f"attention_mask: expected {ids.shape}, got {mask.shape}")
        if not mask[:, -1].all():
            row = int(np.flatnonzero(mask[:, -1] == 0)[0])
            if self.padding == "skip":
                raise ValueError(
                    f"attention_mask: row {row} ends in padding, and what follows padding is not computed; "
                    "pad on the left (padding_side='left')"
                )
            _logger.warning(
                "generate: row %d ends in padding; results are better with padding on the left "
                "(padding_side='left')",
                row,
            )
        return mask

    def _set_lengths(self, config: GenerationConfig, given: dict[str, Any], prompt_length: int) -> None:
        """Turn `max_new_tokens` into `max_length`, and check both against the prompt and the model."""
        if config.max_new_tokens is not None:
            if "max_length" in given and "max_new_tokens" in given:
                _logger.warning("generate: max_new_tokens and max_length are both set; max_new_tokens counts")
            config.max_length = prompt_length + config.max_new_tokens
        if config.max_length <= prompt_length:
            raise ValueError(
                f"max_length: {config.max_length} leaves no room after prompts of {prompt_length} tokens; "
                "set max_new_tokens or a larger max_length"
            )
        shortest = max(config.min_length, prompt_length + (config.min_new_tokens or 0))
        if shortest > config.max_length:
            raise ValueError(
                f"min_length, min_new_tokens: {shortest} tokens asked for, at most {config.max_length} "
                "are allowed"
            )
        longest = config.max_length - prompt_length
        if config.num_beams > 1 and abs(config.length_penalty) * math.log(longest) > _LARGEST_EXPONENT:
            raise ValueError(
                f"length_penalty: {longest} tokens to the power of {config.length_penalty} is no number"
            )
        # The last token is generated, but never read.
        readable = self.config.max_position_embeddings + 1
        if config.max_length > readable:
            raise ValueError(
                f"max_length, max_new_tokens: sequences of {config.max_length} tokens asked for, a model "
                f"with {self.config.max_position_embeddings} positions can make {readable}"
            )


def _require_type_0(ids: Ids, types: Ids | None) -> None:
    if types is None:
        return
    if types.shape != ids.shape:
        raise ShapeError(f"token_type_ids: expected {ids.shape}, got {types.shape}")
    if types.any():
        place = tuple(int(i) for i in np.argwhere(types != 0)[0])
        raise ValueError(
            f"token_type_ids{list(place)} is {types[place]}, expected 0: generation knows no other type"
        )


def _require_callables(processors: Sequence[LogitsProcessor]) -> None:
    if not isinstance(processors, Sequence) or not all(map(callable, processors)):
        raise TypeError("logits_processor: expected a sequence of callables (ids, scores) -> scores")


def _encoder_inputs(ids: Ids, states: Scores | None, mask: Ids | None) -> dict[str, Any]:
    """Return the arguments for cross-attention, of one row for each prompt."""
    if states is None:
        if mask is not None:
            raise ValueError("encoder_attention_mask: there are no encoder_hidden_states that it masks")
        return {}
    if states.ndim != 3 or len(states) != len(ids):
        raise ShapeError(
            f"encoder_hidden_states: expected ({len(ids)}, encoder length, hidden), got {states.shape}"
        )
    if mask is None:
        return {"encoder_hidden_states": states}
    if mask.ndim == 2 and len(mask) == 1:
        mask = mask.repeat(len(ids), axis=0)
    if mask.shape != states.shape[:2]:
        raise ShapeError(f"encoder_attention_mask: expected {states.shape[:2]}, got {mask.shape}")
    return {"encoder_hidden_states": states, "encoder_attention_mask": mask}


def _processed(processors: Sequence[LogitsProcessor], ids: Ids, scores: Scores) -> Scores:
    for processor in processors:
        result = np.asarray(processor(ids, scores))
        if result.shape != scores.shape or result.dtype.kind != "f":
            raise ShapeError(
                f"logits_processor: {processor!r} was given scores of shape {scores.shape} and returned "
                f"{result.dtype} of shape {result.shape}"
            )
        if np.isnan(result).any():
            raise ValueError(f"logits_processor: {processor!r} returned NaN")
        scores = result
    return scores


def _search(
    sequences: _Sequences,
    config: GenerationConfig,
    processors: Sequence[LogitsProcessor],
    streams: Sequence[np.random.Generator],
) -> GenerateDecoderOnlyOutput:
    """Greedy search or sampling: one token after the other, until every sequence has ended."""
    ends, pad, scores_of_steps = config.eos_token_ids, config.pad_token_id or 0, []
    unfinished = np.ones(len(sequences.ids), bool)
    while unfinished.any() and sequences.ids.shape[1] < config.max_length:
        scores = _processed(processors, sequences.ids, sequences.next_logits())
        if config.output_scores:
            scores_of_steps.append(scores.astype(np.float32))
        if not config.do_sample:
            require_choice(scores, 1)
        tokens = draw(scores, streams) if config.do_sample else scores.argmax(axis=1)
        if ends:
            tokens = np.where(unfinished, tokens, pad)
            unfinished &= ~np.isin(tokens, ends)
        sequences.append(tokens)
    return GenerateDecoderOnlyOutput(
        sequences=sequences.ids, scores=tuple(scores_of_steps) if config.output_scores else None
    )


def _search_beams(
    sequences: _Sequences,
    config: GenerationConfig,
    processors: Sequence[LogitsProcessor],
    streams: Sequence[np.random.Generator],
) -> GenerateBeamDecoderOnlyOutput:
    """Beam search; with sampling, candidates are drawn instead of the best ones taken."""
    beams, rows = config.num_beams, len(sequences.ids)
    batch = rows // beams
    search = BeamSearch(
        batch,
        beams,
        prompt_length=sequences.ids.shape[1],
        max_length=config.max_length,
        length_penalty=config.length_penalty,
        early_stopping=config.early_stopping,
        eos_token_ids=config.eos_token_ids,
        pad_token_id=config.pad_token_id,
    )
    # Copies of one prompt would all choose the same token; only the first may, unless they draw.
    is_copy = np.arange(rows) % beams > 0
    totals = np.where(is_copy & (not config.do_sample), -1e9, 0.0)
    scores_of_steps = []
    # As many that each beam has one that does not end it.
    wanted = max(2, 1 + len(config.eos_token_ids)) * beams
    while not search.is_done and sequences.ids.shape[1] < config.max_length:
        scores = _processed(processors, sequences.ids, log_softmax(sequences.next_logits()))
        if config.output_scores:
            scores_of_steps.append(scores.astype(np.float32))
        vocabulary = scores.shape[1]
        candidates = (scores + totals[:, None]).reshape(batch, beams * vocabulary)
        if candidates.shape[1] < wanted:
            raise ValueError(f"num_beams: {beams} beams need a vocabulary of {wanted // beams}")
        if config.do_sample:
            found = draw_distinct(candidates, wanted, streams)
            values = np.take_along_axis(candidates, found, axis=1)
            order = np.argsort(-values, axis=1, kind="stable")
            found = np.take_along_axis(found, order, axis=1)
        else:
            found = np.stack([_best(row, wanted) for row in candidates])
        values = np.take_along_axis(candidates, found, axis=1)
        totals, tokens, origins = search.advance(
            sequences.ids, values, found % vocabulary, found // vocabulary
        )
        sequences.append(tokens, origins)
    found_ids, found_scores, beam_indices = search.finish(sequences.ids, totals, config.num_return_sequences)
    return GenerateBeamDecoderOnlyOutput(
        sequences=found_ids,
        sequences_scores=found_scores if config.output_scores else None,
        scores=tuple(scores_of_steps) if config.output_scores else None,
        beam_indices=beam_indices if config.output_scores else None,
    )


def _best(values: Scores, count: int) -> Ids:
    """Return the places of the `count` largest values, largest first, the earlier first of equal ones."""
    lowest = np.partition(values, -count)[-count]
    places = np.flatnonzero(values >= lowest)
    return places[np.argsort(-values[places], kind="stable")][:count]
