# SPDX-License-Identifier: Apache-2.0
"""Whether ONNX Runtime computes, on real questions, the codes that the model's quantizers give.

minilm-squad is calibrated (percentile 99.99, 128 training questions) and exported.  ONNX Runtime then runs
windows of real questions, node by node and with its optimizer on (exact kernels of 8 bits), and returns
what goes into every QuantizeLinear and the codes that come out.  For each site the quantizer of the model is
given the same numbers.  The file divides by a rounded scale where the model multiplies by a rounded factor,
so codes may differ where the quotient is a tie but for rounding, and nowhere else; this counts

- codes that differ, of all, and by how many steps at most;
- those of them whose quotient is further from a tie than float32 rounding explains (must be none);
- weights whose codes differ (must be none).

A code that moved moves everything after it, so the logits of whole runs are compared too, by the file that
returns nothing else.  A difference of logits has no bound but that of the quantization itself; what is
printed is its distribution and how many answers (best start and end) differ.

    python benchmarks/export/bench_codes.py            about 10 minutes, 4 GB
"""

from __future__ import annotations

import pathlib
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import harness
import systems
from harness import require, shared

HEAD = "QDQBertForQuestionAnswering"
# Both quotients have two roundings of 2^-24, so each is within 2 * 2^-24 * 127.5 of the exact one.
TIE = 2.0**-16


# ---- the file, and its inner tensors -----------------------------------------------------------


def quantizers_of(proto: Any) -> dict[str, Any]:
    """QuantizeLinear nodes by the dotted name of their quantizer."""
    return {
        node.name.strip("/").removesuffix("/QuantizeLinear").replace("/", "."): node
        for node in proto.graph.node
        if node.op_type == "QuantizeLinear"
    }


def with_inner_tensors(path: pathlib.Path, target: pathlib.Path) -> dict[str, Any]:
    """Write the file again with the inputs and codes of its quantizers as outputs; the nodes by name."""
    onnx = require("onnx")
    proto = onnx.load(path)
    nodes = quantizers_of(proto)
    activations = {name: node for name, node in nodes.items() if not name.endswith("_weight_quantizer")}
    present = {each.name for each in proto.graph.output}
    for node in activations.values():
        for name, kind in ((node.input[0], onnx.TensorProto.FLOAT), (node.output[0], onnx.TensorProto.INT8)):
            if name not in present:
                present.add(name)
                proto.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, None))
    onnx.save(proto, target)
    return activations


def weights_that_differ(path: pathlib.Path, model: Any) -> int:
    """Codes stored in the file that are not those of the model's weight quantizers."""
    onnx = require("onnx")
    proto = onnx.load(path)
    constants = {each.name: each for each in proto.graph.initializer}
    modules = dict(model.named_modules())
    weights = dict(model.named_parameters())
    count = 0
    for node in proto.graph.node:
        name = node.name.strip("/").replace("/", ".")
        if node.op_type == "DequantizeLinear" and "_weight_quantizer" in name:
            name = name.removesuffix(".DequantizeLinear")
            codes = onnx.numpy_helper.to_array(constants[node.input[0]]).T
            quantizer = modules[name]
            values = quantizer(weights[name.removesuffix("._weight_quantizer") + ".weight"])
            factor = np.float32(127.0) / np.asarray(quantizer.amax, np.float32)
            count += int((np.rint(values * factor) != codes).sum())
    return count


# ---- counting ----------------------------------------------------------------------------------


def compare_codes(
    values: Mapping[str, NDArray[Any]], nodes: Mapping[str, Any], modules: Mapping[str, Any]
) -> dict[str, dict[str, float]]:
    """Count for each quantizer: codes, those that differ, the largest step, and those far from a tie."""
    counts = {}
    for name, node in nodes.items():
        x, codes = values[node.input[0]], values[node.output[0]].astype(np.float32)
        quantizer = modules[name]
        amax = np.float32(np.asarray(quantizer.amax).item())
        factor = np.float32(127.0) / amax
        expected = np.rint(quantizer(x) * factor)
        steps = np.abs(expected - codes)
        moved = steps > 0
        quotient = x[moved].astype(np.float64) * (127.0 / float(amax))
        distance = np.abs(quotient - np.floor(quotient) - 0.5)
        counts[name] = {
            "codes": int(codes.size),
            "moved": int(moved.sum()),
            "largest_step": float(steps.max(initial=0.0)),
            "not_a_tie": int((distance > TIE).sum()),
        }
    return counts


def add(total: dict[str, dict[str, float]], counts: Mapping[str, Mapping[str, float]]) -> None:
    """Add the counts of a text."""
    for name, found in counts.items():
        entry = total.setdefault(name, {"codes": 0, "moved": 0, "largest_step": 0.0, "not_a_tie": 0})
        for key in ("codes", "moved", "not_a_tie"):
            entry[key] += found[key]
        entry["largest_step"] = max(entry["largest_step"], found["largest_step"])


