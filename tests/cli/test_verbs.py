# SPDX-License-Identifier: Apache-2.0
"""The verbs on the bundled classifier, and their JSON, whose keys scripts rely on."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

HEADER = {"command", "version", "status"}
ROW = {"score", "milliseconds_per_item", "metrics", "intervals"}


def test_info_of_a_float_checkpoint(qdqbert, topics):
    data = qdqbert("info", topics, "--json").data

    assert set(data) == HEADER | {
        *("folder", "model_type", "architectures", "task", "num_labels", "config", "parameters", "formats"),
        *("files", "quantizers"),
    }
    assert data["task"] == "classification"
    assert data["num_labels"] == 44
    assert data["parameters"] == 939_436
    assert data["formats"]["F16"]["bytes"] == 2 * 939_436
    assert (data["quantizers"]["expected"], data["quantizers"]["with_range"]) == (40, 0)
    text = qdqbert("info", topics).out
    assert "939,436 parameters" in text
    assert "a float checkpoint" in text


def test_info_of_a_calibrated_checkpoint_lists_ranges(qdqbert, quantized):
    data = qdqbert("info", quantized, "--json").data

    assert data["quantizers"]["with_range"] == 40
    weight = data["quantizers"]["ranges"]["bert.encoder.layer.1.output.dense._weight_quantizer"]
    assert weight["elements"] == 128
    assert 0 < weight["min"] <= weight["max"]
    assert "layer.*.attention.self.matmul_a_input_quantizer" in qdqbert("info", quantized).out
    assert "layer.1.attention.self.matmul_a_input_quantizer" in qdqbert("info", quantized, "--all").out


def with_config(folder, **changes):
    """Change fields of a folder's config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_info_counts_the_quantizers_of_cross_attention(qdqbert, tmp_path):
    from qdqbert import QDQBertLMHeadModel
    from tiny_model import config

    model = QDQBertLMHeadModel(config(is_decoder=True, add_cross_attention=True))
    model.save_pretrained(tmp_path)

    found = qdqbert("info", tmp_path, "--json").data["quantizers"]["expected"]

    assert found == len(model._engine.core.quantizers()) == 68


def test_info_says_once_that_all_quantizers_are_off(qdqbert, quantized, tmp_path):
    import qdqbert as package

    model = package.QDQBertForSequenceClassification.from_pretrained(quantized)
    package.quantizers(model, {"*": "off"})
    model.save_pretrained(tmp_path)

    text = qdqbert("info", tmp_path).out

    assert "40 are off" in text
    assert "    off: " not in text


@pytest.mark.parametrize(
    "section",
    [
        [1],
        {"quant_method": "other"},
        {"quant_method": "qdqbert", "quantizers": [1]},
        {"quant_method": "qdqbert", "quantizers": {"x": "off"}},
        {"quant_method": "qdqbert", "input": {"num_bits": "many"}},
    ],
)
def test_info_refuses_settings_that_cannot_be(qdqbert, topics, tmp_path, section):
    shutil.copytree(topics, tmp_path / "model")
    with_config(tmp_path / "model", qdqbert_quantization=section)

    outcome = qdqbert("info", tmp_path / "model")

    assert outcome.status == 3
    assert "quant" in outcome.err


@pytest.mark.parametrize(
    "verb", [("calibrate", "--method", "max"), ("quantize", "--methods", "max"), ("demo", "--methods", "max")]
)
def test_without_a_quantizer_that_is_on_there_is_nothing_to_calibrate(qdqbert, topics, tmp_path, verb):
    import qdqbert as package

    folder = tmp_path / "off"
    shutil.copytree(topics, folder)
    model = package.QDQBertForSequenceClassification.from_pretrained(topics)
    package.quantizers(model, {"*": "off"})
    model.save_pretrained(folder)
    words = ["--model", folder] if verb[0] == "demo" else [folder, "--output", tmp_path / "out"]
    data = ["--data", topics / "calibration.tsv", "--samples", "8"]

    outcome = qdqbert(verb[0], *words, *data, *verb[1:])

    assert outcome.status == 3
    assert "no enabled quantizer" in outcome.err
    assert "--rule '*=on'" in outcome.err
    assert not (tmp_path / "out").exists()


