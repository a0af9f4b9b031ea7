"""The learning curves are drawn from the metrics of runs."""

import json
from pathlib import Path

import pytest

from images.draw_rewards import PANELS, draw
from qwen3vl_rl.errors import InputError


def run(folder: Path, steps: int, keys) -> Path:
    folder.mkdir()
    rows = ({"step": step, "data": dict.fromkeys(keys, step / steps)} for step in range(1, steps + 1))
    (folder / "metrics-000.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_runs_of_many_and_few_steps_are_drawn(tmp_path):
    runs = {name: run(tmp_path / name, steps, PANELS.values()) for name, steps in (("long", 40), ("short", 3))}
    figure = draw(runs)
    assert [axis.get_title() for axis in figure.axes] == list(PANELS)
    for axis in figure.axes:
        steps, smooth, few = axis.lines
        assert steps.get_ydata().tolist() == pytest.approx([step / 40 for step in range(1, 41)])
        assert smooth.get_ydata()[20] == pytest.approx(21 / 40) and smooth.get_label() == "long"
        assert few.get_ydata().tolist() == pytest.approx([1 / 3, 2 / 3, 1]) and few.get_label() == "short"


def test_a_metric_that_no_run_has_gets_no_panel(tmp_path):
    figure = draw({"a": run(tmp_path / "a", 3, ["reward/acc"])})
    assert [axis.get_title() for axis in figure.axes] == ["accuracy of the rollouts"]


def test_a_folder_without_metrics_is_rejected(tmp_path):
    with pytest.raises(InputError, match="expected a run with metrics"):
        draw({"a": tmp_path})


def test_a_run_without_a_known_metric_is_rejected(tmp_path):
    with pytest.raises(InputError, match="expected one of reward/score"):
        draw({"a": run(tmp_path / "a", 3, ["train/loss"])})
