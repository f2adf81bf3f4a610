# SPDX-License-Identifier: Apache-2.0
"""The models, under the name of the module that has them in transformers.

Signatures, defaults and outputs are those of transformers' QDQBERT; arrays are NumPy's.  Three things are
decided differently, and on purpose:

- ``model.padding``: positions whose ``attention_mask`` is 0 are not computed and read as zero (``"skip"``).
  The original computes them, lets them into its statistics and then nobody uses them; ``"compute"`` does the
  same.
- Models are in evaluation mode from the start, also when they are not loaded; ``train()`` switches.
- Fresh weights come from a seed, parameter by parameter.
"""

from __future__ import annotations

from qdqbert.configuration_qdqbert import _ARCHIVES
from qdqbert.modeling_base import QDQBertPreTrainedModel
from qdqbert.modeling_checkpoint import load_tf_weights_in_qdqbert
from qdqbert.modeling_heads import (
    QDQBertForMultipleChoice,
    QDQBertForNextSentencePrediction,
    QDQBertForQuestionAnswering,
    QDQBertForSequenceClassification,
    QDQBertForTokenClassification,
)
from qdqbert.modeling_language import QDQBertForMaskedLM, QDQBertLMHeadModel
from qdqbert.modeling_model import QDQBertModel
from qdqbert.modeling_tree import QDQBertAttention as QDQBertAttention
from qdqbert.modeling_tree import QDQBertEmbeddings as QDQBertEmbeddings
from qdqbert.modeling_tree import QDQBertEncoder as QDQBertEncoder
from qdqbert.modeling_tree import QDQBertIntermediate as QDQBertIntermediate
from qdqbert.modeling_tree import QDQBertLayer
from qdqbert.modeling_tree import QDQBertLMPredictionHead as QDQBertLMPredictionHead
from qdqbert.modeling_tree import QDQBertOnlyMLMHead as QDQBertOnlyMLMHead
from qdqbert.modeling_tree import QDQBertOnlyNSPHead as QDQBertOnlyNSPHead
from qdqbert.modeling_tree import QDQBertOutput as QDQBertOutput
from qdqbert.modeling_tree import QDQBertPooler as QDQBertPooler
from qdqbert.modeling_tree import QDQBertPredictionHeadTransform as QDQBertPredictionHeadTransform
from qdqbert.modeling_tree import QDQBertSelfAttention as QDQBertSelfAttention
from qdqbert.modeling_tree import QDQBertSelfOutput as QDQBertSelfOutput

# The parts of a model are named for isinstance() and annotations, as in transformers; public is what follows.
__all__ = [
    "QDQBERT_PRETRAINED_MODEL_ARCHIVE_LIST",
    "QDQBertForMaskedLM",
    "QDQBertForMultipleChoice",
    "QDQBertForNextSentencePrediction",
    "QDQBertForQuestionAnswering",
    "QDQBertForSequenceClassification",
    "QDQBertForTokenClassification",
    "QDQBertLMHeadModel",
    "QDQBertLayer",
    "QDQBertModel",
    "QDQBertPreTrainedModel",
    "load_tf_weights_in_qdqbert",
]

QDQBERT_PRETRAINED_MODEL_ARCHIVE_LIST = list(_ARCHIVES)