def test_calibrated_checkpoint_keeps_its_tokenizer_and_opens_again(qdqbert, quantized):
    import qdqbert as package

    assert (quantized / "tokenizer.json").is_file()
    model = package.QDQBertForSequenceClassification.from_pretrained(quantized)
    assert sum(name.endswith("._amax") for name, _ in model.named_buffers()) == 40


def small(folder, topics, count=60):
    """Write the first test questions to a file."""
    path = folder / "test.tsv"
    path.write_bytes(b"".join((topics / "test.tsv").read_bytes().splitlines(keepends=True)[: count + 1]))
    return path


def test_eval_of_a_calibrated_checkpoint_has_both_rows(qdqbert, quantized, topics, tmp_path):
    data = qdqbert("eval", quantized, "--data", small(tmp_path, topics), "--json").data

    assert set(data) == HEADER | {"folder", "task", "metric", "items", "rules", "rows"}
    assert list(data["rows"]) == ["float", "quantized"]
    assert set(data["rows"]["float"]) == ROW
    assert set(data["rows"]["quantized"]) == ROW | {"differences"}
    assert set(data["rows"]["float"]["intervals"]) == {"accuracy", "macro F1"}
    assert set(data["rows"]["quantized"]["differences"]["accuracy"]) == {"mean", "low", "high", "confidence"}
    assert data["items"] == 60


def test_eval_of_a_float_checkpoint_has_the_float_row(qdqbert, topics, tmp_path):
    words = (
        "eval",
        topics,
        "--task",
        "classification",
        "--data",
        small(tmp_path, topics),
        "--limit",
        "20",
        "--json",
    )

    data = qdqbert(*words).data

    assert list(data["rows"]) == ["float"]
    assert data["items"] == 20


def test_all_quantizers_off_by_rule_is_the_float_row(qdqbert, quantized, topics, tmp_path):
    data = qdqbert("eval", quantized, "--data", small(tmp_path, topics), "--rule", "*=off", "--json").data

    assert data["rows"]["quantized"]["metrics"] == data["rows"]["float"]["metrics"]
    assert data["rules"] == {"*": "off"}


def test_rules_of_a_file_come_before_those_of_the_command_line(qdqbert, quantized, topics, tmp_path):
    rules = tmp_path / "rules.json"
    rules.write_text(json.dumps({"*": "off", "*.layer.0.*": "on"}))

    outcome = qdqbert(
        *("eval", quantized, "--data", small(tmp_path, topics, 5), "--quantizers", "on", "--json"),
        *("--rules", rules, "--rule", "*=off"),
    )

    assert list(outcome.data["rules"].items()) == [("*.layer.0.*", "on"), ("*", "off")]


def test_score_below_the_bound_is_status_4(qdqbert, topics, tmp_path):
    words = ("eval", topics, "--data", small(tmp_path, topics))

    assert qdqbert(*words, "--min-score", "10").status == 0
    outcome = qdqbert(*words, "--min-score", "100")

    assert outcome.status == 4
    assert "below --min-score" in outcome.out


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        (["--rule", "*.nothing=off"], 3, "matches no quantizer"),
        (["--rule", "nothing"], 2, "expected GLOB=STATE"),
        (["--rule", "*=sideways"], 3, "sideways"),
        (["--rules", "none.json"], 3, "no file none.json"),
        (["--task", "squad"], 3, "squad needs a BertForQuestionAnswering, config.json names QDQBertForSeq"),
        (["--task", "NER"], 3, "ner needs a BertForTokenClassification, config.json names QDQBertForSeq"),
        (["--task", "haiku"], 2, "expected one of squad, classification, sst2"),
        (["--task", "sst2"], 3, "sst2: config.num_labels: expected 2 (negative, positive), found 44"),
        (["--task", "stsb"], 3, "stsb: config.num_labels: expected 1 (a regression), found 44"),
        (["--stride", "8"], 2, "--stride: is for ner and causal-lm only, the task is classification"),
        (["--whole-words"], 2, "--whole-words: is for masked-lm only"),
        (["--max-score", "5"], 2, "--max-score: a higher accuracy is better; give --min-score"),
        (["--limit", "0"], 2, "--limit: expected at least 1"),
        (["--output", "x"], 2, "--output"),
        (["--max-length", "65"], 2, "--max-length: expected 4 .. 64"),
        (["--doc-stride", "128"], 2, "--doc-stride: is for squad only"),
        (["--null-score-diff-threshold", "0"], 2, "--null-score-diff-threshold: is for squad only"),
        (["--quantizers", "off", "--rule", "*=off"], 2, "no effect on the float row"),
    ],
)
def test_what_does_not_fit_is_named(qdqbert, quantized, topics, change, status, message):
    outcome = qdqbert("eval", quantized, "--data", topics / "test.tsv", "--limit", "3", *change)

    assert (outcome.status, outcome.out) == (status, "")
    assert message in outcome.err


