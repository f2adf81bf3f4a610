# SPDX-License-Identifier: Apache-2.0
"""The Auto classes: which class they make, and what they refuse."""

from __future__ import annotations

import json

import numpy as np
import pytest

import qdqbert
import tiny_model
from qdqbert import CheckpointError, QDQBertConfig, UnsupportedError
from qdqbert.auto import MODEL_CLASSES
from qdqbert.cli.demo import bundled_folder

pytestmark = pytest.mark.filterwarnings("ignore:AutoModelWithLMHead is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A base model in a folder, as transformers' BERT writes it."""
    folder = tmp_path_factory.mktemp("bert")
    qdqbert.QDQBertModel(tiny_model.config(), seed=3).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({**config, "model_type": "bert", "architectures": ["BertModel"]})
    )
    return folder


def test_the_table_is_that_of_the_original():
    # transformers 4.39, models/auto, key "qdqbert"; there is no entry for pre-training.
    assert MODEL_CLASSES == {
        "AutoModel": "QDQBertModel",
        "AutoModelForCausalLM": "QDQBertLMHeadModel",
        "AutoModelForMaskedLM": "QDQBertForMaskedLM",
        "AutoModelForMultipleChoice": "QDQBertForMultipleChoice",
        "AutoModelForNextSentencePrediction": "QDQBertForNextSentencePrediction",
        "AutoModelForQuestionAnswering": "QDQBertForQuestionAnswering",
        "AutoModelForSequenceClassification": "QDQBertForSequenceClassification",
        "AutoModelForTokenClassification": "QDQBertForTokenClassification",
        "AutoModelWithLMHead": "QDQBertForMaskedLM",
    }


@pytest.mark.parametrize("name", sorted(MODEL_CLASSES))
def test_every_class_loads_its_model_around_the_base_of_a_checkpoint(name, checkpoint):
    auto = getattr(qdqbert, name)

    model = auto.from_pretrained(checkpoint)

    assert type(model) is getattr(qdqbert, MODEL_CLASSES[name])
    base = qdqbert.QDQBertModel.from_pretrained(checkpoint)
    word = "embeddings.word_embeddings.weight"
    np.testing.assert_array_equal(model.base_model.state_dict()[word], base.state_dict()[word])


@pytest.mark.parametrize("name", sorted(MODEL_CLASSES))
def test_every_class_makes_its_model_from_a_configuration(name):
    model = getattr(qdqbert, name).from_config(tiny_model.config(), seed=5)

    assert type(model) is getattr(qdqbert, MODEL_CLASSES[name])
    again = getattr(qdqbert, MODEL_CLASSES[name])(tiny_model.config(), seed=5)
    for key, value in again.state_dict().items():
        np.testing.assert_array_equal(model.state_dict()[key], value)


def test_keywords_reach_the_model(checkpoint):
    model, info = qdqbert.AutoModelForSequenceClassification.from_pretrained(
        checkpoint, num_labels=5, padding="compute", output_loading_info=True
    )

    assert (model.num_labels, model.padding) == (5, "compute")
    assert info["missing_keys"] == ["classifier.bias", "classifier.weight"]
    assert not hasattr(qdqbert.AutoModel.from_pretrained(checkpoint, add_pooling_layer=False), "pooler")
    with pytest.raises(TypeError, match="trust_remote_code"):
        qdqbert.AutoModel.from_pretrained(checkpoint, trust_remote_code=True)


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"model_type": "roberta", "architectures": ["RobertaForMaskedLM"]}, "RobertaForMaskedLM.*'roberta'"),
        ({"model_type": "albert"}, "'albert'"),
        ({"architectures": ["DistilBertModel"]}, "DistilBertModel"),
    ],
)
def test_another_kind_of_model_is_refused_with_what_it_is_and_what_can_be_read(tmp_path, config, found):
    (tmp_path / "config.json").write_text(json.dumps(config))

    with pytest.raises(
        CheckpointError, match=rf"AutoModelForMaskedLM reads BERT; this is .*{found}"
    ) as error:
        qdqbert.AutoModelForMaskedLM.from_pretrained(tmp_path)

    assert "'bert' and 'qdqbert'" in str(error.value)
    assert "BertForQuestionAnswering" in str(error.value)


def test_a_configuration_of_old_files_has_no_model_type(checkpoint, tmp_path):
    config = json.loads((checkpoint / "config.json").read_text())
    del config["model_type"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((checkpoint / "model.safetensors").read_bytes())

    assert isinstance(qdqbert.AutoModel.from_pretrained(tmp_path), qdqbert.QDQBertModel)


def test_configurations():
    config = qdqbert.AutoConfig.from_pretrained(bundled_folder(), num_hidden_layers=1)

    assert isinstance(config, QDQBertConfig)
    assert (config.num_hidden_layers, config.num_labels) == (1, 44)
    assert qdqbert.AutoConfig.for_model("bert", hidden_size=96).hidden_size == 96
    with pytest.raises(ValueError, match="model_type: 'gpt2' is not supported; supported are 'bert'"):
        qdqbert.AutoConfig.for_model("gpt2")


def test_tokenizers():
    tokenizer = qdqbert.AutoTokenizer.from_pretrained(bundled_folder(), model_max_length=9)

    assert isinstance(tokenizer, qdqbert.BertTokenizer)
    assert tokenizer.model_max_length == 9
    with pytest.raises(UnsupportedError, match="use_fast"):
        qdqbert.AutoTokenizer.from_pretrained(bundled_folder(), use_fast=False)


@pytest.mark.parametrize("name", ["AutoConfig", "AutoTokenizer", *MODEL_CLASSES])
def test_they_have_no_instances(name):
    with pytest.raises(OSError, match=rf"{name} has no instances: call {name}\.from_pretrained"):
        getattr(qdqbert, name)()


def test_the_oldest_name_warns(checkpoint):
    with pytest.warns(FutureWarning, match="use AutoModelForMaskedLM"):
        qdqbert.AutoModelWithLMHead.from_pretrained(checkpoint)
