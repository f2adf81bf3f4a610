# SPDX-License-Identifier: Apache-2.0
"""`generate`: the loops around the model."""

from __future__ import annotations

import json
import os
import signal
import threading
from typing import Any

import numpy as np
import pytest

import qdqbert
import tiny_model
from qdqbert import GenerationConfig, QDQBertForMaskedLM, QDQBertLMHeadModel, QDQBertModel, ShapeError
from qdqbert.generation.loop import _Sequences

CROSS = {"is_decoder": True, "add_cross_attention": True}


def prompts(rows: int = 3, length: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Ids and a mask that is padded on the left, by 0, 2, 4, ... tokens."""
    ids = np.random.default_rng(0).integers(3, tiny_model.FIELDS["vocab_size"], (rows, length))
    mask = (np.arange(length) >= 2 * np.arange(rows)[:, None]).astype(np.int64)
    return np.where(mask == 1, ids, 0), mask


def states_of(rows: int = 3) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((rows, 5, 24)).astype(np.float32)


def make(quantizers: str = "float", kind: type[Any] = QDQBertLMHeadModel, **fields: Any) -> Any:
    fields = {"is_decoder": True, "max_position_embeddings": 64, "eos_token_id": None, **fields}
    model = kind(tiny_model.config(**fields), seed=3)
    if quantizers == "calibrated":
        states = {"encoder_hidden_states": states_of()} if fields.get("add_cross_attention") else {}
        batches = [{"input_ids": prompts()[0] + shift, **states} for shift in (0, 1)]
        qdqbert.calibrate(model, batches)
    elif quantizers == "float":
        qdqbert.quantizers(model, {"*": "off"})
    return model


@pytest.fixture(scope="module")
def model() -> Any:
    return make()


STRATEGIES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "repetition": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_new_tokens": 5},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "sampling": {"do_sample": True, "seed": 5, "num_return_sequences": 2, "top_k": 10, "top_p": 0.9},
    "beams that sample": {"do_sample": True, "seed": 5, "num_beams": 3, "temperature": 1.7},
}


# ---- a cache changes nothing ----------------------------------------------------------------------------


class Spy:
    """Records the logits of every step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[np.ndarray] = []
        plain = _Sequences.next_logits

        def next_logits(sequences: _Sequences) -> np.ndarray:
            logits = plain(sequences)
            self.steps.append(logits)
            return logits

        monkeypatch.setattr(_Sequences, "next_logits", next_logits)


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
@pytest.mark.parametrize("padding", ["skip", "compute"])
@pytest.mark.parametrize("quantizers", ["float", "calibrated"])
def test_cached_generation_has_the_bits_of_uncached_generation(
    quantizers: str, padding: str, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(quantizers)
    model.padding = padding
    ids, mask = prompts()
    runs = []
    for use_cache in (True, False):
        with monkeypatch.context() as patch:
            spy = Spy(patch)
            out = model.generate(
                ids, attention_mask=mask, max_new_tokens=12, use_cache=use_cache, **STRATEGIES[strategy]
            )
        runs.append((out, spy.steps))
    (cached, cached_steps), (uncached, uncached_steps) = runs
    np.testing.assert_array_equal(cached, uncached)
    assert len(cached_steps) == len(uncached_steps) > 1
    for mine, whole in zip(cached_steps, uncached_steps, strict=True):
        np.testing.assert_array_equal(mine, whole)


@pytest.mark.parametrize("position_embedding_type", ["relative_key", "relative_key_query"])
@pytest.mark.parametrize("strategy", ["greedy", "beams"])
def test_relative_positions_and_an_encoder_make_no_difference_to_that(
    strategy: str, position_embedding_type: str
) -> None:
    fields = {"position_embedding_type": position_embedding_type, **CROSS}
    model = make("calibrated", **fields)
    ids, mask = prompts()
    encoder_mask = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 1, 1, 1, 0]])
    arguments = {"attention_mask": mask, "max_new_tokens": 10, **STRATEGIES[strategy]}
    encoder = {"encoder_hidden_states": states_of(), "encoder_attention_mask": encoder_mask}
    cached = model.generate(ids, **arguments, **encoder)
    np.testing.assert_array_equal(cached, model.generate(ids, **arguments, **encoder, use_cache=False))
    # The encoder does reach the result.
    assert not np.array_equal(cached, model.generate(ids, **arguments))


