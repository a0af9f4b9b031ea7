"""A rehearsal of stage 1 as a user starts it; that of stage 2 is in tests/soak."""

import os
import subprocess
from pathlib import Path

import pytest

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.rehearse import MARK, clear, highest, rehearse
from qwen3vl_rl.training.rehearsal import NAME

ROOT = Path(__file__).parents[1]


@pytest.mark.long
@pytest.mark.engine
def test_stage_1_is_rehearsed_and_leaves_nothing_behind(starter, training_data, tmp_path):
    variables = {"TRAIN_FILE": f"{training_data}/sft.parquet", "MODEL_PATH": str(starter), "OUTPUT_DIR": str(tmp_path)}
    command = ["bash", "scripts/rehearse.sh", "scripts/sft_qwen3_grounding.sh", "tiny", "hardware=cpu"]
    run = subprocess.run(command, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("\nstep 3 of 3  ") in (1, 2)  # a fast machine is past it before the kill
    assert "killing everything" in run.stderr
    assert "rehearsed 3 of 16 steps, killed after the second and resumed" in run.stdout
    assert "\nan answer: " in run.stdout and list(tmp_path.iterdir()) == []


def test_a_run_of_that_name_is_not_removed_and_what_a_kill_left_is(tmp_path):
    folder = tmp_path / NAME
    folder.mkdir()
    (folder / "recipe.yaml").touch()
    with pytest.raises(InputError, match="expected no such folder, found a run"):
        clear(folder)
    (folder / MARK).write_text(str(os.getpid()))
    with pytest.raises(InputError, match="another rehearsal is running there"):
        clear(folder)
    (folder / MARK).write_text("999999999")
    clear(folder)
    assert [path.name for path in folder.iterdir()] == [MARK]


def test_the_highest_of_all_looks_counts_though_one_fails():
    assert highest([], [5, 6]) == [5, 6] and highest([7, 1], []) == [7, 1] and highest([7, 1], [2, 3]) == [7, 3]


def test_what_the_script_refuses_is_said_and_nothing_is_started(tmp_path, monkeypatch):
    monkeypatch.setenv("OUTPUT_DIR", str(tmp_path))
    monkeypatch.delenv("DATA_DIR", raising=False)
    with pytest.raises(InputError, match="DATA_DIR: must name the folder"):
        rehearse(str(ROOT / "scripts" / "grounding_qwen.sh"), [])
    with pytest.raises(InputError, match="expected OUTPUT_DIR to name the folder"):
        rehearse(str(ROOT / "scripts" / "grounding_qwen.sh"), ["trainer.default_local_dir=x"])
    assert list(tmp_path.iterdir()) == []
