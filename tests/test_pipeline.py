"""SFT, GRPO and export with the real verl, Ray, FSDP2 and vLLM: what the one shared run leaves behind."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.export import export
from qwen3vl_rl.training.metrics import read_metrics
from qwen3vl_rl.training.provenance import CARD


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint / "model.safetensors")


def changed(before: Path, after: Path) -> dict[str, bool]:
    """Of every tensor, whether any bit differs."""
    old, new = weights(before), weights(after)
    assert old.keys() == new.keys()
    return {name: not torch.equal(old[name], new[name]) for name in old}


def is_vision_encoder(name: str) -> bool:
    return ".visual." in name and "merger" not in name


def test_sft_lowers_the_loss(sft_run):
    losses = [step["train/loss"] for step in read_metrics(sft_run).values()]
    assert len(losses) == 8
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 0.5


def test_sft_tells_its_speed(sft_run):
    for step in read_metrics(sft_run).values():
        assert 0 < step["timing_s/data"] < step["perf/step_s"]
        assert step["perf/tokens_per_s"] * step["perf/step_s"] == pytest.approx(step["train/global_tokens"])


def test_sft_leaves_the_vision_encoder_alone_and_trains_the_rest(starter, sft_checkpoint):
    difference = changed(starter, sft_checkpoint)
    assert any(map(is_vision_encoder, difference))
    assert [name for name, differs in difference.items() if differs == is_vision_encoder(name)] == []


def test_rl_trains_every_tensor(sft_checkpoint, rl_checkpoint):
    assert [name for name, differs in changed(sft_checkpoint, rl_checkpoint).items() if not differs] == []


def test_rollouts_use_the_weights_that_were_synced(rl_run):
    """vLLM starts on random weights here, and the policy moves between the steps."""
    assert OmegaConf.load(rl_run / "recipe.yaml").actor_rollout_ref.rollout.load_format == "dummy"
    steps = read_metrics(rl_run)
    assert max(step["training/rollout_probs_diff_max"] for step in steps.values()) < 1e-3
    assert steps[3]["actor/kl_loss"] > 1e-2


def test_rl_reports_its_reward_and_validates(rl_run):
    steps = read_metrics(rl_run)
    assert list(steps) == [1, 2, 3]
    assert all("critic/score/mean" in step for step in steps.values())
    assert "val-core/grounding/acc/mean@1" in steps[3]
    rollouts = [json.loads(line) for line in (rl_run / "rollouts" / "1.jsonl").open()]
    assert len(rollouts) == 16
    assert {"input", "output", "gts", "score"} <= rollouts[0].keys()


@pytest.mark.parametrize("stage", ["sft", "rl"])
def test_an_export_is_whole_and_keeps_what_goes_with_the_weights(stage, starter, sft_checkpoint, rl_checkpoint):
    checkpoint = {"sft": sft_checkpoint, "rl": rl_checkpoint}[stage]
    assert {path.name for path in checkpoint.iterdir()} == {path.name for path in starter.iterdir()} | {CARD}
    for name in ("tokenizer.json", "chat_template.jinja", "processor_config.json", "generation_config.json"):
        assert (checkpoint / name).read_text() == (starter / name).read_text()
    assert json.loads((checkpoint / "config.json").read_text())["dtype"] == "float32"
    assert {tensor.dtype for tensor in weights(checkpoint).values()} == {torch.float32}


def test_sharded_weights_are_merged_and_rounded(sft_run, sft_checkpoint, tmp_path):
    step = shutil.copytree(sft_run / "global_step_8", tmp_path / "global_step_8")
    (step / "huggingface" / "model.safetensors").unlink()
    export(step, tmp_path / "merged")
    exact, merged = weights(sft_checkpoint), weights(tmp_path / "merged")
    assert exact.keys() == merged.keys()
    assert all(torch.equal(merged[name], exact[name].bfloat16()) for name in exact)
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["dtype"] == "bfloat16"


def test_an_export_replaces_an_older_one_and_a_failed_one_leaves_it(sft_run, tmp_path):
    target = tmp_path / "checkpoint"
    target.mkdir()
    (target / "config.json").touch()
    (target / "old").touch()
    with pytest.raises(InputError, match="expected a training run"):
        export(tmp_path, target)
    assert [path.name for path in tmp_path.rglob("*")] == ["checkpoint", "config.json", "old"]
    export(sft_run, target)
    assert not (target / "old").exists()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "important").touch()
    with pytest.raises(InputError, match="found other files"):
        export(sft_run, tmp_path / "notes")
    (tmp_path / "notes" / "important").unlink()
    (tmp_path / "notes").rmdir()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
