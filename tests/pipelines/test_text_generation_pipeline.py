# SPDX-License-Identifier: Apache-2.0
"""Continued prompts, against `generate`."""

from __future__ import annotations

import numpy as np
import pytest

import qdqbert
from qdqbert import pipelines


@pytest.fixture
def write(tiny, tokenizer):
    model = tiny("QDQBertLMHeadModel", is_decoder=True, bos_token_id=2, eos_token_id=3)
    return pipelines.TextGenerationPipeline(model, tokenizer, max_new_tokens=6)


def test_a_prompt_is_continued_as_the_model_generates(write, tokenizer):
    ids = tokenizer("what is", add_special_tokens=False, return_tensors="np").input_ids
    sequence = write.model.generate(ids, max_new_tokens=6)[0]
    whole = tokenizer.decode(sequence, skip_special_tokens=True)

    assert write("What is") == [{"generated_text": "What is" + whole[len("what is") :]}]
    assert write("What is", return_full_text=False) == [{"generated_text": whole[len("what is") :]}]
    assert write("What is", return_tensors=True) == [{"generated_token_ids": sequence.tolist()}]
    assert write(["What is", "it"]) == [write("What is"), write("it")]


def test_arguments_of_generate_are_taken_by_name(write):
    several = write("it", do_sample=True, num_return_sequences=3, seed=1)

    assert len(several) == 3
    assert several == write("it", do_sample=True, num_return_sequences=3, seed=1)
    assert len(write("it", max_new_tokens=2, return_tensors=True)[0]["generated_token_ids"]) <= 3
    with pytest.raises(TypeError, match="max_tokens"):
        write("it", max_tokens=3)


# Of 1, 2 and 3 tokens, mixed, so that batches have to be put together and taken apart.
PROMPTS = ["it", "what is", "who was", "that", "in the city", "of", "the world is", "he", "they are"]
ARGUMENTS = {
    "greedy": {},
    "penalties": {"repetition_penalty": 1.7, "no_repeat_ngram_size": 2, "min_new_tokens": 2},
    "max_length": {"max_length": 7, "max_new_tokens": None},
    "beams": {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.3},
    "sampling": {"do_sample": True, "seed": 5},
    "several samples": {"do_sample": True, "seed": 5, "num_return_sequences": 3, "top_k": 20},
    "sampled beams": {"do_sample": True, "seed": 5, "num_beams": 2, "num_return_sequences": 2},
}


@pytest.mark.parametrize("case", sorted(ARGUMENTS))
@pytest.mark.parametrize(
    ("batch_size", "return_tensors"), [(None, None), (None, True), (1, None), (2, True), (3, None)]
)
def test_prompts_of_a_batch_are_continued_as_each_alone(write, case, batch_size, return_tensors, monkeypatch):
    # Ends that some sequences reach after few tokens and others never do.
    write.model.generation_config.eos_token_id = list(range(3, 4000, 5))
    arguments = {**ARGUMENTS[case], "return_tensors": return_tensors}
    alone = [write(prompt, **arguments) for prompt in PROMPTS]
    rows, generate = [], type(write.model).generate

    def counted(self, ids, **options):
        rows.append(len(ids))
        return generate(self, ids, **options)

    monkeypatch.setattr(type(write.model), "generate", counted)

    assert write(PROMPTS, batch_size=batch_size, **arguments) == alone
    # Four prompts of one token, three of two, two of three.
    assert rows == {None: [4, 3, 2], 1: [1] * 9, 2: [2, 2, 2, 1, 2], 3: [3, 1, 3, 2]}[batch_size]
    if return_tensors:
        assert len({len(each["generated_token_ids"]) for found in alone for each in found}) > 3


def test_a_generator_goes_on_from_prompt_to_prompt_in_any_batch(write):
    def drawn(**options):
        return write(PROMPTS, do_sample=True, seed=np.random.default_rng(3), **options)

    assert drawn() == drawn(batch_size=1)
    assert drawn() != write(PROMPTS, do_sample=True, seed=3)


def test_an_iterator_of_prompts_is_read_in_batches(write):
    read = []

    def prompts():
        for prompt in PROMPTS:
            read.append(prompt)
            yield prompt

    results = write(prompts(), batch_size=4)

    assert next(results) == write("it")
    assert len(read) == 4
    assert list(results) == [write(prompt) for prompt in PROMPTS[1:]]


def test_prompts_are_not_batched_unasked_where_ranges_are_dynamic(write, monkeypatch):
    qdqbert.quantizers(write.model, {"*": "on"})
    rows, generate = [], type(write.model).generate

    def counted(self, ids, **options):
        rows.append(len(ids))
        return generate(self, ids, **options)

    monkeypatch.setattr(type(write.model), "generate", counted)
    write(PROMPTS)
    assert rows == [1] * len(PROMPTS)


def test_prompts_without_tokens_begin_with_the_begin_token(write):
    (alone,) = write("")
    assert write(["", "it", ""], batch_size=8) == [[alone], write("it"), [alone]]


def test_what_would_be_dropped_is_refused(write):
    with pytest.raises(ValueError, match="return_text: False leaves nothing to return"):
        write("it", return_text=False)
    for name in ("return_dict_in_generate", "output_scores"):
        with pytest.raises(ValueError, match=f"{name}: scores are no text"):
            write("it", **{name: True})


def test_a_stop_sequence_ends_a_text(write, tokenizer):
    tokens = write("what is", return_tensors=True)[0]["generated_token_ids"]
    stop = tokenizer.convert_ids_to_tokens(tokens[4])
    assert tokenizer.encode(stop, add_special_tokens=False) == [tokens[4]]

    found = write("what is", return_tensors=True, stop_sequence=stop)[0]["generated_token_ids"]

    assert found == tokens[: tokens.index(tokens[4], 2) + 1]


def test_a_prefix_is_read_and_not_returned(write):
    (found,) = write("it", prefix="what is ")
    (whole,) = write("what is it")

    assert found["generated_text"] == whole["generated_text"].removeprefix("what is ")


def test_the_beginning_of_a_long_prompt_can_be_dropped(write):
    (found,) = write("it " * 70, handle_long_generation="hole", return_tensors=True)

    assert len(found["generated_token_ids"]) <= 64
    with pytest.raises(ValueError, match="max_new_tokens: 64 leaves nothing"):
        write("it", handle_long_generation="hole", max_new_tokens=64)
    with pytest.raises(ValueError, match="handle_long_generation: expected None or 'hole'"):
        write("it", handle_long_generation="cut")
    with pytest.raises(ValueError, match="return_full_text, return_tensors: only one"):
        write("it", return_full_text=True, return_tensors=True)
