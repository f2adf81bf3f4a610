# SPDX-License-Identifier: Apache-2.0
"""Models whose weights are written by hand, so that every answer, and every score, is known.

The vocabulary has `WORDS`.  Word number k owns hidden components 2 k and 2 k + 1, where its embedding is +1
and -1 unless a model says otherwise: LayerNorm then has nothing to subtract and only scales, and a single
word's components become +-sqrt(H / 2).  Queries and keys are zero, so that attention is the mean over the
tokens; feed-forward layers add nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

import qdqbert

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = (
    *SPECIAL,
    *("good", "bad", "red", "green", "blue", "##ish", "alice", "smith", "paris", ".", ","),
)
V = len(WORDS)
H = 2 * V
SCALE = float(np.sqrt(H / 2))  # of a lone word's components after LayerNorm
ID = {word: number for number, word in enumerate(WORDS)}


def config(**changes: Any) -> Any:
    """Configuration: one layer, one head of all components, no nonlinearity but the pooler's tanh."""
    fields = {
        "vocab_size": V,
        "hidden_size": H,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 3,
        "hidden_act": "linear",
        "max_position_embeddings": 24,
        "pad_token_id": 0,
    }
    return qdqbert.QDQBertConfig(**(fields | changes))


def embeddings() -> np.ndarray:
    """Word embeddings: each word's own pair of components."""
    table = np.zeros((V, H), np.float32)
    table[np.arange(V), 2 * np.arange(V)] = 1.0
    table[np.arange(V), 2 * np.arange(V) + 1] = -1.0
    return table


def build(name: str, weights: dict[str, Any], **changes: Any) -> Any:
    """Model of a class: zeros, LayerNorms that change nothing, and the given tensors."""
    model = getattr(qdqbert, name)(config(**changes))
    state = {}
    for key, value in model.named_parameters():
        fill = 1.0 if key.endswith("LayerNorm.weight") else 0.0
        state[key] = np.full(value.shape, fill, np.float32)
    unknown = set(weights) - set(state)
    assert not unknown, unknown
    for key, value in weights.items():
        state[key] = np.asarray(value, np.float32).reshape(state[key].shape)
    model.load_state_dict(state, strict=False)
    return model


def word_reader(head: str, name: str, rows: dict[str, list[float]], **changes: Any) -> Any:
    """Model that answers for each token by its word alone: class c gets `rows[word][c]` times 2 SCALE."""
    classes = len(next(iter(rows.values())))
    weight = np.zeros((classes, H))
    for word, values in rows.items():
        weight[:, 2 * ID[word]] = values
        weight[:, 2 * ID[word] + 1] = -np.array(values)
    return build(
        name,
        {"bert.embeddings.word_embeddings.weight": embeddings(), f"{head}.weight": weight},
        id2label={number: f"LABEL_{number}" for number in range(classes)},
        **changes,
    )


def mood_reader(head: str, name: str, signs: list[float], **changes: Any) -> Any:
    """Model whose logit c grows with signs[c] `mood`.

    "good" and "bad" have opposite embeddings. Attention hands [CLS] the mean (g - b) / T of them, and of
    itself 1 / T, which makes 1 + 1 / T of its own components. LayerNorm only scales the two together, so that
    what is left to see is their ratio, (g - b) / (T + 1).
    """
    table = np.zeros((V, H))
    table[ID["good"], 2 * ID["good"] : 2 * ID["good"] + 2] = [1.0, -1.0]
    table[ID["bad"], 2 * ID["good"] : 2 * ID["good"] + 2] = [-1.0, 1.0]
    table[ID["[CLS]"], 2 * ID["[CLS]"] : 2 * ID["[CLS]"] + 2] = [1.0, -1.0]
    weight = np.zeros((len(signs), H))
    weight[:, 2 * ID["good"]] = signs
    layer = "bert.encoder.layer.0.attention"
    return build(
        name,
        {
            "bert.embeddings.word_embeddings.weight": table,
            f"{layer}.self.value.weight": np.eye(H),
            f"{layer}.output.dense.weight": np.eye(H),
            "bert.pooler.dense.weight": 0.2 * np.eye(H),
            f"{head}.weight": weight,
        },
        **changes,
    )


def successor_model(name: str, after: dict[str, str], sharpness: float = 1.0, **changes: Any) -> Any:
    """Language model that expects one word after (or in place of) each: logit 2 SCALE `sharpness`, others 0.

    Parameters
    ----------
    after : dict
        Word to word; words that are not named expect themselves.
    """
    move = np.zeros((H, H))
    for word in WORDS:
        target = ID[after.get(word, word)]
        for part in (0, 1):
            move[2 * target + part, 2 * ID[word] + part] = 1.0
    return build(
        name,
        {
            "bert.embeddings.word_embeddings.weight": embeddings(),
            "cls.predictions.transform.dense.weight": move,
            "cls.predictions.transform.LayerNorm.weight": np.full(H, sharpness),
        },
        **changes,
    )


def unigram_model(name: str, probabilities: dict[str, float], **changes: Any) -> Any:
    """Language model that does not look: each word always has the probability given (they sum to 1)."""
    bias = np.full(V, -1e4)
    for word, probability in probabilities.items():
        bias[ID[word]] = np.log(probability)
    return build(name, {"cls.predictions.bias": bias}, **changes)


def write_tokenizer(folder: Path, **extra: Any) -> Path:
    """Write vocab.txt and tokenizer_config.json of `WORDS`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True, **extra}))
    return folder


def mood(text: str, pair: str | None = None) -> float:
    """(good - bad) / (T + 1) of a text or a pair, by counting its words; T includes [CLS] and [SEP]."""
    words = [*text.split(), *(pair or "").split()]
    tokens = len(words) + (2 if pair is None else 3)
    return (words.count("good") - words.count("bad")) / (tokens + 1)
