# SPDX-License-Identifier: Apache-2.0
"""Continued prompts, against `generate`."""

from __future__ import annotations

import pytest

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