def windows(folder: str, count: int) -> Iterator[systems.Inputs]:
    """First windows of evenly spaced questions of the development set, one by one."""
    tokenizer = require("qdqbert.tokenization").load_tokenizer(folder)
    squad = require("qdqbert.tasks.squad")
    features = require("qdqbert.tasks.squad_features")
    examples = squad.read_squad(shared("data", "squad", "dev-v1.1.json")).examples
    step = max(len(examples) // count, 1)
    chosen = examples[::step][:count]
    for several in features.features_of(chosen, tokenizer, squad.SquadOptions()):
        ids, types = several[0].input_ids, several[0].token_type_ids
        yield {
            "input_ids": ids[None],
            "attention_mask": np.ones((1, len(ids)), np.int64),
            "token_type_ids": types[None],
        }


def run(arguments: Any, folder: str, work: pathlib.Path) -> dict[str, Any]:
    """Both settings of the optimizer on the same questions."""
    qdqbert, runtime = require("qdqbert"), require("qdqbert.onnx.runtime")
    model = systems.qdqbert_model(folder, arguments.threads, HEAD)
    task = require("qdqbert.tasks.squad").SQuAD.read(
        shared("data", "squad", "train-du44-v1.1.json"),
        qdqbert.AutoTokenizer.from_pretrained(folder),
        model.config,
    )
    qdqbert.calibrate(model, task.batches(samples=128), method="percentile", percentile=99.99)
    model.padding = "compute"
    path = work / "model.onnx"
    qdqbert.onnx.export(model, path, weights="int8")
    nodes = with_inner_tensors(path, work / "inner.onnx")
    modules = dict(model.named_modules())
    body: dict[str, Any] = {"weights_that_differ": weights_that_differ(path, model), "settings": {}}
    texts = list(windows(folder, arguments.questions))
    expected = [model(**inputs) for inputs in texts]
    for setting, optimizes in (("node by node", False), ("optimized", True)):
        inner = runtime.open_session(
            str(work / "inner.onnx"), optimizes=optimizes, num_threads=arguments.threads
        )
        names = [each.name for each in inner.get_outputs()]
        total: dict[str, dict[str, float]] = {}
        for inputs in texts[: arguments.inner]:
            values = dict(zip(names, inner.run(names, inputs), strict=True))
            add(total, compare_codes({**values, **inputs}, nodes, modules))
        del inner
        plain = runtime.OnnxRuntimeModel(path, optimizes=optimizes, num_threads=arguments.threads)
        largest, other_answers = [], 0
        started = time.perf_counter()
        for inputs, ours in zip(texts, expected, strict=True):
            theirs = plain(**inputs)
            pairs = [(theirs[name], ours[name]) for name in ("start_logits", "end_logits")]
            largest.append(max(float(np.abs(a - b).max()) for a, b in pairs))
            other_answers += any(int(a.argmax()) != int(b.argmax()) for a, b in pairs)
        body["settings"][setting] = {
            "seconds": time.perf_counter() - started,
            "sites": total,
            "logit_difference": harness.summary(largest),
            "other_answers": other_answers,
            "questions": len(texts),
        }
    body["largest_logit"] = max(float(np.abs(ours.start_logits).max()) for ours in expected)
    return body


def print_body(body: Mapping[str, Any]) -> None:
    """Print the counts."""
    print(f"\nweights whose codes differ: {body['weights_that_differ']}")
    lines = []
    for setting, found in body["settings"].items():
        sites = found["sites"].values()
        codes, moved = (sum(site[key] for site in sites) for key in ("codes", "moved"))
        difference = found["logit_difference"]
        lines.append(
            (
                setting,
                f"{codes:,}",
                f"{moved:,} ({moved / codes:.1e})",
                f"{max(site['largest_step'] for site in sites):.0f}",
                sum(site["not_a_tie"] for site in sites),
                f"{difference['p50']:.2g} / {difference['max']:.2g}",
                f"{found['other_answers']} of {found['questions']}",
            )
        )
    print(
        harness.table(
            lines,
            (
                "ONNX Runtime",
                "codes",
                "moved",
                "largest step",
                "moved and no tie",
                "logits, p50 / max",
                "other best token",
            ),
        )
    )
    print(f"largest logit: {body['largest_logit']:.3g}")


def main() -> None:
    """Run the benchmark."""
    parser = harness.parser(__doc__, "onnx_codes.json")
    parser.add_argument("--questions", type=int, default=500, help="whose logits are compared")
    parser.add_argument("--inner", type=int, default=100, help="whose codes are compared, the first of them")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.questions, arguments.inner = 3, 2

    facts = harness.machine_facts(("onnx", "onnxruntime"))
    harness.print_facts(facts)
    with tempfile.TemporaryDirectory(prefix="qdqbert-codes-") as name:
        body = run(arguments, str(shared("checkpoints", "minilm-squad")), pathlib.Path(name))
    print_body(body)
    harness.write_json(arguments.json, facts, body)


if __name__ == "__main__":
    main()
