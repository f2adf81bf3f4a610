# SPDX-License-Identifier: Apache-2.0
"""Accuracy, F1 and Matthews' correlation of predicted classes.

Values are scikit-learn's, on degenerate inputs too: an F1 with nothing to find and nothing found is 0, and so
is Matthews' correlation when all labels or all predictions are of one class.  scikit-learn warns there; here
these are the documented values.

References
----------
Matthews, 1975, "Comparison of the predicted and observed secondary structure of T4 phage lysozyme";
Gorodkin, 2004, "Comparing two K-category assignments by a K-category correlation coefficient" (the form for
more than two classes).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from qdqbert.tasks.metrics.statistic import Floats, Mean, Statistic, divide

__all__ = ["F1", "Matthews", "accuracy", "correct_mean", "f1", "matthews_correlation"]

_AVERAGES = ("binary", "macro", "micro", "weighted")


def accuracy(labels: npt.ArrayLike, predicted: npt.ArrayLike) -> float:
    """Share of items whose class is right.

    Parameters
    ----------
    labels, predicted : array (N,)
        Classes: integers or texts.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError
        If they are not two vectors of one length >= 1, or hold numbers that are no integers.

    Examples
    --------
    >>> accuracy([0, 1, 1, 2], [0, 1, 2, 2])
    0.75
    """
    return correct_mean(labels, predicted).value()


def correct_mean(labels: npt.ArrayLike, predicted: npt.ArrayLike) -> Mean:
    """Accuracy as a `Statistic`.

    Parameters
    ----------
    labels, predicted
        As in `accuracy`, errors too.
    """
    first, second = _as_classes(labels, predicted)
    return Mean(first == second)


def f1(
    labels: npt.ArrayLike,
    predicted: npt.ArrayLike,
    *,
    average: str = "binary",
    positive: Any = 1,
    classes: npt.ArrayLike | None = None,
) -> float:
    """F1: the harmonic mean of precision and recall.

    Parameters
    ----------
    labels, predicted : array (N,)
        Classes: integers or texts.
    average : {"binary", "macro", "micro", "weighted"}
        ``"binary"`` is the F1 of the class `positive`; ``"macro"`` the mean over classes; ``"micro"`` counts
        hits and misses of all classes together; ``"weighted"`` the mean over classes by their share of
        `labels`.
    positive : int or str
        Used by ``"binary"`` only.
    classes : array (K,), optional
        The classes averaged over; by default those that occur in `labels` or `predicted`.  Not for
        ``"binary"``.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError
        As in `accuracy`; if `average` is unknown; and for ``"binary"`` if there are more than two classes or
        `positive` is none of the two.

    Examples
    --------
    >>> f1([0, 1, 1, 1], [0, 1, 0, 1])
    0.8
    """
    return F1(labels, predicted, average=average, positive=positive, classes=classes).value()


def matthews_correlation(labels: npt.ArrayLike, predicted: npt.ArrayLike) -> float:
    """Matthews' correlation: that of labels and predictions as indicator variables.

    Parameters
    ----------
    labels, predicted : array (N,)
        Classes: integers or texts; two or more.

    Returns
    -------
    float
        In [-1, 1]; 0 if all labels or all predictions are of one class.

    Raises
    ------
    ValueError
        As in `accuracy`.

    Examples
    --------
    >>> matthews_correlation([0, 1, 0, 1], [1, 0, 1, 0])
    -1.0
    """
    return Matthews(labels, predicted).value()


class _ClassCounts(Statistic):
    """Hits, predictions and labels of each class, as indicator columns (N, 3 K)."""

    def __init__(
        self, labels: npt.ArrayLike, predicted: npt.ArrayLike, classes: npt.ArrayLike | None
    ) -> None:
        first, second = _as_classes(labels, predicted)
        self.size: int = first.size
        names = np.unique(np.concatenate([first, second])) if classes is None else np.asarray(classes)
        self._classes = names
        gold, found = first[:, None] == names[None], second[:, None] == names[None]
        self._columns = np.concatenate([gold & found, found, gold], axis=1).astype(np.float64)

    def _sums(self, counts: Floats) -> tuple[Floats, Floats, Floats]:
        """Hits, predictions and labels, each (R, K)."""
        hits, found, gold = np.split(counts @ self._columns, 3, axis=1)
        return hits, found, gold


class F1(_ClassCounts):
    """F1 as a `Statistic`.

    Parameters
    ----------
    labels, predicted, average, positive, classes
        As in `f1`, errors too.
    """

    def __init__(
        self,
        labels: npt.ArrayLike,
        predicted: npt.ArrayLike,
        *,
        average: str = "binary",
        positive: Any = 1,
        classes: npt.ArrayLike | None = None,
    ) -> None:
        if average not in _AVERAGES:
            raise ValueError(f"average: expected one of {', '.join(_AVERAGES)}, found {average!r}")
        self._average = average
        self._all_classes = classes is not None
        if average == "binary":
            if classes is not None:
                raise ValueError("classes: not for average='binary', which looks at `positive` alone")
            present = np.unique(np.concatenate(_as_classes(labels, predicted)))
            if present.size > 2:
                raise ValueError(
                    f"average: 'binary' needs two classes, found {present.size}; "
                    "choose 'macro', 'micro' or 'weighted'"
                )
            if present.size == 2 and positive not in present.tolist():
                raise ValueError(f"positive: expected one of {present.tolist()}, found {positive!r}")
            classes = np.array([positive])
        super().__init__(labels, predicted, classes)

    def __call__(self, counts: Floats) -> Floats:
        """F1 of the counted items."""
        hits, found, gold = self._sums(counts)
        if self._average == "micro":
            return divide(2 * hits.sum(axis=1), (found + gold).sum(axis=1))
        scores = divide(2 * hits, found + gold)
        if self._average == "binary":
            return scores[:, 0]
        if self._average == "weighted":
            return divide((scores * gold).sum(axis=1), gold.sum(axis=1))
        # A class that a resample does not hold is not averaged over, as if its file had been scored.
        occurs = np.ones_like(found) if self._all_classes else ((found + gold) > 0).astype(np.float64)
        return divide((scores * occurs).sum(axis=1), occurs.sum(axis=1))


class Matthews(_ClassCounts):
    """Matthews' correlation as a `Statistic`.

    Parameters
    ----------
    labels, predicted
        As in `matthews_correlation`, errors too.
    """

    def __init__(self, labels: npt.ArrayLike, predicted: npt.ArrayLike) -> None:
        super().__init__(labels, predicted, None)

    def __call__(self, counts: Floats) -> Floats:
        """Correlation over the counted items."""
        hits, found, gold = self._sums(counts)
        total = counts.sum(axis=1)
        covariance = hits.sum(axis=1) * total - (found * gold).sum(axis=1)
        of_found = total**2 - (found**2).sum(axis=1)
        of_gold = total**2 - (gold**2).sum(axis=1)
        return divide(covariance, np.sqrt(of_found * of_gold))


def _as_classes(labels: npt.ArrayLike, predicted: npt.ArrayLike) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    first, second = np.asarray(labels), np.asarray(predicted)
    if first.ndim != 1 or first.shape != second.shape or first.size == 0:
        raise ValueError(
            f"labels, predicted: expected two vectors of one length, "
            f"found shapes {first.shape} and {second.shape}"
        )
    for name, values in (("labels", first), ("predicted", second)):
        if values.dtype.kind == "f" and not np.array_equal(values, np.rint(values)):
            raise ValueError(f"{name}: expected classes, found numbers that are no integers")
        if values.dtype.kind not in "biufU":
            raise ValueError(f"{name}: expected integers or texts, found {values.dtype}")
    if (first.dtype.kind == "U") != (second.dtype.kind == "U"):
        raise ValueError("labels, predicted: expected one kind of classes, found numbers and texts")
    return first, second
