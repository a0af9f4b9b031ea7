"""What takes minutes: `pytest --soak tests/soak`."""

import subprocess
import time
from pathlib import Path

import pytest

from qwen3vl_rl.training.metrics import read_metrics

ROOT = Path(__file__).parents[2]


def wait_for_step(run: subprocess.Popen, folder: Path, step: int) -> None:
    while not (folder.exists() and step in read_metrics(folder)):
        assert run.poll() is None, "the run ended before it was to be killed"
        time.sleep(1)


def test_a_killed_rl_run_resumes_after_its_last_checkpoint(train, rl_command, tmp_path):
    steps = ["trainer.total_training_steps=4", "trainer.save_freq=2", "trainer.test_freq=-1"]
    command = rl_command(tmp_path / "run", *steps)
    first = subprocess.Popen(command, cwd=ROOT)
    wait_for_step(first, tmp_path / "run", step=2)
    first.kill()
    first.wait()
    assert (tmp_path / "run" / "latest_checkpointed_iteration.txt").read_text() == "2"
    screen = train(command)
    assert [line.split()[1] for line in screen.splitlines() if line.startswith("step ")] == ["3", "4"]
    assert sorted(read_metrics(tmp_path / "run")) == [1, 2, 3, 4]


def test_two_ranks_learn_what_one_learns(train, sft_command, sft_run, tmp_path):
    train(sft_command(tmp_path, "trainer.n_gpus_per_node=2"))
    one, two = read_metrics(sft_run), read_metrics(tmp_path)
    assert one.keys() == two.keys()
    for step, metrics in one.items():
        assert two[step]["train/loss"] == pytest.approx(metrics["train/loss"], abs=1e-4)
        assert two[step]["train/grad_norm"] == pytest.approx(metrics["train/grad_norm"], rel=1e-4)