def test_bad_data_is_status_3_with_file_and_line(qdqbert, topics, tmp_path):
    path = tmp_path / "bad.tsv"
    path.write_text("text\tlabel\nWhat?\tBeyonce\n")

    outcome = qdqbert("eval", topics, "--data", path)

    assert outcome.status == 3
    assert f"{path}:2: label:" in outcome.err
    assert "near: Beyoncé" in outcome.err


def test_bad_checkpoints_are_status_3(qdqbert, topics, tmp_path):
    assert qdqbert("info", tmp_path / "none").status == 3
    assert qdqbert("info", tmp_path).status == 3
    shutil.copytree(topics, tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    for verb in (["info"], ["eval", "--data", topics / "test.tsv"]):
        outcome = qdqbert(verb[0], tmp_path / "cut", *verb[1:])
        assert outcome.status == 3
        assert "model.safetensors" in outcome.err


def test_checkpoint_without_a_head_is_refused(qdqbert, topics, tmp_path):
    shutil.copytree(topics, tmp_path / "base")
    config = json.loads((topics / "config.json").read_text())
    config["architectures"] = ["BertModel"]
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))

    outcome = qdqbert("eval", tmp_path / "base", "--data", topics / "test.tsv")

    assert outcome.status == 3
    assert "say --task" in outcome.err


def test_quantize_saves_the_best_of_its_table(qdqbert, topics, tmp_path):
    out = tmp_path / "out"
    words = (
        "quantize",
        topics,
        "--data",
        topics / "calibration.tsv",
        "--samples",
        "32",
        "--eval-samples",
        "100",
    )

    data = qdqbert(*words, "--output", out, "--json").data

    assert set(data) == HEADER | {
        *("folder", "output", "task", "metric", "samples", "seed", "items", "best", "relative_drop_percent"),
        *("rules", "rows", "search"),
    }
    assert list(data["rows"]) == ["float", "max", "percentile-99.99", "mse", "entropy", "mix"]
    assert data["items"] == 100
    assert len(data["search"]["kinds"]) == 14
    assert len(data["search"]["sites"]) == 28
    assert data["rows"][data["best"]]["score"] == max(
        row["score"] for name, row in data["rows"].items() if name != "float"
    )
    assert data["rows"]["max"]["weight_bytes"] < data["rows"]["float"]["weight_bytes"]
    assert qdqbert("info", out, "--json").data["quantizers"]["with_range"] == 40


