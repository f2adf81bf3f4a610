# SPDX-License-Identifier: Apache-2.0
"""What is hidden: at the promised rates, never special tokens, and whole words whole."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qdqbert.data import BatchLoader, DataCollatorForLanguageModeling, DataCollatorForWholeWordMask


@pytest.fixture(scope="module")
def items(tokenizer):
    """Inputs of 40 texts, with words of several wordpieces, of different lengths."""
    generator = np.random.default_rng(3)
    words = ["unbelievable", "the", "quantization", "of", "Zwölfton", "networks", "a", "xylophonist", "it"]
    texts = [" ".join(generator.choice(words, 5 + 7 * (number % 13))) for number in range(40)]
    return [
        {key: value for key, value in tokenizer(text).items() if key != "attention_mask"} for text in texts
    ]


def whole(tokenizer, count: int) -> list[int]:
    """Ids of some wordpieces that begin words."""
    tokens = tokenizer.convert_ids_to_tokens(list(range(5, 4000)))
    return [5 + place for place, token in enumerate(tokens) if not token.startswith("##")][:count]


def near(count: int, trials: int, probability: float) -> bool:
    """Whether a binomial count lies within five standard deviations: one run in two million does not."""
    deviation = math.sqrt(trials * probability * (1 - probability))
    return abs(count - trials * probability) <= 5 * deviation


@pytest.mark.parametrize("whole_word", [False, True])
@pytest.mark.parametrize("share", [0.15, 0.4])
def test_rates_are_those_of_bert(tokenizer, items, share, whole_word):
    collate = DataCollatorForLanguageModeling(tokenizer, mlm_probability=share, whole_word=whole_word)
    plain = DataCollatorForLanguageModeling(tokenizer, mlm=False)(items)["input_ids"]
    special = np.isin(plain, [0, 2, 3])
    text = chosen = masked = same = 0
    for batch in range(60):
        found = collate(items, rng=np.random.default_rng(batch))
        is_chosen = found["labels"] != -100
        text += int((~special).sum())
        chosen += int(is_chosen.sum())
        masked += int((found["input_ids"][is_chosen] == tokenizer.mask_token_id).sum())
        same += int((found["input_ids"][is_chosen] == plain[is_chosen]).sum())
        assert not (is_chosen & special).any()
        assert (found["input_ids"][~is_chosen] == plain[~is_chosen]).all()
        assert (found["labels"][is_chosen] == plain[is_chosen]).all()

    if whole_word:
        # round(share n) of n wordpieces, or fewer by less than a word where only longer words are left.
        longest = 6
        wanted = sum(60 * round(share * int((~row).sum())) for row in special)
        assert wanted - 60 * len(items) * longest < chosen <= wanted
        assert chosen > 0.97 * wanted
    else:
        assert near(chosen, text, share)
    # A random wordpiece is [MASK], or what stood there, once in 4,000 times.
    assert near(masked, chosen, 0.8 + 0.1 / 4000)
    assert near(same, chosen, 0.1 + 0.1 / 4000)


def test_random_wordpieces_come_from_the_whole_vocabulary(tokenizer):
    collate = DataCollatorForLanguageModeling(tokenizer, mlm_probability=1.0)
    item = {"input_ids": [2, *[500] * 50_000, 3]}

    found = collate([item], rng=np.random.default_rng(0))["input_ids"][0, 1:-1]

    drawn = found[(found != 500) & (found != tokenizer.mask_token_id)]
    # About 5,000 uniform draws of 4,000: the mean is 2,000, its deviation 4,000 / sqrt(12 * 5,000) = 16.
    assert near(len(drawn), 50_000, 0.1)
    assert abs(drawn.mean() - 2000) < 5 * 17
    assert drawn.min() < 50
    assert drawn.max() > 3950


@pytest.mark.parametrize("collator", [DataCollatorForWholeWordMask, DataCollatorForLanguageModeling])
def test_words_are_hidden_whole(tokenizer, items, collator):
    options = {} if collator is DataCollatorForWholeWordMask else {"whole_word": True}
    collate = collator(tokenizer, **options)
    several = 0
    for batch in range(20):
        found = collate(items, rng=np.random.default_rng(batch))
        for item, labels in zip(items, found["labels"], strict=True):
            words = tokenizer.convert_ids_to_tokens(item["input_ids"])
            starts = [place for place, token in enumerate(words) if not token.startswith("##")]
            for begin, end in zip(starts, [*starts[1:], len(words)], strict=True):
                is_chosen = labels[begin:end] != -100
                assert is_chosen.all() or not is_chosen.any()
                several += int(is_chosen.all() and end - begin > 1)
    assert several > 100


def test_single_wordpieces_are_chosen_by_themselves_without_whole_words(tokenizer, items):
    found = DataCollatorForLanguageModeling(tokenizer)(items, rng=np.random.default_rng(1))

    torn = 0
    for item, labels in zip(items, found["labels"], strict=True):
        tokens = tokenizer.convert_ids_to_tokens(item["input_ids"])
        torn += sum(
            token.startswith("##") and (labels[place] == -100) != (labels[place - 1] == -100)
            for place, token in enumerate(tokens)
        )
    assert torn > 0


def test_places_of_chinese_ref_go_on_with_a_word(tokenizer):
    collate = DataCollatorForWholeWordMask(tokenizer, mlm_probability=0.5)
    item = {"input_ids": [2, *whole(tokenizer, 4), 3], "chinese_ref": [2, 4]}

    for seed in range(20):
        labels = collate([item], rng=np.random.default_rng(seed))["labels"][0] != -100
        assert labels.tolist() in (
            [False, True, True, False, False, False],
            [False, False, False, True, True, False],
        )


def test_word_does_not_go_on_behind_a_special_token(tokenizer):
    inside = next(
        index for index in range(5, 4000) if tokenizer.convert_ids_to_tokens(index).startswith("##")
    )
    collate = DataCollatorForWholeWordMask(tokenizer, mlm_probability=0.5)
    item = {"input_ids": [2, *whole(tokenizer, 1), 3, inside, 3]}

    found = {
        tuple((collate([item], rng=np.random.default_rng(seed))["labels"][0] != -100).tolist())
        for seed in range(30)
    }

    assert found == {(False, True, False, False, False), (False, False, False, True, False)}


def test_mask_of_special_tokens_of_the_items_is_taken(tokenizer):
    collate = DataCollatorForLanguageModeling(tokenizer, mlm_probability=1.0)
    item = {"input_ids": [2, 500, 3, 501], "special_tokens_mask": [0, 1, 0, 0]}

    batch = collate([item], rng=np.random.default_rng(0))

    assert batch["labels"].tolist() == [[2, -100, 3, 501]]
    assert "special_tokens_mask" not in batch


def test_nothing_is_hidden_where_there_is_no_text(tokenizer):
    for whole_word in (False, True):
        collate = DataCollatorForLanguageModeling(tokenizer, mlm_probability=1.0, whole_word=whole_word)
        batch = collate([{"input_ids": [2, 3]}], rng=np.random.default_rng(0))
        assert batch["labels"].tolist() == [[-100, -100]]


def test_lists_of_ids_are_items_too_and_nothing_given_is_changed(tokenizer):
    ids = [[2, 500, 501, 3], [2, 502, 3]]

    batch = DataCollatorForLanguageModeling(tokenizer, mlm_probability=1.0)(ids, rng=np.random.default_rng(0))

    assert batch["labels"].tolist() == [[-100, 500, 501, -100], [-100, 502, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert ids == [[2, 500, 501, 3], [2, 502, 3]]


def test_labels_of_a_causal_model_are_the_ids_but_for_padding(tokenizer):
    collate = DataCollatorForLanguageModeling(tokenizer, mlm=False, pad_to_multiple_of=4)

    batch = collate([{"input_ids": [2, 500, 3]}, {"input_ids": [2, 500, 501, 502, 3]}])

    assert batch["labels"].tolist() == [
        [2, 500, 3, -100, -100, -100, -100, -100],
        [2, 500, 501, 502, 3, -100, -100, -100],
    ]


def test_loader_hides_the_same_in_the_same_epoch_and_other_things_in_the_next(tokenizer, items):
    def hidden(epoch, first=0):
        collate = DataCollatorForLanguageModeling(tokenizer)
        loader = BatchLoader(items, 8, collate, shuffle=True, seed=4)
        return [batch["labels"].tolist() for batch in loader.batches(epoch, first)]

    assert hidden(0) == hidden(0)
    assert hidden(1, first=3) == hidden(1)[3:]
    assert hidden(0) != hidden(1)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"mlm_probability": 0.0}, r"mlm_probability: expected \(0, 1\], got 0.0"),
        ({"mlm_probability": 1.5}, "mlm_probability: expected"),
        ({"mlm_probability": float("nan")}, "mlm_probability: expected"),
        ({"mlm": False, "whole_word": True}, "whole_word: words are hidden with mlm=True only"),
    ],
)
def test_options_out_of_range_are_named(tokenizer, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        DataCollatorForLanguageModeling(tokenizer, **options)


def test_tokenizer_without_mask_token_is_refused(tokenizer):
    from qdqbert import BertTokenizerFast

    bare = BertTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, mask_token=None)

    with pytest.raises(ValueError, match="tokenizer: expected a mask token"):
        DataCollatorForLanguageModeling(bare)
    assert DataCollatorForLanguageModeling(bare, mlm=False).mlm is False


def test_masking_without_generator_says_where_one_comes_from(tokenizer):
    with pytest.raises(TypeError, match=r"rng: .*numpy\.random\.default_rng"):
        DataCollatorForLanguageModeling(tokenizer)([{"input_ids": [2, 3]}])
