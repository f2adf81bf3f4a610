# SPDX-License-Identifier: Apache-2.0
"""Metrics: functions that score predictions, and the statistics behind them, which can be resampled.

Functions give shares (in [0, 1], correlations in [-1, 1]) as scikit-learn, scipy and seqeval do, and the same
numbers; the tasks print percent.
"""

from qdqbert.tasks.metrics.classification import (
    F1,
    Matthews,
    accuracy,
    correct_mean,
    f1,
    matthews_correlation,
)
from qdqbert.tasks.metrics.correlation import Pearson, Spearman, pearson, spearman
from qdqbert.tasks.metrics.entities import (
    Entity,
    EntityCounts,
    EntityScores,
    EntityStatistic,
    count_entities,
    entities_of,
    entity_scores,
)
from qdqbert.tasks.metrics.language_model import Perplexity, perplexity
from qdqbert.tasks.metrics.statistic import Mean, Ratio, Statistic

__all__ = [
    "F1",
    "Entity",
    "EntityCounts",
    "EntityScores",
    "EntityStatistic",
    "Matthews",
    "Mean",
    "Pearson",
    "Perplexity",
    "Ratio",
    "Spearman",
    "Statistic",
    "accuracy",
    "correct_mean",
    "count_entities",
    "entities_of",
    "entity_scores",
    "f1",
    "matthews_correlation",
    "pearson",
    "perplexity",
    "spearman",
]
