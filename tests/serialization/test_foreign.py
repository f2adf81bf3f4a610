# SPDX-License-Identifier: Apache-2.0
"""What is no BERT, and what is no file of weights, is told by name."""

from __future__ import annotations

import pytest

from qdqbert.serialization.foreign_files import describe_foreign
from qdqbert.serialization.foreign_models import describe_foreign_model

FILES = {
    b"": "empty",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 5\n": "Git-LFS pointer",
    b"\x89HDF\r\n\x1a\n": "Keras",
    b"\x1f\x8b\x08\0": "gzip",
    b"BZh91AY": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!": "RAR",
    b"%PDF-1.7": "PDF",
    b"GGUF\x03": "GGUF",
    b"\x93NUMPY\x01": "NumPy",
    b"\x1c\0\0\0TFL3": "TensorFlow Lite",
    b"PK\x05\x06": "empty ZIP",
    b"PK\x03\x04": "ZIP archive",
    b"\0" * 257 + b"ustar" + b"\0" * 9: "tar archive, as PyTorch wrote before version 0.4",
    b"model".ljust(257, b"\0") + b"ustar\0": "tar archive",
    bytes(99): "filled with zeros",
    b"<!DOCTYPE html><html>": "a web page",
    b"  \n<HTML lang=en>": "a web page",
    b"\xef\xbb\xbf<?xml version='1.0'?><Error>": "a web page",
    b"\x10\0\0\0\0\0\0\0{\"x\":": "a safetensors file",
    b"\x80\x02}q\0.": "a Python pickle",
    b"\x84\xa7weights": "Flax",
    b'{"error": "Entry not found"}': "JSON text",
}  # fmt: skip


@pytest.mark.parametrize("head", FILES, ids=FILES.values())
def test_a_file_is_told_by_its_first_bytes(head: bytes) -> None:
    assert FILES[head] in str(describe_foreign(head))


@pytest.mark.parametrize("head", [b"anything else", b"\x01\x02", b"\x80", b"\x81", b"P"])
def test_what_is_not_known_is_not_guessed(head: bytes) -> None:
    assert describe_foreign(head) is None


MODELS = {
    "albert.encoder.albert_layer_groups.0.albert_layers.0.ffn.weight": "an ALBERT model",
    "encoder.albert_layer_groups.0.albert_layers.0.attention.key.weight": "an ALBERT model",
    "roberta.encoder.layer.0.attention.self.query.weight": "a RoBERTa model",
    "lm_head.dense.weight": "a RoBERTa model",
    "distilbert.transformer.layer.0.attention.q_lin.weight": "a DistilBERT model",
    "transformer.layer.0.attention.q_lin.weight": "a DistilBERT model",
    "electra.encoder.layer.0.attention.self.query.weight": "an ELECTRA model",
    "discriminator_predictions.dense.weight": "an ELECTRA model",
    "deberta.embeddings.LayerNorm.weight": "a DeBERTa model",
    "encoder.layer.0.attention.self.query_proj.weight": "a DeBERTa model",
    "mobilebert.embeddings.LayerNorm.weight": "a MobileBERT model",
    "encoder.layer.3.bottleneck.input.dense.weight": "a MobileBERT model",
    "bert.encoder.layer.0.attention.ln.weight": "a Megatron-BERT model",
    "mpnet.encoder.layer.0.attention.attn.q.weight": "an MPNet model",
    "model.layers.0.attn.Wqkv.weight": "ModernBERT",
    "bert.encoder.layers.0.mixer.Wqkv.weight": "flash-attn",
    "transformer.h.0.attn.c_attn.weight": "a GPT-2 model",
    "model.layers.0.self_attn.q_proj.weight": "LLaMA",
    "encoder.block.0.layer.0.SelfAttention.q.weight": "a T5 model",
    "transformer.layer.0.rel_attn.q": "an XLNet model",
    "attentions.0.q_lin.weight": "an XLM model",
    "base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.weight": "a LoRA adapter",
    "esm.embeddings.word_embeddings.weight": "an ESM model",
}


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_model_is_told_by_a_name(name: str) -> None:
    assert MODELS[name] in str(describe_foreign_model(["classifier.weight", name]))


@pytest.mark.parametrize(
    "name",
    [
        "bert.encoder.layer.0.attention.self.query.weight",
        "encoder.layer.11.output.LayerNorm.gamma",
        "embeddings.word_embeddings.weight",
        "bert.encoder.layer.0.crossattention.self.key.bias",
        "cls.predictions.transform.dense.weight",
        "cls.seq_relationship.weight",
        "qa_outputs.weight",
        "classifier.bias",
        "pooler.dense.weight",
        "bert.encoder.layer.1.attention.self.distance_embedding.weight",
        "bert.encoder.layer.0.attention.self.matmul_q_input_quantizer._amax",
    ],
)
def test_a_bert_is_not_taken_for_something_else(name: str) -> None:
    assert describe_foreign_model([name]) is None