@pytest.mark.parametrize(("method", "extra"), [("mix", []), ("mix-by-site", ["mix-by-site"])])
def test_calibrate_by_a_mix_saves_the_ranges_that_it_lists(qdqbert, topics, tmp_path, method, extra):
    import qdqbert as package
    from qdqbert.calibration_search import method_options
    from qdqbert.tasks import TextClassification
    from qdqbert.tokenization import load_tokenizer

    out, data = tmp_path / "out", topics / "calibration.tsv"
    words = ("--samples", "12", "--batch-size", "5", "--search-samples", "7", "--method", method)

    result = qdqbert("calibrate", topics, "--data", data, *words, "--output", out, "--json").data

    assert set(result) == HEADER | {
        *("folder", "output", "task", "method", "samples", "seed", "ranges", "search")
    }
    search = result["search"]
    assert list(search["errors"])[7:] == ["mix", *extra]
    model = package.QDQBertForSequenceClassification.from_pretrained(topics)
    task = TextClassification.read(data, load_tokenizer(topics), model.config)
    batches = list(task.batches(12, seed=13, batch_size=5))
    calibration = package.Calibration(model).collect(batches)
    again = calibration.search(batches[:2], sites=16 if extra else 0)  # 10 samples: whole batches
    assert search == again.as_dict()
    saved = dict(package.QDQBertForSequenceClassification.from_pretrained(out).named_buffers())
    for site, name in search["sites"].items():
        np.testing.assert_array_equal(
            saved[f"{site}._amax"], calibration.ranges(**method_options(name))[site], err_msg=site
        )


def test_quantize_tries_mixes_with_one_search(qdqbert, topics, tmp_path, monkeypatch):
    import qdqbert as package

    searches = []
    search = package.Calibration.search
    monkeypatch.setattr(
        package.Calibration, "search", lambda *a, **k: searches.append(k["sites"]) or search(*a, **k)
    )
    words = ("--samples", "8", "--search-samples", "4", "--eval-samples", "30", "--output", tmp_path / "out")

    outcome = qdqbert(
        "quantize",
        topics,
        *("--data", topics / "calibration.tsv", *words),
        *("--methods", "mix", "percentile-1", "mix-by-site"),
    )

    assert outcome.status == 0
    assert searches == [16]
    for shown in ("mix-by-site", "kind of site", "logit error", "best: mix"):
        assert shown in outcome.out


def test_help_says_what_a_mix_costs(qdqbert):
    for verb in ("calibrate", "quantize", "demo"):
        text = " ".join(qdqbert(verb, "--help").out.split())
        assert "about 110 passes over these" in text
        assert "up to 390 passes more" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "mixed"], "expected max, mse, entropy, percentile-P with P in (0, 100], mix or mix-by"),
        (["--method", "percentile-0"], "percentile-P with P in (0, 100]"),
        (["--method", "mix", "--search-samples", "0"], "--search-samples: expected at least 1, found 0"),
    ],
)
def test_a_wrong_mix_is_named(qdqbert, topics, tmp_path, words, message):
    outcome = qdqbert(
        *("calibrate", topics, "--data", topics / "calibration.tsv", "--samples", "4"),
        *("--output", tmp_path / "out", *words),
    )

    assert (outcome.status, outcome.out) == (2, "")
    assert message in outcome.err
    assert not (tmp_path / "out").exists()


def test_quantize_keeps_sites_in_float_by_rule(qdqbert, topics, tmp_path):
    out = tmp_path / "out"

    outcome = qdqbert(
        *("quantize", topics, "--data", topics / "calibration.tsv", "--samples", "8", "--eval-samples", "20"),
        *("--methods", "max", "--rule", "*.add_*=off", "--output", out),
    )

    assert outcome.status == 0
    quantizers = qdqbert("info", out, "--json").data["quantizers"]
    assert quantizers["with_range"] == 32
    assert len(quantizers["disabled"]) == 8


def test_quantize_beyond_the_allowed_drop_saves_nothing(qdqbert, topics, tmp_path):
    out = tmp_path / "out"

    outcome = qdqbert(
        *("quantize", topics, "--data", topics / "calibration.tsv", "--samples", "8", "--eval-samples", "50"),
        *("--methods", "percentile-1", "--max-drop", "1", "--output", out),
    )

    assert outcome.status == 4
    assert "nothing saved" in outcome.out
    assert not out.exists()


