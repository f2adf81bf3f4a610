# SPDX-License-Identifier: Apache-2.0
"""`pipeline`: tasks by name, by model and by architecture, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import qdqbert
from qdqbert import CheckpointError, UnsupportedError, pipeline
from qdqbert.auto import MODEL_CLASSES
from qdqbert.cli.demo import bundled_folder
from qdqbert.pipelines.loading import ALIASES, TASKS, pipeline_class


@pytest.fixture
def saved(tiny, tokenizer, tmp_path):
    """Save a model with the bundled tokenizer in a folder."""

    def save(name, **fields):
        folder = tmp_path / name
        tiny(name, **fields).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return save


@pytest.mark.parametrize("task", sorted(TASKS))
def test_every_task_loads_its_model_and_tokenizer_from_a_folder(saved, task):
    kind = pipeline_class(task)

    pipe = pipeline(task, saved(MODEL_CLASSES[kind.auto_class]), batch_size=3)

    assert type(pipe) is kind
    assert (pipe.task, pipe.batch_size) == (task, 3)
    assert type(pipe.model).__name__ == MODEL_CLASSES[kind.auto_class]
    assert len(pipe.tokenizer) == 4000


@pytest.mark.parametrize("alias", sorted(ALIASES))
def test_other_names_of_tasks(alias):
    assert pipeline_class(alias) is pipeline_class(ALIASES[alias])


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("QDQBertForMaskedLM", "fill-mask"),
        ("QDQBertForMultipleChoice", "multiple-choice"),
        ("QDQBertForNextSentencePrediction", "next-sentence-prediction"),
        ("QDQBertForQuestionAnswering", "question-answering"),
        ("QDQBertForSequenceClassification", "text-classification"),
        ("QDQBertForTokenClassification", "token-classification"),
        ("QDQBertLMHeadModel", "text-generation"),
        ("QDQBertModel", "feature-extraction"),
    ],
)
def test_a_model_says_what_it_is_for(saved, tiny, tokenizer, name, task):
    assert pipeline(model=saved(name)).task == task
    assert pipeline(model=tiny(name), tokenizer=tokenizer).task == task


def test_features_come_from_any_checkpoint(saved, caplog):
    pipe = pipeline("feature-extraction", saved("QDQBertForQuestionAnswering"))

    assert len(pipe("it")[0]) == 3
    assert not [record for record in caplog.records if "newly initialized" in record.getMessage()]


def test_a_model_and_its_tokenizer_can_be_given(tiny, tokenizer):
    model = tiny("QDQBertForSequenceClassification")

    pipe = pipeline("text-classification", model, tokenizer=tokenizer, device=model.device)

    assert pipe.model is model
    assert pipe.tokenizer is tokenizer
    assert pipeline("sentiment-analysis", model, tokenizer=bundled_folder()).tokenizer.vocab_size == 4000


def test_a_loaded_model_knows_its_tokenizer():
    model = qdqbert.AutoModelForSequenceClassification.from_pretrained(bundled_folder())

    assert pipeline(model=model)("it")[0]["label"] in model.config.id2label.values()


def test_options_of_loading_reach_the_loader(saved):
    folder = saved("QDQBertForSequenceClassification", num_labels=2)
    config = qdqbert.QDQBertConfig.from_pretrained(folder)
    config.id2label = {0: "no", 1: "yes"}

    pipe = pipeline("text-classification", folder, config=config, model_kwargs={"padding": "compute"})

    assert pipe.model.padding == "compute"
    assert pipe("it")[0]["label"] in ("no", "yes")


def test_a_subfolder_holds_configuration_weights_and_tokenizer(saved, tokenizer):
    folder = saved("QDQBertForTokenClassification")
    inside = {"model_kwargs": {"subfolder": folder.name}}

    pipe = pipeline(model=folder.parent, **inside)
    with_own = pipeline(model=folder.parent, tokenizer=str(folder), config=str(folder), **inside)

    assert pipe.task == with_own.task == "token-classification"
    assert pipe.tokenizer.get_vocab() == with_own.tokenizer.get_vocab() == tokenizer.get_vocab()


def test_a_subclass_of_a_model_is_one(tiny, tokenizer):
    class Mine(qdqbert.QDQBertForTokenClassification):
        pass

    model = Mine(tiny("QDQBertForTokenClassification").config, seed=4)

    assert pipeline(model=model, tokenizer=tokenizer).task == "token-classification"
    with pytest.raises(TypeError, match="fill-mask needs a QDQBertForMaskedLM, got Mine"):
        pipeline("fill-mask", model=model, tokenizer=tokenizer)


@pytest.mark.parametrize(
    "task", ["question-answering", "token-classification", "fill-mask", "multiple-choice"]
)
def test_another_head_is_refused_even_if_its_weights_have_the_same_names(task):
    with pytest.raises(CheckpointError, match=rf"{task} needs a Bert\w+; this is BertForSequenceClassif"):
        pipeline(task, bundled_folder())


@pytest.mark.parametrize(
    "task", ["question-answering", "token-classification", "fill-mask", "text-generation"]
)
def test_a_head_that_was_never_trained_is_refused(saved, task):
    with pytest.raises(CheckpointError, match=rf"{task} needs a Bert\w+; this is BertModel, without \w+"):
        pipeline(task, saved("QDQBertModel"))


def test_a_checkpoint_of_pre_training_serves_both_its_tasks(saved):
    folder = saved("QDQBertForMaskedLM")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["BertForPreTraining"]}))

    assert len(pipeline("fill-mask", folder)("[MASK]")) == 5


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"task": "fill-mask"}, ValueError, "model: expected a model"),
        (
            {"task": "summarization", "model": bundled_folder()},
            ValueError,
            "task: expected one of .*fill-mask",
        ),
        ({"model": bundled_folder(), "device": "cuda"}, UnsupportedError, "device: expected a Device"),
        ({"model": bundled_folder(), "device": 0}, UnsupportedError, "device: expected a Device"),
        ({"model": bundled_folder(), "torch_dtype": "auto"}, TypeError, "unknown option 'torch_dtype'"),
    ],
)
def test_what_cannot_be_made(keywords, error, message):
    with pytest.raises(error, match=message):
        pipeline(**keywords)


def test_a_model_in_memory_needs_a_tokenizer_and_takes_no_options_of_loading(tiny, tokenizer):
    model = tiny("QDQBertForSequenceClassification")

    with pytest.raises(ValueError, match="tokenizer: expected one"):
        pipeline(model=model)
    with pytest.raises(ValueError, match="config, device, model_kwargs: are about loading"):
        pipeline(model=model, tokenizer=tokenizer, model_kwargs={"padding": "skip"})
    with pytest.raises(TypeError, match="model: fill-mask needs a QDQBertForMaskedLM"):
        pipeline("fill-mask", model, tokenizer=tokenizer)


def test_other_kinds_of_models_are_refused(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "roberta", "architectures": ["RobertaModel"]})
    )

    with pytest.raises(CheckpointError, match="pipeline reads BERT; this is RobertaModel"):
        pipeline("feature-extraction", tmp_path)


def test_a_folder_that_does_not_say_what_it_is_for(saved):
    folder = saved("QDQBertModel")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["BertForPreTraining"]}))

    with pytest.raises(ValueError, match=r"BertForPreTraining.*do not say what it is for"):
        pipeline(model=folder)


def test_importing_the_package_loads_no_pipeline():
    program = (
        "import sys, qdqbert; qdqbert.__all__; "
        "print([n for n in sys.modules if 'pipelines' in n or n == 'tokenizers'])"
    )

    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert process.stdout.strip() == "[]"
