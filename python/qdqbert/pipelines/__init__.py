# SPDX-License-Identifier: Apache-2.0
"""Pipelines: a model, its tokenizer, and what stands before and after them, for one task each.

`pipeline` makes one by the name of its task.  Inputs, options and results are transformers'.
"""

from qdqbert.pipelines.base import Pipeline, PipelineException
from qdqbert.pipelines.feature_extraction import FeatureExtractionPipeline
from qdqbert.pipelines.fill_mask import FillMaskPipeline
from qdqbert.pipelines.loading import pipeline
from qdqbert.pipelines.multiple_choice import MultipleChoicePipeline
from qdqbert.pipelines.next_sentence_prediction import NextSentencePredictionPipeline
from qdqbert.pipelines.question_answering import QuestionAnsweringPipeline
from qdqbert.pipelines.sentence_embedding import SentenceEmbeddingPipeline
from qdqbert.pipelines.text_classification import TextClassificationPipeline
from qdqbert.pipelines.text_generation import TextGenerationPipeline
from qdqbert.pipelines.token_classification import TokenClassificationPipeline
from qdqbert.pipelines.zero_shot_classification import ZeroShotClassificationPipeline

__all__ = [
    "FeatureExtractionPipeline",
    "FillMaskPipeline",
    "MultipleChoicePipeline",
    "NextSentencePredictionPipeline",
    "Pipeline",
    "PipelineException",
    "QuestionAnsweringPipeline",
    "SentenceEmbeddingPipeline",
    "TextClassificationPipeline",
    "TextGenerationPipeline",
    "TokenClassificationPipeline",
    "ZeroShotClassificationPipeline",
    "pipeline",
]
