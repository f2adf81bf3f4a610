# SPDX-License-Identifier: Apache-2.0
"""Named entities: words and wordpieces, windows, tags, and scores known by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from constructed_models import config, word_reader
from qdqbert.tasks import NER, DataError
from qdqbert.tasks.conll_data import TaggedSentence
from qdqbert.tasks.metrics import entity_scores

TAGS = {0: "O", 1: "B-person", 2: "I-person", 3: "B-place"}
# alice begins a person, smith goes on with one, paris is a place; everything else is nothing.
ROWS = {
    "alice": [0, 1, 0, 0],
    "smith": [0, 0, 1, 0],
    "paris": [0, 0, 0, 1],
    **{word: [1, 0, 0, 0] for word in ("good", "red", "##ish", ".", "[UNK]")},
}
SAYS = {"alice": "B-person", "smith": "I-person", "paris": "B-place"}
FILE = (
    "Alice\tB-person\nSmith\tI-person\n.\tO\n\n"  # found
    "reddish\tO\nParis\tO\n\n"  # reddish is [UNK]; Paris is no place here
    "smith\tB-person\nred\tO\nparis\tB-place\n\n"  # smith alone: lenient scoring opens an entity
    "alice\tB-person\ngood\tI-person\n\n"  # half of it
    "redish\tO\nred\tO\nalice\tB-person\n"  # red ##ish: two wordpieces, one word
)


def model(**changes):
    reader = word_reader("classifier", "QDQBertForTokenClassification", ROWS, **changes)
    reader.config.id2label = TAGS
    return reader


def task_of(path, words, **options):
    return NER.read(path, words, config(id2label=TAGS), **options)


def test_score_is_that_of_the_words(write, words):
    task = task_of(write("a.conll", FILE), words)

    result = task.evaluate(model())

    said = [tuple(SAYS.get(w.lower(), "O") for w in s.words) for s in task.sentences]
    assert result.predictions == said
    # 5 gold entities; predicted: Alice Smith, Paris, smith, paris, alice, alice; right: all but Paris and the
    # half entity.
    assert result["precision"].value == pytest.approx(100 * 4 / 6)
    assert result["recall"].value == pytest.approx(100 * 4 / 5)
    assert result.value == pytest.approx(100 * 8 / 11)
    assert result["F1 of place"].value == pytest.approx(100 * 2 / 3)
    assert result.metrics["right entities"] == 4


def test_strict_mode_wants_entities_to_begin_with_b(write, words):
    task = task_of(write("a.conll", FILE), words, entity_mode="strict")

    result = task.evaluate(model())

    assert result.metrics["predicted entities"] == 5
    assert result.metrics["right entities"] == 3
    expected = entity_scores([s.tags for s in task.sentences], result.predictions, mode="strict")
    assert result.value == pytest.approx(100 * expected[None].f1)


def test_people_see_the_tagged_words(write, words):
    task = task_of(write("a.conll", FILE), words)

    result = task.evaluate(model())

    assert task.text_of(1) == "reddish Paris"
    assert task.expected(1) == "(none)"
    assert task.answer(result, 1) == "Paris (B-place)"
    assert task.expected(0) == "Alice (B-person), Smith (I-person)"


@pytest.mark.parametrize("max_length", [4, 5, 7, 12, 13, 24])
@pytest.mark.parametrize("stride", [1, 2, None])
def test_every_word_is_tagged_once_where_it_sees_most(words, max_length, stride):
    generator = np.random.default_rng(max_length)
    for count in (1, 2, 3, 5, 8, 11, 23, 40):
        chosen = [["red", "redish", "alice", "goodishish"][i] for i in generator.integers(0, 4, count)]
        sentence = TaggedSentence(tuple(chosen), ("O",) * count)
        step = max(1, (max_length - 2) // 2) if stride is None else stride
        task = NER([sentence], words, TAGS, max_length=max_length, stride=step)
        pieces = words.encode(list(chosen), is_pretokenized=True, add_special_tokens=False)
        firsts = [pieces.word_ids.index(word) for word in range(count)]

        windows = task.windows(0)

        tagged = sorted(word for window in windows for word in window.words.tolist())
        assert tagged == list(range(count))
        assert max(len(window.text) for window in windows) <= max_length
        for window in windows:
            ids = window.text.input_ids
            assert [ids[p] for p in window.positions] == [pieces.ids[firsts[w]] for w in window.words]
        # The shorter side of a wordpiece, cut at what a window can show, is as long as any window makes it.
        room = max_length - 2
        starts = [number * step for number in range(len(windows))]
        for start, window in zip(starts, windows, strict=True):
            for word in window.words:
                first = firsts[word]
                sides = [
                    min(first - s, min(s + room, len(pieces.ids)) - 1 - first)
                    for s in starts
                    if s <= first < min(s + room, len(pieces.ids))
                ]
                assert min(first - start, min(start + room, len(pieces.ids)) - 1 - first) == max(sides)


def test_first_of_equal_windows_tags_a_word(words):
    # Windows of two wordpieces: the middle one of three stands at the edge of both.
    task = NER([TaggedSentence(("red",) * 3, ("O",) * 3)], words, TAGS, max_length=4, stride=1)

    assert [window.words.tolist() for window in task.windows(0)] == [[0, 1], [2]]


def test_windows_do_not_change_what_words_alone_decide(write, words):
    path = write("a.conll", FILE + "\n" + "".join(f"{w}\tO\n" for w in ["redish", "alice", "good"] * 13))

    whole = NER.read(path, words, config(id2label=TAGS, max_position_embeddings=80))
    cut = task_of(path, words, max_length=7, stride=2)

    changes = {"max_position_embeddings": 80}
    assert cut.evaluate(model()).predictions == whole.evaluate(model(**changes)).predictions


def test_words_without_wordpieces_are_o(words):
    sentence = TaggedSentence(("\u200d", "alice", "\u0000"), ("O", "B-person", "O"))
    task = NER([sentence], words, TAGS, max_length=24, stride=11)
    empty = NER([TaggedSentence(("\u200d",), ("O",))], words, TAGS, max_length=24, stride=11)

    assert task.evaluate(model()).predictions == [("O", "B-person", "O")]
    assert empty.evaluate(model()).predictions == [("O",)]


@pytest.mark.parametrize(
    ("tags", "options", "error", "message"),
    [
        (
            {0: "O", 1: "B-persons"},
            {},
            DataError,
            r"a\.conll:1: tag: expected one of the model's 2, found 'B-person'; near: B-persons",
        ),
        (
            {0: "LABEL_0", 1: "LABEL_1"},
            {},
            ValueError,
            r"config\.id2label: expected tags with O among them, found LABEL_0, LABEL_1",
        ),
        (TAGS, {"stride": 0}, ValueError, r"stride: expected 1 \.\. 22"),
        (TAGS, {"max_length": 8, "stride": 7}, ValueError, r"stride: expected 1 \.\. 6"),
        (TAGS, {"max_length": 25}, ValueError, r"max_length: expected 4 \.\. 24"),
        (TAGS, {"entity_mode": "loose"}, ValueError, "entity_mode: expected one of default, strict"),
    ],
)
def test_what_does_not_fit_is_refused(write, words, tags, options, error, message):
    with pytest.raises(error, match=message):
        NER.read(write("a.conll", FILE), words, config(id2label=tags), **options)


def test_unknown_tag_is_named_with_its_own_line(write, words):
    with pytest.raises(DataError, match=r"a\.conll:4: tag: .* found 'B-food'"):
        task_of(write("a.conll", "red\tO\n\nred\tO\nred\tB-food\n"), words)


def test_logits_of_another_shape_are_refused(write, words):
    task = task_of(write("a.conll", FILE), words)

    with pytest.raises(ValueError, match=r"logits: expected shape \(5, \d+, 4\) .* found \(5, 4\)"):
        task.evaluate(lambda **inputs: SimpleNamespace(logits=np.zeros((5, 4))))


@pytest.mark.shared
@pytest.mark.uninstrumented  # a thousand sentences through one model
def test_wnut_scores_of_the_trained_checkpoint_are_pytorchs(shared):
    import qdqbert
    from qdqbert.tokenization import load_tokenizer

    folder = shared("checkpoints", "minilm-wnut17")
    trained = qdqbert.QDQBertForTokenClassification.from_pretrained(folder)
    task = NER.read(
        shared("data", "ner", "wnut17", "emerging.dev.conll"), load_tokenizer(folder), trained.config
    )

    with qdqbert.quantizers(trained, {"*": "off"}):
        result = task.evaluate(trained)

    # The README of the checkpoints. A word within float noise of a tie may fall either way; it can change
    # each count by one.
    found = [result.metrics[f"{kind} entities"] for kind in ("right", "predicted", "gold")]
    assert found == pytest.approx([407, 644, 836], abs=1)
