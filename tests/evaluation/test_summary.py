"""What an evaluation prints at its end."""

import sys

import pytest

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.evaluation.__main__ import main
from qwen3vl_rl.evaluation.reporting.tables import compare_runs
from qwen3vl_rl.evaluation.scoring.metrics import summarize, summarize_latency
from qwen3vl_rl.evaluation.scoring.results import Result
from qwen3vl_rl.evaluation.summary import sentences, summary

SPLIT = "refshapes_val"


def sentences_of(results, about):
    return sentences(results, compare_runs(results), about)


@pytest.fixture
def make_result(make_prediction):
    """`make_result(name, [whether each answer is right], first=0)`: a result without files; `first`: of the samples."""

    def make(name: str, rights: list[bool], first: int = 0) -> Result:
        rows = [make_prediction(first + number, right, split=SPLIT) for number, right in enumerate(rights)]
        numbers = summarize(rows)
        latency = summarize_latency(rows, numbers["average"]["of"])
        return Result(name, rows, numbers, {"concurrency": 8, "resumed": False, "latency": latency})

    return make


def test_each_model_has_a_sentence_with_its_difference_from_the_one_before(make_result):
    base, rl = make_result("base", [False] * 40), make_result("rl", [True] * 20 + [False] * 20)
    similar, worse = make_result("similar", [True] * 21 + [False] * 19), make_result("worse", [False] * 39 + [True])
    about = {"base": "models/2b", "rl": "after 16 GRPO steps", "similar": "other seed", "worse": "too many steps"}
    lines = sentences_of([base, rl, similar, worse], about)
    assert lines[0] == "base: models/2b; 0.0 % right (0.0 to 0.0); answers of 40 tokens"
    assert lines[1] == "rl: after 16 GRPO steps; 50.0 points (35.0 to 65.0) better than base; answers of 40 tokens"
    assert lines[2].startswith(
        "similar: other seed; no clear difference from rl (+2.5 points, +0.0 to +7.5); 52.5 points"
    )
    assert lines[2].endswith(" better than base; answers of 40 tokens")
    assert lines[3].startswith("worse: too many steps; 50.0 points (") and " worse than similar; answers" in lines[3]


def test_a_change_of_length_names_both_lengths_and_a_single_image_has_no_interval(make_result):
    short, long = make_result("short", [True]), make_result("long", [True])
    long.summary["average"]["mean_tokens"] = 107.4
    assert sentences_of([short, long], {"short": "a", "long": "b"}) == [
        "short: a; 100.0 % right; answers of 20 tokens",
        "long: b; no clear difference from short (+0.0 points); answers of 107 tokens instead of 20",
    ]


def test_models_with_other_samples_are_not_compared(make_result):
    results = [make_result("one", [True] * 4), make_result("other", [True] * 4, first=2)]
    assert [line.split("; ")[1] for line in sentences_of(results, {"one": "a", "other": "b"})] == [
        "100.0 % right (100.0 to 100.0)"
    ] * 2


def test_the_summary_has_the_accuracy_table_and_no_other(results):
    text = summary(results, compare_runs(results), {result.name: "a model" for result in results})
    assert text.startswith("Acc@0.5 in percent") and "Details" not in text and "Latency" not in text
    assert text.splitlines()[-1].startswith("rl: a model; 50.0 points (")


@pytest.fixture
def evaluate(finished_runs, world, monkeypatch, capsys):
    """`evaluate(*options)`: the evaluation of `finished_runs` once more, which asks nothing; returns what it prints."""

    def run(*options: str) -> str:
        models = [f"--model={folder.name}={folder.name}" for folder in finished_runs]
        files = [
            "--data",
            str(world / "eval"),
            "--images",
            str(world / "images"),
            "--out",
            str(finished_runs[0].parent),
        ]
        asked = ["--endpoint", "http://localhost:1", "--latency-samples", "0"]
        monkeypatch.setattr(sys, "argv", ["evaluation", *models, *files, *asked, *options])
        main()
        return capsys.readouterr().out

    return run


def test_the_evaluation_ends_with_the_command_for_all_tables_and_the_report(evaluate, finished_runs):
    lines = evaluate("--about", "rl=after 16 GRPO steps").splitlines()
    out = finished_runs[0].parent
    assert [line.split(";")[0] for line in lines[-6:-3]] == ["base: base", "sft: sft", "rl: after 16 GRPO steps"]
    runs = f"{out}/base {out}/sft {out}/rl"
    assert lines[-3:] == [
        "",
        f"all tables: python -m qwen3vl_rl.evaluation.table {runs} --all",
        f"report: {out}/report.html",
    ]
    assert len(lines) < 25  # half a screen


def test_a_text_about_no_model_is_refused(evaluate):
    with pytest.raises(InputError, match="--about bse: expected a name that --model gives"):
        evaluate("--about", "bse=the start")
