# SPDX-License-Identifier: Apache-2.0
"""Hostile arguments for decoders, generation, heads and surgery: a result, or a sentence and no trace."""

from __future__ import annotations

import os
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from test_hostile_arguments import SENTENCES, objects

import qdqbert
import tiny_model
from qdqbert import _core

CALLS = int(os.environ.get("QDQBERT_FUZZ", "4000")) // 4
IDS = np.array([[1, 2, 3], [4, 5, 6]])
STATES = np.ones((2, 4, 24), np.float32)
NUMBERS = (
    0,
    1,
    2,
    3,
    5,
    7,
    -1,
    2**31,
    2**63,
    0.0,
    0.5,
    1.5,
    float("nan"),
    float("inf"),
    True,
    None,
    "x",
    [1],
    [],
)


class Caller:
    """A decoder with cross-attention, one model of each other kind, and the ways to call them."""

    def __init__(self) -> None:
        fields = {"is_decoder": True, "add_cross_attention": True, "max_position_embeddings": 16}
        self.config = tiny_model.config(**fields)
        self.model = qdqbert.QDQBertLMHeadModel(self.config, seed=0)
        inputs = {"input_ids": IDS, "encoder_hidden_states": STATES}
        qdqbert.calibrate(self.model, [inputs], method="max", progress=False)
        self.heads = [
            getattr(qdqbert, f"QDQBertFor{stem}")(tiny_model.config(), seed=0)
            for stem in ("MaskedLM", "NextSentencePrediction", "MultipleChoice", "TokenClassification")
        ]
        self.past = self.model(**inputs).past_key_values
        self.generator = np.random.default_rng(int(os.environ.get("QDQBERT_FUZZ_SEED", "29")))
        self.objects = objects()

    def any(self) -> Any:
        return self.objects[int(self.generator.integers(len(self.objects)))]

    def some(self, usual: Any) -> Any:
        return self.any() if not self.generator.integers(4) else usual

    def number(self, usual: Any) -> Any:
        if self.generator.integers(3):
            return usual
        return NUMBERS[int(self.generator.integers(len(NUMBERS)))]

    def cache(self) -> Any:
        """A cache in which something may be wrong."""
        layers = [list(layer) for layer in self.past]
        match int(self.generator.integers(6)):
            case 0:
                return self.any()
            case 1:
                layers[int(self.generator.integers(2))] = self.any()
            case 2:
                layers[int(self.generator.integers(2))][int(self.generator.integers(4))] = self.any()
            case 3:
                del layers[int(self.generator.integers(2))][int(self.generator.integers(4))]
            case 4:
                place = int(self.generator.integers(4))
                layers[1][place] = layers[1][place][:, :, : int(self.generator.integers(4))]
        return layers

    def ways(self) -> list[Callable[[], Any]]:
        some, number = self.some, self.number
        core = self.model._engine.core
        session = _core.Session(
            core, max_sequences=2, max_length=4, max_past=8, max_encoder_length=6, keep_probabilities=True
        )
        names = ("head_mask", "token_type_ids", "position_ids", "use_cache", "output_attentions", "labels")

        def arguments() -> dict[str, Any]:
            return {name: self.any() for name in names if not self.generator.integers(8)}

        def head(index: int) -> Any:
            ids = IDS[:, None] if index == 2 else IDS
            return self.heads[index](some(ids), labels=some(None), **arguments())

        def forward() -> Any:
            keys = [some(layer[0]) for layer in self.past]
            values = [some(layer[1]) for layer in self.past]
            cross = [some(layer[2]) for layer in self.past]
            return session.forward(
                some(IDS), None, some(None), some(None), some(None), some(None),
                bool(self.generator.integers(2)), bool(self.generator.integers(2)),
                some(keys), some(values), some(STATES), some(None), some(None), some(cross),
                int(self.generator.integers(128)), some(None),
            )  # fmt: skip

        def surgery(operation: Callable[[Any], Any]) -> Any:
            model = qdqbert.QDQBertForMaskedLM(tiny_model.config(), seed=0)
            before = model([[1, 2]]).logits
            try:
                return operation(model)
            except SENTENCES:
                assert np.array_equal(model([[1, 2]]).logits, before)
                raise

        def generate() -> Any:
            return self.model.generate(
                some(IDS),
                attention_mask=some(None),
                max_new_tokens=number(3),
                num_beams=number(1),
                num_return_sequences=number(1),
                do_sample=bool(self.generator.integers(2)),
                temperature=number(1.0),
                top_k=number(50),
                top_p=number(1.0),
                repetition_penalty=number(1.0),
                no_repeat_ngram_size=number(0),
                length_penalty=number(1.0),
                early_stopping=number(False),
                eos_token_id=number(2),
                pad_token_id=number(0),
                min_length=number(0),
                seed=number(1),
                encoder_hidden_states=some(STATES),
            )

        return [
            lambda: self.model(some(IDS), past_key_values=self.cache(), encoder_hidden_states=STATES),
            lambda: self.model(IDS, past_key_values=self.cache(), attention_mask=some(None), **arguments()),
            lambda: self.model(
                IDS, encoder_hidden_states=some(STATES), encoder_attention_mask=some(None), **arguments()
            ),
            lambda: self.model._reorder_cache(self.past, some([1, 0])),
            lambda: self.model.prepare_inputs_for_generation(some(IDS), some(self.past), some(None)),
            forward,
            generate,
            generate,
            lambda: head(0),
            lambda: head(1),
            lambda: head(2),
            lambda: head(3),
            lambda: surgery(lambda model: model.resize_token_embeddings(number(54), number(None))),
            lambda: surgery(lambda model: model.prune_heads({number(0): some([1]), 1: self.any()})),
            lambda: surgery(lambda model: model.prune_heads(self.any())),
            lambda: surgery(lambda model: model.set_input_embeddings(self.any())),
            lambda: surgery(lambda model: model.set_output_embeddings(self.any())),
        ]


def test_hostile_arguments_are_refused_by_a_sentence() -> None:
    caller = Caller()
    inputs = {"input_ids": IDS, "encoder_hidden_states": STATES}
    expected = caller.model(**inputs).logits.copy()
    ways = caller.ways()
    defects, refused = [], 0
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for index in range(CALLS):
            try:
                ways[index % len(ways)]()
            except SENTENCES as error:
                refused += 1
                if not str(error):
                    defects.append(f"way {index % len(ways)}: {type(error).__name__} without a sentence")
            except BaseException as error:
                place = traceback.extract_tb(error.__traceback__)[-1]
                defects.append(f"way {index % len(ways)}: {error!r:.120} at {place.filename}:{place.lineno}")
    assert not defects, f"{len(defects)} defects\n" + "\n".join(sorted(set(defects))[:40])
    assert CALLS // 4 < refused < CALLS  # hostile, and yet some calls go through
    assert caller.model(**inputs).logits.tobytes() == expected.tobytes()
