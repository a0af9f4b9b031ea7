"""The figure of reward curves is drawn from what runs leave."""

import json

import pytest
from PIL import Image

from images.draw_rewards import PANELS, draw
from qwen3vl_rl.grounding import InputError


def test_runs_of_many_and_few_steps_are_drawn(tmp_path):
    runs = {}
    for name, steps in (("long", 40), ("short", 3)):
        runs[name] = tmp_path / name
        runs[name].mkdir()
        rows = ({"step": step, "data": dict.fromkeys(PANELS.values(), step / steps)} for step in range(1, steps + 1))
        (runs[name] / "metrics-000.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    draw(runs, tmp_path / "rewards.png")
    with Image.open(tmp_path / "rewards.png") as image:
        assert image.width > 3 * image.height
        assert len(image.convert("RGB").getcolors(1 << 20)) > 20  # more than empty axes


def test_a_folder_without_metrics_is_no_run(tmp_path):
    with pytest.raises(InputError, match="expected a run with metrics"):
        draw({"a": tmp_path}, tmp_path / "rewards.png")
    assert not (tmp_path / "rewards.png").exists()
