# SPDX-License-Identifier: Apache-2.0
"""Record what transformers 4.39.3 answers to `squad_cases.json`; makes `squad_answers.json`.

    python record_answers.py path/to/topics-tiny

Needs transformers 4.39.3 (without PyTorch).  Logits are small multiples of 1/2 from a seeded generator, so
that equal scores are common and the order of equals is recorded too.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from transformers import BertTokenizer
from transformers.data.metrics.squad_metrics import compute_predictions_logits
from transformers.data.processors.squad import (
    SquadV2Processor,
    squad_convert_example_to_features,
    squad_convert_example_to_features_init,
)

HERE = Path(__file__).resolve().parent
MAX_SEQ_LENGTH, DOC_STRIDE, MAX_QUERY_LENGTH, N_BEST, MAX_ANSWER_LENGTH = 64, 24, 20, 12, 8


def logits(index: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Start and end logits of the window of a number; the tests make the same ones."""
    generator = np.random.default_rng([2021, index])
    return tuple((generator.integers(-12, 13, size=length) / 2).astype(np.float32) for _ in range(2))


def main(folder: str) -> None:
    tokenizer = BertTokenizer.from_pretrained(folder)
    squad_convert_example_to_features_init(tokenizer)
    examples = SquadV2Processor().get_dev_examples(str(HERE), filename="squad_cases.json")
    features, results = [], []
    for number, example in enumerate(examples):
        for feature in squad_convert_example_to_features(
            example, MAX_SEQ_LENGTH, DOC_STRIDE, MAX_QUERY_LENGTH, "do_not_pad", False
        ):
            feature.example_index, feature.unique_id = number, len(features)
            start, end = logits(len(features), len(feature.input_ids))
            features.append(feature)
            results.append(
                SimpleNamespace(
                    unique_id=feature.unique_id, start_logits=start.tolist(), end_logits=end.tolist()
                )
            )
    recorded = {
        "features": [
            {
                "id": examples[feature.example_index].qas_id,
                "input_ids": list(feature.input_ids),
                "token_type_ids": list(feature.token_type_ids),
                "is_max_context": [
                    position for position, best in sorted(feature.token_is_max_context.items()) if best
                ],
            }
            for feature in features
        ]
    }
    for name, negative in (("v1.1", False), ("v2.0", True)):
        with tempfile.TemporaryDirectory() as scratch:
            paths = [f"{scratch}/{part}.json" for part in ("predictions", "n_best", "null_odds")]
            compute_predictions_logits(
                examples,
                features,
                results,
                N_BEST,
                MAX_ANSWER_LENGTH,
                True,
                *paths,
                False,
                negative,
                -20.0,
                tokenizer,
            )
            recorded[name] = {
                Path(path).stem: json.loads(Path(path).read_text()) for path in paths if Path(path).exists()
            }
    (HERE / "squad_answers.json").write_text(json.dumps(recorded, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
