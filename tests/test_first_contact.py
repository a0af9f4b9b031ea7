"""The command on a checkpoint that has learnt nothing: its files are fine, the engine agrees, its answers are not."""

import subprocess
import sys
from pathlib import Path

import pytest

from qwen3vl_rl import first_contact
from qwen3vl_rl.data import refshapes
from qwen3vl_rl.errors import InputError

ROOT = Path(__file__).parents[1]


@pytest.mark.long
@pytest.mark.engine
def test_files_engine_and_answers_are_looked_at(starter, tmp_path):
    refshapes.build(tmp_path / "data", train=1, val=6, seed=0)
    command = [sys.executable, "-m", "qwen3vl_rl.first_contact", starter, "--out", tmp_path / "out"]
    command += ["--data", tmp_path / "data" / "eval", "--images", tmp_path / "data" / "images"]
    run = subprocess.run([*map(str, command), "--max-tokens", "40"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == first_contact.NEEDS_ATTENTION, run.stdout + run.stderr
    seen = {line[4:23].strip(): line[:2] for line in run.stdout.splitlines() if line[:2] in ("ok", "!!")}
    wrong = {name for name, mark in seen.items() if mark == "!!"}
    # Random weights answer as the machine rounds: without an end, or with nothing, which leaves nothing to compare.
    assert {"context", "pixels", "boxes"} <= wrong <= {"context", "pixels", "boxes", "length", "log-probabilities"}
    assert ("length" in wrong) or ("log-probabilities" in wrong), run.stdout
    assert f"{len(wrong)} findings need attention" in run.stdout
    assert len(list((tmp_path / "out").glob("checkpoint-*/report.html"))) == 1


def test_questions_need_their_pictures(starter, tmp_path):
    with pytest.raises(InputError, match="--data, --images: expected both or neither"):
        first_contact.parse_args([str(starter), "--data", str(tmp_path)])
