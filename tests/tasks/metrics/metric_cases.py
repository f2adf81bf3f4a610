# SPDX-License-Identifier: Apache-2.0
"""Predictions that metrics are compared on: seeded random ones, and degenerate ones by hand."""

from __future__ import annotations

import numpy as np

Classes = tuple[list[int], list[int]]
Numbers = tuple[list[float], list[float]]
Tagged = tuple[list[list[str]], list[list[str]]]

KINDS = ("person", "creative-work", "group")


def class_cases() -> dict[str, Classes]:
    """Labels and predictions."""
    cases: dict[str, Classes] = {
        "one item, right": ([1], [1]),
        "one item, wrong": ([1], [0]),
        "all right": ([0, 1, 1, 0], [0, 1, 1, 0]),
        "all wrong": ([0, 1, 1, 0], [1, 0, 0, 1]),
        "constant predictions": ([0, 1, 1, 0, 1], [1, 1, 1, 1, 1]),
        "constant labels": ([1, 1, 1], [0, 1, 0]),
        "both constant, equal": ([1, 1], [1, 1]),
        "both constant, negative": ([0, 0, 0], [0, 0, 0]),
        "both constant, different": ([0, 0, 0], [1, 1, 1]),
        "a class never predicted": ([0, 1, 2, 2], [0, 1, 1, 0]),
        "a class never there": ([0, 1, 1, 0], [0, 1, 2, 2]),
        "classes with gaps": ([7, -3, 7, 100], [7, -3, 100, 100]),
    }
    generator = np.random.default_rng(20)
    for index, (size, classes) in enumerate([(2, 2), (7, 2), (64, 2), (311, 2), (9, 3), (97, 5), (501, 44)]):
        labels = generator.integers(0, classes, size)
        is_kept = generator.random(size) < 0.6
        predicted = np.where(is_kept, labels, generator.integers(0, classes, size))
        cases[f"random {index}: {size} of {classes}"] = (labels.tolist(), predicted.tolist())
    return cases


def number_cases() -> dict[str, Numbers]:
    """Pairs of vectors."""
    cases: dict[str, Numbers] = {
        "two pairs, up": ([1.0, 2.0], [3.0, 9.0]),
        "two pairs, down": ([1.0, 2.0], [9.0, 3.0]),
        "a line": ([0.0, 1.0, 2.0, 3.0], [1.0, 3.0, 5.0, 7.0]),
        "constant predictions": ([0.0, 1.0, 2.0, 3.0], [2.5, 2.5, 2.5, 2.5]),
        "constant labels": ([0.1, 0.1, 0.1], [1.0, 2.0, 3.0]),
        "one differs": ([0.1, 0.1, 0.1, 0.2], [1.0, 2.0, 3.0, 3.5]),
        "all tied but two": ([1.0, 1.0, 1.0, 2.0], [4.0, 4.0, 3.0, 3.0]),
        "zeros of both signs": ([0.0, -0.0, 1.0, 0.0], [1.0, 2.0, 3.0, 4.0]),
        "large offset": ([1e9 + 1.0, 1e9 + 2.0, 1e9 + 4.0], [3.0, 5.0, 4.0]),
        "tiny": ([1e-160, 3e-160, 2e-160, 9e-160], [2.0, 1.0, 5.0, 7.0]),
    }
    generator = np.random.default_rng(21)
    for index, (size, decimals) in enumerate([(3, 2), (10, 1), (57, 0), (200, 1), (1500, 2)]):
        x = np.round(generator.uniform(0, 5, size), decimals)
        y = np.round(0.6 * x + generator.normal(0, 1, size), decimals)
        cases[f"random {index}: {size} with {decimals} decimals"] = (x.tolist(), y.tolist())
    return cases


def tag_cases(prefixes: str = "BI") -> dict[str, Tagged]:
    """Gold and predicted tags.

    Parameters
    ----------
    prefixes : str
        Letters beside O that tags begin with.
    """
    cases: dict[str, Tagged] = {
        "no entity at all": ([["O", "O"], ["O"]], [["O", "O"], ["O"]]),
        "none predicted": ([["B-person", "I-person", "O"]], [["O", "O", "O"]]),
        "none there": ([["O", "O", "O"]], [["B-person", "O", "I-group"]]),
        "end of sentence closes": ([["O", "B-person"], ["I-person"]], [["O", "B-person"], ["I-person"]]),
        "I after O": ([["O", "B-group", "I-group"]], [["O", "I-group", "I-group"]]),
        "I of another type": ([["B-group", "I-group", "O"]], [["B-group", "I-person", "O"]]),
        "I after I of another type": ([["B-group", "B-person"]], [["I-group", "I-person"]]),
        "B after B": ([["B-group", "B-group"]], [["B-group", "I-group"]]),
        "no type": ([["B", "I", "O", "B"]], [["B", "I", "O", "I"]]),
        "type with hyphens": ([["B-creative-work", "I-creative-work"]], [["B-creative-work", "I-creative"]]),
        "hyphens at the ends of a type": (
            [["B--group", "I-group", "O", "B-group-"]],
            [["B-group", "I-group", "O", "B-group"]],
        ),
        "a sentence without words": ([[], ["B-person"]], [[], ["B-person"]]),
    }
    generator = np.random.default_rng(22)
    tags = ["O", "O", *(f"{prefix}-{kind}" for prefix in prefixes for kind in KINDS)]
    for index, sentences in enumerate((1, 4, 19, 60)):
        gold, predicted = [], []
        for length in generator.integers(1, 17, sentences):
            words = [tags[i] for i in generator.integers(0, len(tags), length)]
            changed = generator.random(length) < 0.3
            other = [tags[i] for i in generator.integers(0, len(tags), length)]
            gold.append(words)
            predicted.append([b if c else a for a, b, c in zip(words, other, changed, strict=True)])
        cases[f"random {index}: {sentences} sentences of {prefixes}"] = (gold, predicted)
    return cases
