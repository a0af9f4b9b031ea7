"""The results file holds sizes, accuracies by kind and paired differences, and the tables show them."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from examples.longer_vs_bigger.collect import collect
from examples.longer_vs_bigger.tables import FOLDER, TABLES, all_tables, of_results
from qwen3vl_rl.data.predictions import Prediction, question_key
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.evaluation.scoring.metrics import summarize

STARTER = Path(__file__).parents[2] / "examples" / "starter" / "checkpoint"
SPLITS = ("refshapes_val", "refshapes_testA", "refshapes_testB", "refshapes_amodal_val")
KINDS = ("relation", "composition")


def write_model(out: Path, name: str, checkpoint: str, right: int) -> None:
    """Write an evaluation in which the first `right` of the four samples of each split are correct."""
    folder = out / "eval" / name
    folder.mkdir(parents=True)
    rows = [
        Prediction(
            key=question_key(split, row), split=split, image=f"{split}/{row}.png", sent="the star",
            width=160, height=128,
            xyxy_px=(0, 0, 10, 10), modal_xyxy_px=(0, 0, 10, 8) if "amodal" in split else None, text="[0, 0, 62, 78]",
            pred_xyxy_px=(0, 0, 10, 10), iou=float(row <= right), modal_iou=0.8 if "amodal" in split else None,
            tokens=36, latency_s=0.1, finish_reason="stop", error=None,
        )
        for split in SPLITS
        for row in range(1, 5)
    ]  # fmt: skip
    (folder / "predictions.jsonl").write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    (folder / "summary.json").write_text(json.dumps(summarize(rows)))
    timing = {"resumed": False, "latency": {"average": {"p50_s": 0.4}}, "server": {"device": "1 x GPU"}}
    (folder / "timing.json").write_text(json.dumps(timing))
    config = {"model": str(out / "checkpoints" / checkpoint), "samples": {split: {"count": 4} for split in SPLITS}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def lose_a_row(folder: Path) -> None:
    """Remove a prediction, as a kill does while a failed sample is retried."""
    rows = (folder / "predictions.jsonl").read_text().splitlines(keepends=True)
    (folder / "predictions.jsonl").write_text("".join(rows[:-1]))


@pytest.fixture
def out(tmp_path):
    shape = json.loads((STARTER / "config.json").read_text())
    small = ("base-s", "direct-s-0", "rl-s-0", "rl-s-1", "rl-s-giou")
    for checkpoint, layers in (*((name, 4) for name in small), ("base-l", 8), ("direct-l-0", 8), ("direct-l-1", 8)):
        shape["text_config"] |= {"num_hidden_layers": layers, "layer_types": ["full_attention"] * layers}
        (tmp_path / "checkpoints" / checkpoint).mkdir(parents=True)
        (tmp_path / "checkpoints" / checkpoint / "config.json").write_text(json.dumps(shape))
    write_model(tmp_path, "s/base", "base-s", right=1)
    write_model(tmp_path, "l/base", "base-l", right=0)
    write_model(tmp_path, "s/direct-0", "direct-s-0", right=1)
    write_model(tmp_path, "l/direct-0", "direct-l-0", right=2)
    write_model(tmp_path, "l/direct-1", "direct-l-1", right=2)
    write_model(tmp_path, "s/rl-0", "rl-s-0", right=3)
    write_model(tmp_path, "s/rl-1", "rl-s-1", right=4)
    write_model(tmp_path, "ablations/rl-giou", "rl-s-giou", right=2)
    (tmp_path / "data" / "0" / "eval").mkdir(parents=True)
    for split in SPLITS:
        lines = (json.dumps({"kind": KINDS[row % 2]}) + "\n" for row in range(1, 5))
        (tmp_path / "data" / "0" / "eval" / f"{split}.jsonl").write_text("".join(lines))
    for number, gpus in enumerate((1, 2)):
        (tmp_path / "jobs" / "slices").mkdir(parents=True, exist_ok=True)
        (tmp_path / "jobs" / "slices" / f"{number}.json").write_text(json.dumps({"seconds": 50.0, "gpus": gpus}))
    return tmp_path


def test_models_of_several_seeds_are_compared_with_smaller_and_bigger_ones(out):
    found = collect(out)["differences"]
    average = {name: places["average"]["points"] for name, places in found.items()}
    assert average == pytest.approx(
        {
            "s/rl - s/direct": 50,
            "s/rl - l/direct": 37.5,
            "s/rl - s/base": 62.5,
            "l/direct - s/direct": 25,
            "ablations/rl-giou - s/rl-0": -25,
        }
    )
    low, high = found["s/rl - l/direct"]["average"]["interval"]
    assert low < 37.5 < high


def test_kinds_are_read_from_the_data_and_amodal_samples_are_not_in_the_average(out):
    model = collect(out)["models"]["s/rl-0"]
    assert {kind: (found["acc"], found["samples"]) for kind, found in model["kinds"].items()} == {
        "composition": (1.0, 6),
        "relation": (0.5, 6),
    }
    assert model["average"]["acc"] == 0.75 and model["splits"]["refshapes_amodal_val"]["acc"] == 0.75


def test_gpu_time_is_summed_and_the_device_is_that_of_the_evaluations(out):
    results = collect(out)
    assert results["gpu_s"] == 150 and results["device"] == "1 x GPU"


def test_tables_show_the_results(out):
    results = collect(out)
    tables = {name: of_results(name, results) for name in TABLES}
    assert len(tables["study"].splitlines()) == 2 and "\n\nladder\n" in "\n\n" + all_tables(results)
    assert "study" not in all_tables(results)
    ladder = tables["ladder"].splitlines()[2:]
    assert [line.split(" | ")[0] + " " + line.split(" | ")[2] for line in ladder] == [
        "| s base", "| s direct", "| s reasoning (SFT, GRPO)", "| l base", "| l direct",
    ]  # fmt: skip
    assert "| 87.5 [75.0, 100.0] |" in ladder[2] and ladder[1].endswith("| 36 | 0.1 |")
    assert "| s/rl - l/direct | +37.5 (" in tables["differences"] and "giou" not in tables["differences"]
    assert "| rl-giou - s/rl-0 | -25.0 (" in tables["ablations"]
    assert "| s | base | 25.0 [0.0, 75.0] | 25.0 |" in tables["amodal"]
    assert tables["kinds"].startswith("| model | answers | relation | composition |")


def test_the_readme_shows_the_present_results():
    results, readme = json.loads((FOLDER / "results.json").read_text()), (FOLDER / "README.md").read_text()
    assert f"<!-- ladder -->\n{of_results('ladder', results)}\n<!-- end -->" in readme


def test_rl_from_direct_answers_is_also_compared_with_direct_answers(out):
    write_model(out, "ablations/rl-from-direct", "rl-s-giou", right=2)
    points = {name: places["average"]["points"] for name, places in collect(out)["differences"].items()}
    assert points["ablations/rl-from-direct - s/direct-0"] == 25 and points["ablations/rl-from-direct - s/rl-0"] == -25


def test_a_point_of_a_learning_curve_is_a_mean_over_steps(out):
    (out / "runs" / "rl-s-0").mkdir(parents=True)
    rows = [
        {"step": n, "data": {"reward/acc": n / 100, "response_length/mean": n, "rollout/alike_groups": 0.5}}
        for n in range(1, 25)
    ]
    lines = [json.dumps(row) + "\n" for row in [*rows, {"step": 24, "data": {"val-core/grounding/acc/mean@1": 1.0}}]]
    (out / "runs" / "rl-s-0" / "metrics-000.jsonl").write_text("".join(lines))
    (out / "runs" / "rl-s-1").mkdir()  # a run that has not started
    found = collect(out)["learning"]
    assert list(found) == ["rl-s-0"] and found["rl-s-0"]["step"] == list(range(2, 25, 2))
    assert found["rl-s-0"]["acc"][:2] == [0.015, 0.035] and found["rl-s-0"]["tokens"][-1] == 23.5


def test_the_study_compares_rl_with_the_sft_that_it_came_from(out):
    for name, right in (("sft-35-0", 1), ("rl-35-0", 3), ("rl-35_n_4-0", 2), ("sft-35-1", 2), ("rl-35-1", 3)):
        write_model(out, f"study-{name[-1]}/study_{name}", f"study_{name}", right=right)
    write_model(out, "study-1/study_rl-65-1", "study_rl-65-1", right=4)  # its SFT is not evaluated yet
    results = collect(out)
    assert {name: found["difference"]["average"]["by_seed"] for name, found in results["study"].items()} == {
        "35": [50, 25],
        "35_n_4": [25],
    }
    assert not any("study" in name for name in (*results["models"], *results["differences"]))
    rows = of_results("study", results).splitlines()[2:]
    assert rows[0].startswith("| 35 % | 37.5 [25.0, 50.0], 36 tokens | 75.0 [75.0, 75.0], 36 tokens | +37.5 (")
    assert rows[1].startswith("| 35 %, n 4 | 25.0, 36 tokens | 50.0, 36 tokens | +25.0 (")
    (row,) = of_results("compared", results).splitlines()[2:]
    assert row.startswith("| n_4 | -25.0 (") and row.endswith("| 50.0 | 50.0 | 36 |")


def test_unfinished_evaluations_are_left_out(out):
    (out / "eval" / "s" / "rl-1" / "summary.json").unlink()
    lose_a_row(out / "eval" / "l" / "direct-0")
    (out / "budgets" / "rl-s-0" / "free").mkdir(parents=True)
    shutil.copytree(out / "eval" / "s" / "rl-0", out / "budgets" / "rl-s-0" / "budget-16")
    lose_a_row(out / "budgets" / "rl-s-0" / "budget-16")
    results = collect(out)
    assert sorted(results["models"]) == [
        "ablations/rl-giou", "l/base", "l/direct-1", "s/base", "s/direct-0", "s/rl-0",
    ] and results["budgets"] == {}  # fmt: skip
    assert results["differences"]["s/rl - s/direct"]["average"]["by_seed"] == [50]


def test_a_moved_folder_is_read_and_a_missing_checkpoint_is_named(out):
    moved = out.rename(out.with_name("moved"))
    assert collect(moved)["models"]["l/base"]["parameters"] > collect(moved)["models"]["s/base"]["parameters"]
    (moved / "checkpoints" / "base-l" / "config.json").unlink()
    with pytest.raises(InputError, match=r"checkpoints/base-l: expected the checkpoint that .*l/base evaluated"):
        collect(moved)


def test_seeds_are_paired_by_their_number(out):
    write_model(out, "s/sft-1", "rl-s-1", right=1)
    write_model(out, "s/direct-1", "direct-s-0", right=2)
    found = {name: places["average"]["by_seed"] for name, places in collect(out)["differences"].items()}
    assert found["s/rl - s/sft"] == [75] and found["s/sft - s/direct"] == [-25] and found["s/rl - s/direct"] == [50, 50]


def test_nothing_evaluated_is_an_error(tmp_path):
    with pytest.raises(InputError, match="expected finished evaluations below eval/, found none"):
        collect(tmp_path)
