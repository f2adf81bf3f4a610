# SPDX-License-Identifier: Apache-2.0
"""Collators, labels of SQuAD and groups of length beside those of transformers 4.39.

Run where transformers and PyTorch are: ``pytest tests/data -m witness``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qdqbert import data as ours
from qdqbert.cli.demo import bundled_folder
from qdqbert.data.order import epoch_batches
from qdqbert.data.question_answering import answer_positions
from qdqbert.tasks.squad_data import read_squad
from qdqbert.tasks.squad_features import SquadOptions, features_of

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.witness, pytest.mark.filterwarnings("ignore")]

if not transformers.__version__.startswith("4.39"):
    pytest.skip("the rules are those of transformers 4.39", allow_module_level=True)


@pytest.fixture(scope="module")
def theirs() -> Any:
    return transformers.BertTokenizerFast.from_pretrained(bundled_folder())


def random_items(generator: np.random.Generator, count: int, **labels: Any) -> list[dict[str, Any]]:
    items = []
    for _ in range(count):
        length = int(generator.integers(2, 20))
        items.append(
            {
                "input_ids": [2, *generator.integers(5, 4000, length - 2).tolist(), 3],
                "token_type_ids": generator.integers(0, 2, length).tolist(),
                **{key: make(generator, length) for key, make in labels.items()},
            }
        )
    return items


def assert_same(mine: dict[str, np.ndarray], their: dict[str, Any]) -> None:
    assert set(mine) == set(their)
    for key, values in their.items():
        assert mine[key].dtype == values.numpy().dtype, key
        assert mine[key].tolist() == values.tolist(), key


def one_class(generator: np.random.Generator, length: int) -> int:
    return int(generator.integers(3))


def one_number(generator: np.random.Generator, length: int) -> float:
    return float(np.float32(generator.normal()))


def numbers(generator: np.random.Generator, length: int) -> list[float]:
    return np.float32(generator.normal(size=4)).tolist()


def classes(generator: np.random.Generator, length: int) -> list[int]:
    return generator.integers(0, 9, length).tolist()


@pytest.mark.parametrize("make", [one_class, one_number, numbers])
@pytest.mark.parametrize("key", ["label", "labels", "start_positions"])
@pytest.mark.parametrize(
    "options", [{}, {"pad_to_multiple_of": 8}, {"padding": "max_length", "max_length": 32}]
)
def test_padding(tokenizer, theirs, make, key, options):
    generator = np.random.default_rng(1)
    for count in (1, 2, 5):
        items = random_items(generator, count, **{key: make})
        assert_same(
            ours.DataCollatorWithPadding(tokenizer, **options)(items),
            transformers.DataCollatorWithPadding(theirs, **options)(items),
        )


@pytest.mark.parametrize("make", [one_class, one_number, numbers])
@pytest.mark.parametrize("key", ["label", "labels", "label_ids"])
def test_default(make, key):
    generator = np.random.default_rng(2)
    if key == "label_ids" and make is not numbers:
        make = lambda generator, length: [one_class(generator, length)]  # noqa: E731
    if key == "label" and make is numbers:
        pytest.skip("a label is one number")
    items = [{"x": [1, 2, 3], "text": "t", "none": None, key: make(generator, 3)} for _ in range(4)]

    assert_same(ours.default_data_collator(items), transformers.default_data_collator(items))


@pytest.mark.parametrize("key", ["label", "labels"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_token_classification(tokenizer, theirs, key, side, monkeypatch):
    monkeypatch.setattr(tokenizer, "padding_side", side)
    monkeypatch.setattr(theirs, "padding_side", side)
    items = random_items(np.random.default_rng(3), 5, **{key: classes})
    options = {"label_pad_token_id": -7, "pad_to_multiple_of": 8}
    their = transformers.DataCollatorForTokenClassification(theirs, **options)(items)
    # There "label" stays, which no model takes.
    their["labels"] = their.pop(key)

    assert_same(ours.DataCollatorForTokenClassification(tokenizer, **options)(items), their)


def test_causal_language_modeling(tokenizer, theirs):
    items = random_items(np.random.default_rng(4), 5)

    assert_same(
        ours.DataCollatorForLanguageModeling(tokenizer, mlm=False)(items),
        transformers.DataCollatorForLanguageModeling(theirs, mlm=False)(items),
    )


def test_masked_language_modeling_of_everything(tokenizer, theirs):
    # With a probability of 1 only the replacements are random: labels, masks and types are not.
    items = random_items(np.random.default_rng(5), 5)
    mine = ours.DataCollatorForLanguageModeling(tokenizer, mlm_probability=1.0)(
        items, rng=np.random.default_rng(0)
    )
    their = transformers.DataCollatorForLanguageModeling(theirs, mlm_probability=1.0)(items)

    assert mine.pop("input_ids").shape == tuple(their.pop("input_ids").shape)
    assert_same(mine, their)


def test_arguments_and_defaults():
    import inspect

    for name in (
        "DataCollatorWithPadding",
        "DataCollatorForTokenClassification",
        "DataCollatorForLanguageModeling",
        "DataCollatorForWholeWordMask",
        "DefaultDataCollator",
        "default_data_collator",
    ):
        mine = inspect.signature(getattr(ours, name)).parameters
        their = inspect.signature(getattr(transformers, name)).parameters
        known = [key for key in their if key not in ("return_tensors", "tf_experimental_compile")]
        positional = [
            key
            for key, each in mine.items()
            if each.kind is not each.KEYWORD_ONLY and key != "return_tensors"
        ]
        assert positional == known
        assert [mine[key].default for key in known] == [their[key].default for key in known]


def test_groups_of_length_pad_no_more():
    from transformers.trainer_pt_utils import get_length_grouped_indices

    generator = np.random.default_rng(6)
    lengths = np.minimum(generator.gamma(4.0, 40.0, 5003).astype(np.int64) + 8, 384)

    def padded(batches: list[Any]) -> int:
        return sum(len(batch) * int(lengths[batch].max()) for batch in batches)

    mine = their = 0
    for epoch in range(10):
        mine += padded(epoch_batches(5003, 16, seed=0, epoch=epoch, shuffle=True, lengths=lengths))
        torch.manual_seed(epoch)
        order = get_length_grouped_indices(lengths.tolist(), 16)
        their += padded([order[start : start + 16] for start in range(0, 5003, 16)])

    # One batch of 313 is drawn at random here, which costs at most 16 * 384 tokens.
    assert mine <= their + 10 * 16 * 384


@pytest.mark.shared
def test_labels_of_squad_are_those_of_the_original_example(shared):
    folder = shared("checkpoints", "minilm-squad")
    theirs = transformers.BertTokenizerFast.from_pretrained(folder)
    examples = read_squad(shared("data", "squad", "train-du44-v1.1.json")).examples
    compared = 0
    windows = features_of(examples, theirs.backend_tokenizer, SquadOptions())
    for example, features in zip(examples, windows, strict=True):
        encoding = theirs(example.question, example.context, return_offsets_mapping=True)
        if len(features) > 1 or len(encoding["input_ids"]) > 384:
            continue  # their windows overlap by doc_stride, ours start every doc_stride
        assert encoding["input_ids"] == features[0].input_ids.tolist()
        assert original_positions(example, encoding) == answer_positions(features[0])
        compared += 1
    assert compared > 11_000


def original_positions(example: Any, encoding: Any) -> tuple[int, int]:
    """Positions by the rule of run_qa.py, for a paragraph in one window."""
    text, begin = example.answers[0]
    end = begin + len(text)
    tokens = [place for place, part in enumerate(encoding.sequence_ids()) if part == 1]
    offsets = encoding["offset_mapping"]
    first = max(place for place in tokens if offsets[place][0] <= begin)
    last = min(place for place in tokens if offsets[place][1] >= end)
    return first, last
