# SPDX-License-Identifier: Apache-2.0
"""`pipeline`: from the name of a task and of a model to something that can be called."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, overload

from qdqbert import auto
from qdqbert.auto import MODEL_CLASSES, refuse_other_kinds
from qdqbert.configuration_qdqbert import QDQBertConfig
from qdqbert.device import Device
from qdqbert.errors import CheckpointError, UnsupportedError
from qdqbert.modeling_base import QDQBertPreTrainedModel
from qdqbert.pipelines.base import Pipeline
from qdqbert.tokenization import BertTokenizerFast

if TYPE_CHECKING:
    from qdqbert.pipelines.feature_extraction import FeatureExtractionPipeline
    from qdqbert.pipelines.fill_mask import FillMaskPipeline
    from qdqbert.pipelines.multiple_choice import MultipleChoicePipeline
    from qdqbert.pipelines.next_sentence_prediction import NextSentencePredictionPipeline
    from qdqbert.pipelines.question_answering import QuestionAnsweringPipeline
    from qdqbert.pipelines.sentence_embedding import SentenceEmbeddingPipeline
    from qdqbert.pipelines.text_classification import TextClassificationPipeline
    from qdqbert.pipelines.text_generation import TextGenerationPipeline
    from qdqbert.pipelines.token_classification import TokenClassificationPipeline
    from qdqbert.pipelines.zero_shot_classification import ZeroShotClassificationPipeline

__all__ = ["ALIASES", "TASKS", "pipeline"]

# Task -> module and class.
TASKS = {
    "feature-extraction": ("feature_extraction", "FeatureExtractionPipeline"),
    "fill-mask": ("fill_mask", "FillMaskPipeline"),
    "multiple-choice": ("multiple_choice", "MultipleChoicePipeline"),
    "next-sentence-prediction": ("next_sentence_prediction", "NextSentencePredictionPipeline"),
    "question-answering": ("question_answering", "QuestionAnsweringPipeline"),
    "sentence-embedding": ("sentence_embedding", "SentenceEmbeddingPipeline"),
    "text-classification": ("text_classification", "TextClassificationPipeline"),
    "text-generation": ("text_generation", "TextGenerationPipeline"),
    "token-classification": ("token_classification", "TokenClassificationPipeline"),
    "zero-shot-classification": ("zero_shot_classification", "ZeroShotClassificationPipeline"),
}
ALIASES = {
    "ner": "token-classification",
    "next-sentence": "next-sentence-prediction",
    "sentiment-analysis": "text-classification",
}
# What a model is for if nobody says.
_TASK_OF_CLASS = {
    "QDQBertForMaskedLM": "fill-mask",
    "QDQBertForMultipleChoice": "multiple-choice",
    "QDQBertForNextSentencePrediction": "next-sentence-prediction",
    "QDQBertForQuestionAnswering": "question-answering",
    "QDQBertForSequenceClassification": "text-classification",
    "QDQBertForTokenClassification": "token-classification",
    "QDQBertLMHeadModel": "text-generation",
    "QDQBertModel": "feature-extraction",
}

# Heads whose weights are of no use to another: some even have the same names.
_CLASSIFIERS = {
    "BertForMultipleChoice",
    "BertForQuestionAnswering",
    "BertForSequenceClassification",
    "BertForTokenClassification",
}

_HUB = ("revision", "token", "cache_dir", "local_files_only", "subfolder")

Model = str | os.PathLike[str] | QDQBertPreTrainedModel


@overload
def pipeline(
    task: Literal["feature-extraction"], model: Model, **kwargs: Any
) -> FeatureExtractionPipeline: ...
@overload
def pipeline(task: Literal["fill-mask"], model: Model, **kwargs: Any) -> FillMaskPipeline: ...
@overload
def pipeline(task: Literal["multiple-choice"], model: Model, **kwargs: Any) -> MultipleChoicePipeline: ...
@overload
def pipeline(
    task: Literal["next-sentence-prediction", "next-sentence"], model: Model, **kwargs: Any
) -> NextSentencePredictionPipeline: ...
@overload
def pipeline(
    task: Literal["question-answering"], model: Model, **kwargs: Any
) -> QuestionAnsweringPipeline: ...
@overload
def pipeline(
    task: Literal["sentence-embedding"], model: Model, **kwargs: Any
) -> SentenceEmbeddingPipeline: ...
@overload
def pipeline(
    task: Literal["text-classification", "sentiment-analysis"], model: Model, **kwargs: Any
) -> TextClassificationPipeline: ...
@overload
def pipeline(task: Literal["text-generation"], model: Model, **kwargs: Any) -> TextGenerationPipeline: ...
@overload
def pipeline(
    task: Literal["token-classification", "ner"], model: Model, **kwargs: Any
) -> TokenClassificationPipeline: ...
@overload
def pipeline(
    task: Literal["zero-shot-classification"], model: Model, **kwargs: Any
) -> ZeroShotClassificationPipeline: ...
@overload
def pipeline(task: str | None = None, model: Model | None = None, **kwargs: Any) -> Pipeline[Any]: ...


def pipeline(
    task: str | None = None,
    model: Model | None = None,
    *,
    config: QDQBertConfig | str | os.PathLike[str] | None = None,
    tokenizer: BertTokenizerFast | str | os.PathLike[str] | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    device: Device | str | int | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Pipeline[Any]:
    """Make a pipeline for a task.

    Parameters
    ----------
    task : str, optional
        "feature-extraction", "fill-mask", "multiple-choice", "next-sentence-prediction" ("next-sentence"),
        "question-answering", "sentence-embedding", "text-classification" ("sentiment-analysis"),
        "text-generation", "token-classification" ("ner") or "zero-shot-classification"; what the model is for
        if left out.
    model : QDQBertPreTrainedModel, str or path
        A model, a folder, or the name of a repository.
    config : QDQBertConfig or path, optional
        Instead of the one beside the weights.
    tokenizer : BertTokenizerFast, str or path, optional
        The one beside the model if left out.
    revision, token
        As in ``huggingface_hub``.
    device : Device, "cpu" or -1, optional
        Where a model that is loaded runs.
    model_kwargs : mapping, optional
        Further arguments of ``from_pretrained``.  Those about the hub and `subfolder` hold for the tokenizer
        too, `subfolder` only if it is the one beside the model.
    **kwargs
        ``batch_size``, ``progress``, and options of the task; see its class in `qdqbert.pipelines`.

    Returns
    -------
    Pipeline
        Called with an input, a list of them, or an iterator.

    Raises
    ------
    ValueError
        If there is no model, the task is unknown, or nothing says which it is.
    CheckpointError
        If files are missing or damaged, or the weights have no head for the task.
    TypeError
        If a model has another head than the task needs, or for an unknown option.

    Notes
    -----
    A model without calibrated ranges quantizes dynamically, as QDQBERT does: see `qdqbert.calibrate`, and
    ``qdqbert.quantizers(model, {"*": "off"})`` for its float results.

    Examples
    --------
    >>> from qdqbert.cli.demo import bundled_folder
    >>> classify = pipeline("text-classification", bundled_folder())
    >>> classify("Chopin wrote for the piano.")[0]["label"]
    'Frédéric_Chopin'
    """
    if model is None:
        raise ValueError("model: expected a model, a folder or the name of a repository, got None")
    hub: dict[str, Any] = {"revision": revision, "token": token}
    if isinstance(model, QDQBertPreTrainedModel):
        if model_kwargs or config is not None or device not in (None, "cpu", -1, model.device):
            raise ValueError("config, device, model_kwargs: are about loading, and the model is here already")
        task = task or _task([kind.__name__ for kind in type(model).__mro__])
        kind = pipeline_class(task)
        loaded, source = model, model.name_or_path
    else:
        source = os.fspath(model)
        options = {**hub, **(model_kwargs or {})}
        # Where its files are is said once: the configuration and the tokenizer are beside the weights.
        hub = {name: options[name] for name in _HUB if name in options}
        refuse_other_kinds(source, "pipeline", options)
        if config is not None:
            options["config"] = config
        architectures = _configuration(source, config, hub).architectures or []
        kind = pipeline_class(task or _task(architectures))
        held = [name.removeprefix("QDQ") for name in architectures]
        if kind.auto_class == "AutoModel":
            # Features do not pass the pooler, which models with some heads do not have.
            options.setdefault("add_pooling_layer", "BertModel" in held)
        elif _CLASSIFIERS.intersection(held) and _head_of(kind) not in held:
            raise CheckpointError(
                f"{source}: {kind.task} needs a {_head_of(kind)}; this is {' and '.join(held)}"
            )
        loaded = _load(kind, source, _device(device), options)
    if not isinstance(tokenizer, BertTokenizerFast):
        found = source if tokenizer is None else os.fspath(tokenizer)
        if not found:
            raise ValueError("tokenizer: expected one, since the model does not come from a folder")
        beside = hub if tokenizer is None else {**hub, "subfolder": ""}
        tokenizer = BertTokenizerFast.from_pretrained(found, **beside)
    return kind(loaded, tokenizer, **kwargs)


def pipeline_class(task: str) -> type[Pipeline[Any]]:
    """Return the class of a task.

    Parameters
    ----------
    task : str
        A key of `TASKS` or `ALIASES`.

    Raises
    ------
    ValueError
        For another.
    """
    name = ALIASES.get(task, task)
    if name not in TASKS:
        raise ValueError(f"task: expected one of {', '.join(sorted({*TASKS, *ALIASES}))}, got {task!r}")
    module, found = TASKS[name]
    kind: type[Pipeline[Any]] = getattr(importlib.import_module(f"qdqbert.pipelines.{module}"), found)
    return kind


def _configuration(
    source: str, config: QDQBertConfig | str | os.PathLike[str] | None, hub: Mapping[str, Any]
) -> QDQBertConfig:
    if isinstance(config, QDQBertConfig):
        return config
    if config is None:
        return auto.AutoConfig.from_pretrained(source, **hub)
    return auto.AutoConfig.from_pretrained(config, **{**hub, "subfolder": ""})


def _task(architectures: list[str]) -> str:
    """Return what a model is for."""
    names = [name if name.startswith("QDQ") else f"QDQ{name}" for name in architectures]
    found = next((_TASK_OF_CLASS[name] for name in names if name in _TASK_OF_CLASS), None)
    if found is None:
        raise ValueError(
            f"task: expected one of {', '.join(TASKS)}: the model's architectures ({architectures}) do not "
            "say what it is for"
        )
    return found


def _load(
    kind: type[Pipeline[Any]], source: str, device: Device | None, options: Mapping[str, Any]
) -> QDQBertPreTrainedModel:
    """Load the model that a task needs, and refuse one whose weights are not all there."""
    loaded: QDQBertPreTrainedModel
    loaded, info = getattr(auto, kind.auto_class).from_pretrained(
        source, device=device, output_loading_info=True, **options
    )
    missing = info["missing_keys"]
    if missing:
        held = " and ".join(loaded.config.architectures or ["a model of no named architecture"])
        raise CheckpointError(
            f"{source}: {kind.task} needs a {_head_of(kind)}; this is {held}, without "
            f"{', '.join(missing[:3])}"
        )
    return loaded


def _head_of(kind: type[Pipeline[Any]]) -> str:
    """Return the class that a task needs, by the name that checkpoints have."""
    return MODEL_CLASSES[kind.auto_class].removeprefix("QDQ")


def _device(device: Device | str | int | None) -> Device | None:
    if device is None or isinstance(device, Device):
        return device
    if device in ("cpu", -1):
        return None
    raise UnsupportedError(
        f"device: expected a Device, 'cpu' or -1, got {device!r}; there is no other backend"
    )
