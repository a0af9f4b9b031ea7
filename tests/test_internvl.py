"""The chain with a tiny InternVL: stage 1, export, stage 2 with vLLM, evaluation. One run, shared by all tests."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForImageTextToText

from qwen3vl_rl.export import export
from qwen3vl_rl.training.metrics import read_metrics

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def published(internvl, tmp_path_factory):
    """The checkpoint with a config.json that leaves out if embeddings are tied, which transformers then assumes."""
    folder = shutil.copytree(internvl, tmp_path_factory.mktemp("internvl") / "published")
    config = json.loads((folder / "config.json").read_text())
    assert config.pop("tie_word_embeddings") is False
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def sft_run(train, published, training_data):
    folder = published.with_name("sft")
    train([
        sys.executable, "-m", "sft.train", "hardware=cpu", "size=internvl_tiny", "data.train_batch_size=16",
        f"model.path={published}", f"data.train_files={training_data}/sft.parquet",
        f"trainer.default_local_dir={folder}",
    ])  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def sft_checkpoint(sft_run):
    return export_to(sft_run)


@pytest.fixture(scope="module")
def rl_run(train, sft_checkpoint, training_data, small_rl):
    """Two steps. The engine starts with random weights, so that it has to get those of the actor."""
    folder = sft_checkpoint.with_name("rl")
    train([
        sys.executable, "-m", "qwen3vl_rl.train", "hardware=cpu", "size=internvl_tiny", *small_rl,
        f"actor_rollout_ref.model.path={sft_checkpoint}", "actor_rollout_ref.rollout.load_format=dummy",
        f"data.train_files={training_data}/rl.parquet", f"data.val_files={training_data}/rl_val.parquet",
        f"trainer.default_local_dir={folder}", "trainer.total_training_steps=2",
    ])  # fmt: skip
    return folder


def export_to(run):
    folder = run.with_name(f"{run.name}_checkpoint")
    export(run, folder)
    return folder


def weights(folder) -> dict[str, torch.Tensor]:
    return AutoModelForImageTextToText.from_pretrained(folder).state_dict()


def changed(before, after) -> set[str]:
    """The parts with a tensor that training has changed."""
    early, late = weights(before), weights(after)
    return {name.split(".")[1] for name in early if not torch.equal(early[name], late[name])}


def test_sft_lowers_the_loss_and_leaves_the_vision_tower_alone(sft_run, internvl, sft_checkpoint):
    losses = [row["train/loss"] for row in read_metrics(sft_run).values() if "train/loss" in row]
    assert losses[-1] < losses[0] - 0.5
    assert changed(internvl, sft_checkpoint) == {"multi_modal_projector", "language_model", "weight"}


def test_trainer_and_engine_score_the_same_prompts_pictures_and_weights(rl_run):
    """A prompt with doubled marks or without its picture raises no error, and gives differences of 0.05 and more."""
    rows = read_metrics(rl_run)
    assert [rows[step]["training/rollout_probs_diff_valid"] for step in (1, 2)] == [1, 1]
    assert max(rows[step]["training/rollout_probs_diff_max"] for step in (1, 2)) < 5e-3


def test_rl_trains_all_parts(rl_run, sft_checkpoint):
    rl_checkpoint = export_to(rl_run)
    assert changed(sft_checkpoint, rl_checkpoint) >= {"multi_modal_projector", "language_model", "vision_tower"}


def test_an_export_holds_all_files_of_the_processor(sft_checkpoint, internvl):
    kept = {path.name for path in internvl.iterdir()} - {"model.safetensors", "config.json"}
    assert kept <= {path.name for path in sft_checkpoint.iterdir()}
    settings = (json.loads((folder / "processor_config.json").read_text()) for folder in (internvl, sft_checkpoint))
    assert next(settings) == next(settings)


def test_an_export_of_shards_holds_them_too(sft_run, internvl, tmp_path):
    step = shutil.copytree(max(sft_run.glob("global_step_*")), tmp_path / "global_step_2")
    (step / "huggingface" / "model.safetensors").unlink()
    export(step, tmp_path / "merged")
    kept = {path.name for path in internvl.iterdir()}
    assert kept <= {path.name for path in (tmp_path / "merged").iterdir()}


@pytest.mark.long
def test_transformers_and_vllm_agree_on_the_checkpoint(sft_checkpoint, training_data, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "qwen3vl_rl.first_contact", str(sft_checkpoint), "--data", str(training_data / "eval"),
         "--images", str(training_data / "images"), "--max-tokens", "32", "--out", str(tmp_path)],
        capture_output=True, text=True,
    )  # fmt: skip
    (line,) = (line for line in done.stdout.splitlines() if "log-probabilities" in line)
    assert line.startswith("ok") and "0.0000 nats apart on average" in line
    for name in ("weights", "special tokens", "tiles", "pixels"):
        assert f"\nok  {name}" in f"\n{done.stdout}", done.stdout
