"""Stage 1 killed in the middle and at the end of an epoch resumes as if nothing had happened."""

import subprocess
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from qwen3vl_rl.export import export
from qwen3vl_rl.training.metrics import read_metrics

ROOT = Path(__file__).parents[2]
STEPS_PER_EPOCH = 8


def wait_for_checkpoint(run: subprocess.Popen, folder: Path, step: int) -> None:
    latest = folder / "latest_checkpointed_iteration.txt"
    while not (latest.exists() and latest.read_text() == str(step)):
        assert run.poll() is None, "the run ended before it was to be killed"
        time.sleep(0.02)


def killed_at(command: list[str], folder: Path, step: int) -> None:
    """Run `command` until the checkpoint `step` is written, then kill -9."""
    run = subprocess.Popen(command, cwd=ROOT)
    wait_for_checkpoint(run, folder, step)
    run.kill()
    run.wait()
    time.sleep(5)  # its trainer ends with it, but not at once


def test_a_run_killed_within_and_at_the_end_of_an_epoch_equals_an_uninterrupted_one(train, sft_command, tmp_path):
    settings = ["trainer.total_epochs=2", f"trainer.save_freq={STEPS_PER_EPOCH // 2}"]
    train(sft_command(tmp_path / "whole", *settings))
    command = sft_command(tmp_path / "killed", *settings)
    killed_at(command, tmp_path / "killed", STEPS_PER_EPOCH // 2)
    killed_at(command, tmp_path / "killed", STEPS_PER_EPOCH)
    train(command)
    whole, killed = read_metrics(tmp_path / "whole"), read_metrics(tmp_path / "killed")
    assert sorted(whole) == sorted(killed) == list(range(1, 2 * STEPS_PER_EPOCH + 1))
    for step, metrics in whole.items():
        for name in ("train/loss", "train/grad_norm", "train/lr"):
            assert killed[step][name] == pytest.approx(metrics[name], rel=1e-5, abs=1e-9), (step, name)
    last = f"global_step_{2 * STEPS_PER_EPOCH}/huggingface/model.safetensors"
    weights = load_file(tmp_path / "killed" / last)
    for name, tensor in load_file(tmp_path / "whole" / last).items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=1e-6, msg=name)


def test_an_epoch_more_is_trained_after_a_finished_run(train, sft_command, tmp_path):
    train(sft_command(tmp_path, "trainer.total_epochs=1"))
    train(sft_command(tmp_path, "trainer.total_epochs=2"))
    assert sorted(read_metrics(tmp_path)) == list(range(1, 2 * STEPS_PER_EPOCH + 1))
    assert (tmp_path / f"global_step_{2 * STEPS_PER_EPOCH}").exists()


@pytest.mark.parametrize(
    "other",
    [
        ["model.use_remove_padding=false", "engine.response_logits_only=false"],
        ["engine.no_shard=true", "engine.skip_dp_sync=true"],
        ["model.enable_gradient_checkpointing=true"],
    ],
    ids=["padded with all logits", "no shards", "checkpointed"],
)
def test_what_makes_it_fast_changes_no_number(train, sft_command, sft_run, tmp_path, other):
    train(sft_command(tmp_path, *other))
    ours, others = read_metrics(sft_run), read_metrics(tmp_path)
    assert sorted(ours) == sorted(others)
    for step, metrics in ours.items():
        for name in ("train/loss", "train/grad_norm"):
            assert others[step][name] == pytest.approx(metrics[name], rel=1e-4), (step, name)


def test_adapters_train_and_are_folded_into_a_plain_checkpoint(train, sft_command, starter, tmp_path):
    train(sft_command(tmp_path / "run", "tuning=lora"))
    losses = [row["train/loss"] for row in read_metrics(tmp_path / "run").values()]
    assert losses[-1] < losses[0]
    export(tmp_path / "run", tmp_path / "hf")
    before, after = (load_file(folder / "model.safetensors") for folder in (starter, tmp_path / "hf"))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert not any(".visual.blocks." in name or "embed" in name for name in changed)