def test_a_cached_step_computes_one_token(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    plain = QDQBertLMHeadModel.prepare_inputs_for_generation

    def spy(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        inputs = plain(self, *args, **kwargs)
        lengths.append(inputs["input_ids"].shape[1])
        return inputs

    monkeypatch.setattr(QDQBertLMHeadModel, "prepare_inputs_for_generation", spy)
    model.generate([[5, 6, 7]], max_new_tokens=4)
    assert lengths == [3, 1, 1, 1]


# ---- what comes out -------------------------------------------------------------------------------------


def test_greedy_search_takes_the_best_token_each_time(model: Any) -> None:
    ids = np.array([[5, 6, 7]])
    out = model.generate(ids, max_new_tokens=6)
    for length in range(3, 9):
        logits = model(out[:, :length]).logits[:, -1]
        assert out[0, length] == logits.argmax()


def test_prompts_come_first_and_rows_may_be_padded(model: Any) -> None:
    ids, mask = prompts()
    out = model.generate(ids, attention_mask=mask, max_new_tokens=4)
    np.testing.assert_array_equal(out[:, :7], ids)
    assert out.dtype == np.int64
    # Positions count padding, as in the original, so rows are the same only with the same padding.
    for row in range(3):
        alone = model.generate(ids[row : row + 1], attention_mask=mask[row : row + 1], max_new_tokens=4)
        np.testing.assert_array_equal(alone[0], out[row])


def test_masks_are_made_from_the_padding_token(model: Any) -> None:
    ids, mask = prompts()
    expected = model.generate(ids, attention_mask=mask, max_new_tokens=4)
    np.testing.assert_array_equal(model.generate(ids, max_new_tokens=4), expected)
    # A token that also ends sequences says nothing about padding.
    everything = model.generate(ids, attention_mask=np.ones_like(ids), max_new_tokens=4, eos_token_id=0)
    np.testing.assert_array_equal(model.generate(ids, max_new_tokens=4, eos_token_id=0), everything)


def test_sequences_that_end_are_filled_with_padding(model: Any) -> None:
    ids, mask = prompts()
    free = model.generate(ids, attention_mask=mask, max_new_tokens=8)[:, 7:]
    end = int(free[1, 2])
    out = model.generate(ids, attention_mask=mask, max_new_tokens=8, eos_token_id=[51, end], pad_token_id=9)
    for row, expected in zip(out[:, 7:], free, strict=True):
        ended = np.flatnonzero(expected == end)
        last = int(ended[0]) + 1 if ended.size else len(row)
        np.testing.assert_array_equal(row[:last], expected[: len(row)][:last])
        assert (row[last:] == 9).all()


def test_generation_stops_when_every_sequence_has_ended(model: Any) -> None:
    end = int(model.generate([[5, 6]], max_new_tokens=1)[0, 2])
    assert model.generate([[5, 6]], max_new_tokens=9, eos_token_id=end).tolist() == [[5, 6, end]]
    longer = model.generate([[5, 6]], max_new_tokens=9, eos_token_id=end, min_new_tokens=3)
    assert end not in longer[0, 2:5]
    same = model.generate([[5, 6]], max_new_tokens=9, eos_token_id=end, min_length=5)
    np.testing.assert_array_equal(same, longer)


def test_lengths_count_the_prompt_or_not(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert model.generate([[5, 6, 7]], max_length=8).shape == (1, 8)
    assert model.generate([[5, 6, 7]], max_new_tokens=8).shape == (1, 11)
    assert model.generate([[5, 6, 7]]).shape[1] == 20
    assert not caplog.records
    assert model.generate([[5, 6, 7]], max_new_tokens=4, max_length=9).shape == (1, 7)
    assert "max_new_tokens counts" in caplog.text


def test_what_a_tokenizer_returns_can_be_handed_on_whole(model: Any) -> None:
    ids, mask = prompts()
    encoded = {"input_ids": ids, "token_type_ids": np.zeros_like(ids), "attention_mask": mask}
    np.testing.assert_array_equal(
        model.generate(**encoded, max_new_tokens=5),
        model.generate(ids, attention_mask=mask, max_new_tokens=5),
    )


def test_the_largest_penalties_that_are_taken_rank_beams(model: Any) -> None:
    # 64 ** 162 is 4e292, as is the largest power allowed: e ** (709.8 - 32).
    for penalty in (162.0, -162.0):
        out = model.generate(
            [[5]], max_new_tokens=64, num_beams=2, length_penalty=penalty, output_scores=True,
            return_dict_in_generate=True,
        )  # fmt: skip
        assert out.sequences.shape == (1, 65)
        assert (out.sequences_scores <= 0).all()


def test_inputs_is_the_originals_name_of_the_prompt(model: Any) -> None:
    ids = [[5, 6, 7], [0, 8, 9]]
    np.testing.assert_array_equal(
        model.generate(inputs=ids, max_new_tokens=4), model.generate(ids, max_new_tokens=4)
    )


def test_one_row_of_a_mask_counts_for_all_prompts(model: Any) -> None:
    ids, mask = [[5, 6, 7], [4, 8, 9]], np.array([[0, 1, 1]])
    for arguments in ({}, {"num_beams": 2}):
        one, all_rows = (
            model.generate(ids, attention_mask=each, max_new_tokens=4, **arguments)
            for each in (mask, mask.repeat(2, axis=0))
        )
        np.testing.assert_array_equal(one, all_rows)


def test_no_prompt_begins_with_the_begin_token(model: Any) -> None:
    np.testing.assert_array_equal(model.generate(max_new_tokens=3), model.generate([[1]], max_new_tokens=3))
    crossed = make(**CROSS)
    assert crossed.generate(encoder_hidden_states=states_of(), max_new_tokens=3).shape[0] == 3
    with pytest.raises(ValueError, match="no bos_token_id"):
        make(bos_token_id=None).generate(max_new_tokens=3)


def test_a_begin_token_that_is_also_the_padding_token_is_attended_to(model: Any) -> None:
    model.generation_config.bos_token_id = model.generation_config.pad_token_id
    expected = model.generate(
        [[model.generation_config.pad_token_id]], attention_mask=[[1]], max_new_tokens=3
    )
    np.testing.assert_array_equal(model.generate(max_new_tokens=3), expected)


def test_copies_of_a_prompt_follow_it(model: Any) -> None:
    ids, _ = prompts(2)
    out = model.generate(ids, max_new_tokens=3, do_sample=True, seed=1, num_return_sequences=3)
    np.testing.assert_array_equal(out[:, :7], ids.repeat(3, axis=0))
    assert len(np.unique(out[:3], axis=0)) > 1


def test_a_seed_repeats_what_was_drawn(model: Any) -> None:
    ids, _ = prompts()
    for extra in ({}, {"num_beams": 3}):
        first, again, other = (
            model.generate(ids, max_new_tokens=8, do_sample=True, seed=seed, **extra) for seed in (1, 1, 2)
        )
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)


def test_sampling_with_one_token_left_is_greedy_search(model: Any) -> None:
    ids, _ = prompts()
    greedy = model.generate(ids, max_new_tokens=6)
    for narrow in ({"top_k": 1}, {"top_p": 0.0}, {"temperature": 1e-6}):
        np.testing.assert_array_equal(model.generate(ids, max_new_tokens=6, do_sample=True, **narrow), greedy)


def test_as_many_beams_as_tokens_find_the_best_pair_of_all(model: Any) -> None:
    ids, vocabulary = np.random.default_rng(2).integers(3, 53, (4, 7)), 53

    def log_probability(sequences: np.ndarray) -> np.ndarray:
        logits = model(sequences).logits.astype(np.float64)[:, 6:-1]
        logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return np.take_along_axis(logs, sequences[:, 7:, None], axis=2).sum(axis=(1, 2))

    out = model.generate(
        ids, max_new_tokens=2, num_beams=vocabulary, return_dict_in_generate=True, output_scores=True
    )
    pairs = np.stack(np.divmod(np.arange(vocabulary**2), vocabulary), axis=1)
    for row, prompt in enumerate(ids):
        every = np.concatenate([np.tile(prompt, (len(pairs), 1)), pairs], axis=1)
        totals = log_probability(every)
        np.testing.assert_array_equal(out.sequences[row], every[totals.argmax()])
        # float32 of a float64 mean.
        assert abs(out.sequences_scores[row] / (totals.max() / 2) - 1) < 1e-6
    greedy = log_probability(model.generate(ids, max_new_tokens=2))
    assert (log_probability(out.sequences) > greedy + 1e-9).any()


def test_beam_indices_lead_back_to_the_scores(model: Any) -> None:
    ids, _ = prompts(2)
    out = model.generate(
        ids, max_new_tokens=5, num_beams=3, num_return_sequences=2, return_dict_in_generate=True,
        output_scores=True,
    )  # fmt: skip
    assert list(out) == ["sequences", "sequences_scores", "scores", "beam_indices"]
    for row, sequence in enumerate(out.sequences):
        steps = out.beam_indices[row][out.beam_indices[row] >= 0]
        total = sum(out.scores[step][beam, sequence[7 + step]] for step, beam in enumerate(steps))
        assert abs(total / len(steps) - out.sequences_scores[row]) < 1e-5


def test_outputs_hold_the_scores_of_every_step(model: Any) -> None:
    out = model.generate([[5, 6]], max_new_tokens=3, return_dict_in_generate=True, output_scores=True)
    assert list(out) == ["sequences", "scores"]
    assert [each.shape for each in out.scores] == [(1, 53)] * 3
    np.testing.assert_array_equal(out.scores[0], model([[5, 6]]).logits[:, -1])
    assert list(model.generate([[5, 6]], max_new_tokens=3, return_dict_in_generate=True)) == ["sequences"]


def test_processors_of_the_caller_come_last(model: Any) -> None:
    def only_nine(ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        result = np.full_like(scores, -np.inf)
        result[:, 9] = 0
        return result

    out = model.generate([[5, 6]], max_new_tokens=3, logits_processor=[only_nine])
    assert out.tolist() == [[5, 6, 9, 9, 9]]


def test_an_encoder_may_generate_too() -> None:
    model = make(is_decoder=False)
    out = model.generate([[5, 6, 7]], max_new_tokens=3)
    assert out[0, 4] == model(out[:, :4]).logits[0, -1].argmax()


def test_a_masked_model_fills_in_a_token_that_it_appends() -> None:
    model = make(kind=QDQBertForMaskedLM, is_decoder=False)
    out = model.generate([[5, 6, 7]], max_new_tokens=3)
    model.padding = "compute"
    for length in (3, 4, 5):
        ids = np.append(out[:, :length], [[0]], axis=1)
        mask = np.append(np.ones((1, length), int), [[0]], axis=1)
        assert out[0, length] == model(ids, attention_mask=mask).logits[0, -1].argmax()


# ---- configuration --------------------------------------------------------------------------------------


def test_none_falls_back_to_the_configuration_as_in_the_original(model: Any) -> None:
    end = int(model.generate([[5, 6]], max_new_tokens=1)[0, 2])
    ended = make(eos_token_id=end)
    assert ended.generate([[5, 6]], max_new_tokens=5).shape == (1, 3)
    assert ended.generate([[5, 6]], max_new_tokens=5, eos_token_id=None).shape == (1, 3)
    assert ended.generate([[5, 6]], GenerationConfig(max_new_tokens=5)).shape == (1, 3)
    ended.generation_config.eos_token_id = None
    assert ended.generate([[5, 6]], max_new_tokens=5).shape == (1, 7)


def test_the_models_configuration_counts_until_somebody_says_otherwise() -> None:
    model = make()
    end = int(model.generate([[5, 6]], max_new_tokens=1)[0, 2])
    model.config.eos_token_id = end
    assert model.generate([[5, 6]], max_new_tokens=5).shape == (1, 3)
    assert model.generation_config is model.generation_config
    model.generation_config.eos_token_id = None
    assert model.generate([[5, 6]], max_new_tokens=5).shape == (1, 7)
    model.config.bos_token_id = 9
    assert model.generation_config.bos_token_id == 1


def test_the_configuration_lies_beside_the_model(tmp_path: Any) -> None:
    model = make()
    model.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "generation_config.json").read_text())
    assert written == {"_from_model_config": True, "bos_token_id": 1, "pad_token_id": 0}
    end = int(model.generate([[5, 6]], max_new_tokens=1)[0, 2])
    (tmp_path / "generation_config.json").write_text(json.dumps({**written, "eos_token_id": [end, 3]}))
    again = QDQBertLMHeadModel.from_pretrained(tmp_path)
    qdqbert.quantizers(again, {"*": "off"})
    # The file wins over the model's configuration, though it was made from one.
    assert again.config.eos_token_id is None
    assert again.generation_config.eos_token_id == [end, 3]
    assert again.generate([[5, 6]], max_new_tokens=5).shape == (1, 3)
    (tmp_path / "generation_config.json").unlink()
    assert QDQBertLMHeadModel.from_pretrained(tmp_path).generation_config.eos_token_id is None
    QDQBertModel(tiny_model.config()).save_pretrained(tmp_path / "base")
    assert not (tmp_path / "base" / "generation_config.json").exists()


def test_a_call_changes_no_configuration(model: Any) -> None:
    before = (model.config.to_dict(), model.generation_config.to_dict())
    model.generate([[5, 6]], max_new_tokens=3, num_beams=2, eos_token_id=9, pad_token_id=3)
    assert (model.config.to_dict(), model.generation_config.to_dict()) == before


# ---- what is refused ------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "an unknown argument": ({"temprature": 0.5}, TypeError, "temprature"),
    "an argument of another method": ({"num_beam_groups": 2}, TypeError, "num_beam_groups"),
    "a prompt that is too long": ({"max_length": 3}, ValueError, "no room after prompts of 3 tokens"),
    "an end that is too near": ({"max_length": 5, "min_length": 6}, ValueError, "6 tokens .* at most 5"),
    "more than the model's positions": (
        {"max_new_tokens": 63}, ValueError, "66 tokens asked for, a model with 64 positions can make 65",
    ),
    "an end token that is none": ({"eos_token_id": 53}, ValueError, "eos_token_id: 53 is no token"),
    "a padding token that is none": ({"pad_token_id": 99}, ValueError, "pad_token_id: 99 is no token"),
    "scores without a place": ({"output_scores": True}, ValueError, "needs return_dict_in_generate"),
    "a prompt of the second type": (
        {"token_type_ids": [[0, 0, 1]]}, ValueError, r"token_type_ids\[0, 2\] is 1, expected 0",
    ),
    "types of another shape": ({"token_type_ids": [[0, 0]]}, ShapeError, r"types?_ids: expected \(1, 3\)"),
    "a processor that is none": ({"logits_processor": [5]}, TypeError, "logits_processor: expected a seq"),
    "a processor without a list": (
        {"logits_processor": lambda ids, scores: scores}, TypeError, "logits_processor: expected a seq",
    ),
    "scores of fewer tokens": (
        {"logits_processor": [lambda ids, scores: scores[:, :5]]}, ShapeError,
        r"logits_processor: .*\(1, 53\) and returned float64 of shape \(1, 5\)",
    ),
    "no scores": (
        {"logits_processor": [lambda ids, scores: None]}, ShapeError, "logits_processor: .* returned object",
    ),
    "scores that are no numbers": (
        {"logits_processor": [lambda ids, scores: scores * np.nan], "num_beams": 3}, ValueError,
        "logits_processor: .* returned NaN",
    ),
    "a penalty that overflows": (
        {"length_penalty": 1e3, "num_beams": 2}, ValueError, "length_penalty: 17 tokens to the power of 1000",
    ),
    "a penalty that underflows": (
        {"length_penalty": -1e3, "num_beams": 2}, ValueError, "length_penalty: 17 tokens to the power of -1",
    ),
    "a configuration that is none": ({"generation_config": {}}, TypeError, "expected GenerationConfig"),
    "a mask of another shape": ({"attention_mask": [[1, 1]]}, ShapeError, r"mask: expected \(1, 3\)"),
    "two prompts": ({"inputs": [[5, 6, 7]]}, ValueError, "inputs: is another name of input_ids, which is"),
    "one dimension": ({"input_ids": [5, 6]}, ShapeError, "input_ids"),
    "no token": ({"input_ids": [[]]}, ShapeError, "input_ids"),
    "padding at the end": (
        {"attention_mask": [[1, 1, 0]]}, ValueError, "row 0 ends in padding.* pad on the left",
    ),
    "an encoder's mask alone": ({"encoder_attention_mask": [[1]]}, ValueError, "there are no encoder_hidden"),
    "an encoder of other prompts": (
        {"encoder_hidden_states": np.zeros((2, 2, 24))}, ShapeError, r"expected \(1, encoder length",
    ),
    "an encoder's mask of another length": (
        {"encoder_hidden_states": np.zeros((1, 2, 24)), "encoder_attention_mask": [[1]]},
        ShapeError,
        r"encoder_attention_mask: expected \(1, 2\), got \(1, 1\)",
    ),
    "an encoder without cross-attention": (
        {"encoder_hidden_states": np.zeros((1, 2, 24))}, ValueError, "no cross-attention",
    ),
    "a seed that is none": ({"seed": "x", "do_sample": True}, TypeError, "seed"),
    "a choice of nothing": (
        {"no_repeat_ngram_size": 1, "max_new_tokens": 60}, ValueError, "0 tokens may follow",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_what_cannot_be_is_refused_by_name(case: str, model: Any) -> None:
    arguments, kind, message = REFUSED[case]
    before = model.generate([[5, 6, 7]], max_new_tokens=4)
    with pytest.raises(kind, match=message):
        model.generate(**{"input_ids": [[5, 6, 7]], **arguments})
    np.testing.assert_array_equal(model.generate([[5, 6, 7]], max_new_tokens=4), before)


def test_padding_at_the_end_is_mentioned_where_it_is_computed(caplog: pytest.LogCaptureFixture) -> None:
    model = make()
    model.padding = "compute"
    model.generate([[5, 6, 0]], attention_mask=[[1, 1, 0]], max_new_tokens=2)
    assert "row 0 ends in padding" in caplog.text


def test_the_last_position_can_be_used(model: Any) -> None:
    for extra in ({}, {"use_cache": False}, {"num_beams": 2}):
        assert model.generate([[5, 6, 7]], max_new_tokens=62, **extra).shape == (1, 65)


def test_models_without_a_language_head_say_so() -> None:
    model = QDQBertModel(tiny_model.config())
    assert not model.can_generate()
    assert make().can_generate()
    with pytest.raises(TypeError, match="QDQBertModel cannot generate: it has no language head"):
        model.generate([[1]])


# ---- interruption ---------------------------------------------------------------------------------------


def test_an_interrupt_stops_the_loop_and_leaves_the_model_usable(model: Any) -> None:
    before = model.generate([[5, 6, 7]], max_new_tokens=4)
    steps = 0

    def interrupting(ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        nonlocal steps
        steps += 1
        if steps == 3:
            threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGINT)).start()
        return scores

    def until_interrupted() -> None:
        for _ in range(1000):
            model.generate([[5, 6, 7]], max_new_tokens=60, logits_processor=[interrupting])

    # A job that a shell put into the background ignores the signal, and Python leaves it so.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            until_interrupted()
    finally:
        signal.signal(signal.SIGINT, previous)
    np.testing.assert_array_equal(model.generate([[5, 6, 7]], max_new_tokens=4), before)