@pytest.mark.parametrize("verb", ["calibrate", "quantize"])
@pytest.mark.parametrize("name", ["model", "./model/", "link"])
def test_the_checkpoint_that_is_read_is_not_replaced(qdqbert, topics, tmp_path, monkeypatch, verb, name):
    shutil.copytree(topics, tmp_path / "model")
    (tmp_path / "link").symlink_to("model")
    monkeypatch.chdir(tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    data = topics / "calibration.tsv"
    outcome = qdqbert(verb, "model", "--data", data, "--samples", "8", "--output", name)
    assert outcome.status == 2
    assert "--output" in outcome.err
    assert "another folder" in outcome.err
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before


def test_quantize_needs_held_out_items(qdqbert, topics, tmp_path):
    data = small(tmp_path, topics, 5)

    outcome = qdqbert("quantize", topics, "--data", data, "--samples", "99", "--output", tmp_path / "out")

    assert outcome.status == 2
    assert "all 5 items" in outcome.err


def test_held_out_items_are_no_calibration_samples(topics):
    from qdqbert.cli.post_training import held_out

    class Numbers:
        def __init__(self, items):
            self.items = list(items)

        def __len__(self):
            return len(self.items)

        def select(self, indices):
            return Numbers(self.items[i] for i in indices)

    import random

    used = random.Random(13).sample(range(50), 20)
    rest = held_out(Numbers(range(50)), 20, 13, 1000).items

    assert sorted(used + rest) == list(range(50))
    assert len(held_out(Numbers(range(50)), 20, 13, 7).items) == 7


def test_doctor_finds_a_sound_installation(qdqbert):
    outcome = qdqbert("doctor", "--json")

    data = outcome.data
    assert set(data) == HEADER | {
        *("sound", "qdqbert", "python", "system", "cpu", "packages", "isa", "threads", "variants", "kernels"),
        *("bf16_refusal", "blas", "cpu_limits", "missing_files", "self_test"),
    }
    assert outcome.status == 0
    assert data["sound"]
    assert "ref, 1 thread" in data["self_test"]
    assert len(set(data["self_test"].values())) == 1
    assert set(data["kernels"].values()) <= set(data["variants"])
    has_bf16 = data["kernels"]["product_f32"] == "ref" or data["kernels"]["product_bf16"] != "ref"
    assert (data["bf16_refusal"] is None) == has_bf16


def test_doctor_measures_roof_and_products(qdqbert, monkeypatch):
    import qdqbert.cli.doctor as doctor
    from qdqbert import roof

    monkeypatch.setattr(doctor, "_self_test", lambda isas: {"ref, 1 thread": "a"})
    monkeypatch.setattr(doctor, "_ROOF_S", 0.001)
    monkeypatch.setattr(doctor, "_PRODUCT_S", 0.001)
    monkeypatch.setattr(roof, "BERT_PRODUCTS", {"small": ((24, 37), (37, 24))})
    monkeypatch.setattr(roof, "BERT_ROWS", (11,))

    data = qdqbert("doctor", "--measure", "--json").data

    threads = sorted({1, data["threads"]})
    kinds = {(kind, count) for kind in ("f32", "qs8") for count in threads}
    assert {(each["operands"], each["threads"]) for each in data["measured"]["roofs"]} == kinds
    rates = data["measured"]["products"]["small"]
    assert len(rates) == 2 * len(kinds)
    assert all(rate["share"] > 0 for rate in rates)
    text = qdqbert("doctor", "--measure").out
    assert "peak loop" in text
    assert "11, 24, 37" in text


def test_doctor_reports_kernels_that_differ(qdqbert, monkeypatch):
    import qdqbert.cli.doctor as doctor

    monkeypatch.setattr(doctor, "_self_test", lambda isas: {"ref, 1 thread": "a", "avx2, 1 thread": "b"})

    outcome = qdqbert("doctor")

    assert outcome.status == 4
    assert "kernels differ" in outcome.out


@pytest.mark.uninstrumented  # hundreds of equal forwards
def test_demo_runs_every_method_and_shows_answers(qdqbert):
    data = qdqbert("demo", "--limit", "80", "--samples", "16", "--json").data

    assert set(data) == HEADER | {
        *(
            "folder",
            "task",
            "metric",
            "items",
            "samples",
            "quantizers",
            "best",
            "calibration_seconds",
            "seconds",
        ),
        *("training", "rows", "search", "examples"),
    }
    assert list(data["rows"]) == ["float", "max", "percentile-99.99", "mse", "entropy", "mix", "qat"]
    assert set(data["training"]) == {"from", "epochs", "items", "seconds"}
    assert data["training"]["from"] in data["rows"]
    assert (data["training"]["epochs"], data["training"]["items"]) == (4, 512)
    assert data["quantizers"] == 40
    assert len(data["examples"]) == 8
    assert set(data["examples"][0]) == {"text", "expected", "float", "int8"}


@pytest.mark.uninstrumented  # hundreds of equal forwards
def test_demo_table_is_for_people(qdqbert):
    outcome = qdqbert("demo", "--limit", "40", "--samples", "8", "--methods", "max")

    assert outcome.status == 0
    for words in ("float", "max", "accuracy", "95 % interval", "size", "ms per text", "INT8", "expected"):
        assert words in outcome.out
    assert "\x1b" not in outcome.out
    assert outcome.err == ""


@pytest.mark.uninstrumented  # hundreds of equal forwards
def test_demo_trains_as_many_epochs_as_it_is_told(qdqbert):
    words = ("demo", "--limit", "40", "--samples", "8", "--methods", "max", "--qat-epochs")

    one, none = (qdqbert(*words, epochs, "--json").data for epochs in ("1", "0"))
    refused = [qdqbert(*words, "-1"), qdqbert(*words, "1", "--model", "DIR", "--data", "FILE")]

    assert one["training"]["epochs"] == 1
    assert (none["training"], list(none["rows"])) == (None, ["float", "max"])
    assert [outcome.status for outcome in refused] == [2, 2]
    assert all("--qat-epochs" in outcome.err for outcome in refused)


def test_demo_runs_on_a_checkpoint_of_ones_own(qdqbert, topics, tmp_path):
    data = qdqbert(
        *("demo", "--model", topics, "--data", small(tmp_path, topics, 60), "--samples", "20"),
        *("--methods", "entropy", "--json"),
    ).data

    assert data["items"] == 40  # those that did not calibrate
    assert list(data["rows"]) == ["float", "entropy"]


def test_bundled_files_are_small_and_have_a_licence(topics):
    sizes = {path.name: path.stat().st_size for path in topics.iterdir()}

    assert max(sizes.values()) < 2_000_000
    assert sum(sizes.values()) < 3_000_000
    assert "CC BY-SA 4.0" in (topics / "NOTICE").read_text()


@pytest.fixture(scope="session")
def tiny_squad(tmp_path_factory):
    """Untrained question-answering checkpoint over the bundled vocabulary."""
    import qdqbert as package
    from qdqbert.cli.demo import bundled_folder

    folder = tmp_path_factory.mktemp("tiny-squad") / "model"
    config = package.QDQBertConfig(
        vocab_size=4000,
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=40,
        max_position_embeddings=96,
        pad_token_id=0,
    )
    package.QDQBertForQuestionAnswering(config, seed=1).save_pretrained(folder)
    shutil.copy(bundled_folder() / "vocab.txt", folder)
    return folder


def test_squad_runs_end_to_end_and_writes_predictions(qdqbert, tiny_squad, tmp_path, request):
    cases = request.path.parent.parent / "tasks" / "squad_cases.json"
    lengths = ("--max-length", "48", "--doc-stride", "16", "--max-query-length", "12")
    saved, predictions = tmp_path / "saved", tmp_path / "predictions"

    made = qdqbert(
        "quantize", tiny_squad, "--data", cases, "--samples", "3", *lengths, "--output", saved, "--json"
    )
    scored = qdqbert("eval", saved, "--data", cases, *lengths, "--output", predictions, "--json")

    assert made.status == scored.status == 0
    assert made.data["items"] == 2
    assert scored.data["task"] == "squad"
    assert {"exact", "f1", "HasAns_f1", "NoAns_f1"} <= set(scored.data["rows"]["quantized"]["metrics"])
    assert list(json.loads((predictions / "predictions.json").read_text())) == ["n1", "n2", "n3", "b1", "b2"]
    assert np.isfinite(list(json.loads((predictions / "null_odds.json").read_text()).values())).all()
