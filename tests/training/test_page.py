"""The page of a run holds its settings, warnings, curves, phases and the newest validation answers."""

import json
from pathlib import Path

import pytest

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.training.page import write_page

pytestmark = pytest.mark.slow

RECIPE = "actor_rollout_ref: {model: {path: models/<sft>}, rollout: {name: vllm, n: 8}}\n"


def step(number: int, **metrics: float) -> dict:
    timing = {"timing_s/step": 3.0, "timing_s/gen": 2.0, "timing_s/update_actor": 1.0, "timing_s/testing": 9.0}
    parts = {"reward/iou": 0.1 * number, "reward/score": 0.1 * number, "critic/score/mean": 0.1 * number}
    parts |= {"val-core/amodal/acc/mean@4": 0.5}
    return {"step": number, "data": {"response_length/mean": 50.0} | timing | parts | metrics}


@pytest.fixture
def run(tmp_path) -> Path:
    rows = [step(number, **{"rollout/alike_groups": 1.0 if number > 3 else 0.5}) for number in range(1, 9)]
    (tmp_path / "metrics-000.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "validation").mkdir()
    for number in (2, 8, 10):  # the run was at step 10 before it resumed
        (tmp_path / "validation" / f"{number}.html").write_text(f'<p class="answer">answers of {number}</p>')
    return tmp_path


def test_the_page_shows_the_run_and_loads_nothing(run):
    text = write_page(run).read_text()
    assert f"<h1>{run.name}, step 8</h1>" in text and "<dd>models/&lt;sft&gt;</dd>" in text
    assert "step 8: for 100% of the prompts, all answers are right" in text
    for title in (
        "reward",
        "validation accuracy, amodal",
        "reward: iou",
        "tokens per answer",
        "seconds per step, by phase",
    ):
        assert f"<figcaption>{title}</figcaption>" in text
    assert "reward: score" not in text and "testing" not in text
    assert "Validation answers at step 8" in text and "&lt;p class=&#34;answer&#34;&gt;answers of 8" in text
    assert "src=" not in text.replace("srcdoc=", "") and "answers of 2<" not in text


def test_the_page_of_a_run_that_has_just_begun(tmp_path):
    with pytest.raises(InputError, match="expected a training run with metrics"):
        write_page(tmp_path)
    (tmp_path / "metrics-000.jsonl").write_text(json.dumps({"step": 1, "data": {"train/loss": 2.0}}) + "\n")
    text = write_page(tmp_path).read_text()
    assert "step 1</h1>" in text and "Warnings" not in text and "Validation" not in text


def test_the_same_metrics_give_the_same_page(run):
    assert write_page(run).read_bytes() == write_page(run).read_bytes()
