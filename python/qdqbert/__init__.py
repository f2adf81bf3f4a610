# SPDX-License-Identifier: Apache-2.0
"""Quantized BERT without PyTorch: load, calibrate, quantize, evaluate, save.

Names are those of the originals: the models of transformers' QDQBERT at the top level, the toolkit of
pytorch-quantization below ``nn``, ``calib`` and ``tensor_quant``. Everything is loaded on first use, so that
``import qdqbert`` costs little more than ``import numpy``.

Examples
--------
>>> from importlib.resources import files
>>> import qdqbert
>>> folder = files("qdqbert") / "demo" / "topics-tiny"
>>> model = qdqbert.QDQBertForSequenceClassification.from_pretrained(folder)
>>> texts = qdqbert.BertTokenizerFast.from_pretrained(folder)(["Who built it?", "When?"], padding=True)
>>> calibration = qdqbert.calibrate(model, [texts])
>>> model(**texts).logits.shape
(2, 44)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as _numpy  # noqa: F401  (the one eager dependency: a broken NumPy should fail here and say so)

__version__ = "0.1.0"

# public name -> module that defines it; modules map to themselves
_HOMES = {
    "BackendError": "errors",
    "CheckpointError": "errors",
    "Error": "errors",
    "NonFiniteError": "errors",
    "OutOfScopeError": "errors",
    "RuleError": "errors",
    "ShapeError": "errors",
    "StateError": "errors",
    "UnsupportedError": "errors",
    "QDQBertConfig": "configuration_qdqbert",
    "QDQBERT_PRETRAINED_CONFIG_ARCHIVE_MAP": "configuration_qdqbert",
    "QDQBERT_PRETRAINED_MODEL_ARCHIVE_LIST": "modeling_qdqbert",
    "QDQBertForMaskedLM": "modeling_qdqbert",
    "QDQBertForMultipleChoice": "modeling_qdqbert",
    "QDQBertForNextSentencePrediction": "modeling_qdqbert",
    "QDQBertForQuestionAnswering": "modeling_qdqbert",
    "QDQBertForSequenceClassification": "modeling_qdqbert",
    "QDQBertForTokenClassification": "modeling_qdqbert",
    "QDQBertLMHeadModel": "modeling_qdqbert",
    "QDQBertLayer": "modeling_qdqbert",
    "QDQBertModel": "modeling_qdqbert",
    "QDQBertPreTrainedModel": "modeling_qdqbert",
    "load_tf_weights_in_qdqbert": "modeling_qdqbert",
    "AutoConfig": "auto",
    "AutoModel": "auto",
    "AutoModelForCausalLM": "auto",
    "AutoModelForMaskedLM": "auto",
    "AutoModelForMultipleChoice": "auto",
    "AutoModelForNextSentencePrediction": "auto",
    "AutoModelForQuestionAnswering": "auto",
    "AutoModelForSequenceClassification": "auto",
    "AutoModelForTokenClassification": "auto",
    "AutoModelWithLMHead": "auto",
    "AutoTokenizer": "auto",
    "BatchEncoding": "tokenization",
    "BertTokenizer": "tokenization",
    "BertTokenizerFast": "tokenization",
    "GenerationConfig": "generation",
    "pipeline": "pipelines",
    "Calibration": "calibration",
    "Explanation": "explanation",
    "explain": "explanation",
    "Distillation": "distillation",
    "Loss": "loss",
    "calibrate": "calibration",
    "EarlyStoppingCallback": "training",
    "EvalPrediction": "training",
    "JsonLinesCallback": "training",
    "PrinterCallback": "training",
    "ProgressCallback": "training",
    "QuantizationAware": "training",
    "Trainer": "training",
    "TrainerCallback": "training",
    "TrainerControl": "training",
    "TrainerState": "training",
    "TrainingArguments": "training",
    "plot_history": "training",
    "quantizers": "rules",
    "deactivate": "quant_modules",
    "enable_onnx_export": "quant_modules",
    "initialize": "quant_modules",
    "Device": "device",
    "get_num_threads": "device",
    "set_num_threads": "device",
}
_MODULES = (
    "calib",
    "cuda_ext",
    "data",
    "errors",
    "generation",
    "nn",
    "onnx",
    "optim",
    "pipelines",
    "quant_modules",
    "tasks",
    "tensor_quant",
    "training",
    "utils",
)

if TYPE_CHECKING:
    from qdqbert import calib as calib
    from qdqbert import cuda_ext as cuda_ext
    from qdqbert import data as data
    from qdqbert import errors as errors
    from qdqbert import generation as generation
    from qdqbert import nn as nn
    from qdqbert import onnx as onnx
    from qdqbert import optim as optim
    from qdqbert import pipelines as pipelines
    from qdqbert import quant_modules as quant_modules
    from qdqbert import tasks as tasks
    from qdqbert import tensor_quant as tensor_quant
    from qdqbert import training as training
    from qdqbert import utils as utils
    from qdqbert.auto import AutoConfig as AutoConfig
    from qdqbert.auto import AutoModel as AutoModel
    from qdqbert.auto import AutoModelForCausalLM as AutoModelForCausalLM
    from qdqbert.auto import AutoModelForMaskedLM as AutoModelForMaskedLM
    from qdqbert.auto import AutoModelForMultipleChoice as AutoModelForMultipleChoice
    from qdqbert.auto import AutoModelForNextSentencePrediction as AutoModelForNextSentencePrediction
    from qdqbert.auto import AutoModelForQuestionAnswering as AutoModelForQuestionAnswering
    from qdqbert.auto import AutoModelForSequenceClassification as AutoModelForSequenceClassification
    from qdqbert.auto import AutoModelForTokenClassification as AutoModelForTokenClassification
    from qdqbert.auto import AutoModelWithLMHead as AutoModelWithLMHead
    from qdqbert.auto import AutoTokenizer as AutoTokenizer
    from qdqbert.calibration import Calibration as Calibration
    from qdqbert.calibration import calibrate as calibrate
    from qdqbert.configuration_qdqbert import (
        QDQBERT_PRETRAINED_CONFIG_ARCHIVE_MAP as QDQBERT_PRETRAINED_CONFIG_ARCHIVE_MAP,
    )
    from qdqbert.configuration_qdqbert import QDQBertConfig as QDQBertConfig
    from qdqbert.device import Device as Device
    from qdqbert.device import get_num_threads as get_num_threads
    from qdqbert.device import set_num_threads as set_num_threads
    from qdqbert.distillation import Distillation as Distillation
    from qdqbert.errors import BackendError as BackendError
    from qdqbert.errors import CheckpointError as CheckpointError
    from qdqbert.errors import Error as Error
    from qdqbert.errors import NonFiniteError as NonFiniteError
    from qdqbert.errors import OutOfScopeError as OutOfScopeError
    from qdqbert.errors import RuleError as RuleError
    from qdqbert.errors import ShapeError as ShapeError
    from qdqbert.errors import StateError as StateError
    from qdqbert.errors import UnsupportedError as UnsupportedError
    from qdqbert.explanation import Explanation as Explanation
    from qdqbert.explanation import explain as explain
    from qdqbert.generation import GenerationConfig as GenerationConfig
    from qdqbert.loss import Loss as Loss
    from qdqbert.modeling_qdqbert import (
        QDQBERT_PRETRAINED_MODEL_ARCHIVE_LIST as QDQBERT_PRETRAINED_MODEL_ARCHIVE_LIST,
    )
    from qdqbert.modeling_qdqbert import QDQBertForMaskedLM as QDQBertForMaskedLM
    from qdqbert.modeling_qdqbert import QDQBertForMultipleChoice as QDQBertForMultipleChoice
    from qdqbert.modeling_qdqbert import QDQBertForNextSentencePrediction as QDQBertForNextSentencePrediction
    from qdqbert.modeling_qdqbert import QDQBertForQuestionAnswering as QDQBertForQuestionAnswering
    from qdqbert.modeling_qdqbert import QDQBertForSequenceClassification as QDQBertForSequenceClassification
    from qdqbert.modeling_qdqbert import QDQBertForTokenClassification as QDQBertForTokenClassification
    from qdqbert.modeling_qdqbert import QDQBertLayer as QDQBertLayer
    from qdqbert.modeling_qdqbert import QDQBertLMHeadModel as QDQBertLMHeadModel
    from qdqbert.modeling_qdqbert import QDQBertModel as QDQBertModel
    from qdqbert.modeling_qdqbert import QDQBertPreTrainedModel as QDQBertPreTrainedModel
    from qdqbert.modeling_qdqbert import load_tf_weights_in_qdqbert as load_tf_weights_in_qdqbert
    from qdqbert.pipelines import pipeline as pipeline
    from qdqbert.quant_modules import deactivate as deactivate
    from qdqbert.quant_modules import enable_onnx_export as enable_onnx_export
    from qdqbert.quant_modules import initialize as initialize
    from qdqbert.rules import quantizers as quantizers
    from qdqbert.tokenization import BatchEncoding as BatchEncoding
    from qdqbert.tokenization import BertTokenizer as BertTokenizer
    from qdqbert.tokenization import BertTokenizerFast as BertTokenizerFast
    from qdqbert.training import EarlyStoppingCallback as EarlyStoppingCallback
    from qdqbert.training import EvalPrediction as EvalPrediction
    from qdqbert.training import JsonLinesCallback as JsonLinesCallback
    from qdqbert.training import PrinterCallback as PrinterCallback
    from qdqbert.training import ProgressCallback as ProgressCallback
    from qdqbert.training import QuantizationAware as QuantizationAware
    from qdqbert.training import Trainer as Trainer
    from qdqbert.training import TrainerCallback as TrainerCallback
    from qdqbert.training import TrainerControl as TrainerControl
    from qdqbert.training import TrainerState as TrainerState
    from qdqbert.training import TrainingArguments as TrainingArguments
    from qdqbert.training import plot_history as plot_history
else:  # a type checker reads the imports above, and should go on refusing names that do not exist
    __all__ = ["__version__", *_HOMES, *_MODULES]

    def __getattr__(name: str) -> Any:
        """Load a public name on first use (PEP 562)."""
        if name in _MODULES:
            return importlib.import_module(f"qdqbert.{name}")
        if name in _HOMES:
            value = getattr(importlib.import_module(f"qdqbert.{_HOMES[name]}"), name)
            globals()[name] = value
            return value
        raise AttributeError(f"module 'qdqbert' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted(__all__)
