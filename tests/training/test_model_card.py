"""The model card says what a run recorded, says what it did not record, and shows no folder of the machine."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import OmegaConf
from safetensors.torch import save_file

from qwen3vl_rl.data.parquet import write_rows
from qwen3vl_rl.data.rl_rows import RL_SCHEMA, write_rl_parquet
from qwen3vl_rl.data.samples import Sample
from qwen3vl_rl.grounding import PROMPTS
from qwen3vl_rl.training.model_card import CARD, write_card
from qwen3vl_rl.training.provenance import record_start
from qwen3vl_rl.training.run_folder import LATEST, LOG, RECIPE_FILE, record_data_hash
from qwen3vl_rl.training.starts import Start
from sft.build_dataset import SFT_SCHEMA, sft_row

QWEN = "Qwen/Qwen3-VL-8B-Thinking"
BOX = (10.0, 10.0, 30.0, 30.0)
SAMPLES = [
    *(Sample(str(number), "a.png", 100, 100, "the red cup", BOX) for number in range(3)),
    Sample("3", "a.png", 100, 100, "the blue cup", BOX, (10.0, 10.0, 20.0, 20.0)),
]
REWARD = {"reward_type": "/home/me/my rewards.py:shorter", "alpha": 0.5, "threshold": 0.7, "parser": "house"}


@pytest.fixture
def weights(tmp_path) -> Path:
    """An exported checkpoint without a card."""
    folder = tmp_path / "weights"
    folder.mkdir()
    save_file({"a": torch.zeros(1000, 1500), "b": torch.zeros(5)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"dtype": "bfloat16", "model_type": "qwen3_vl"}))
    return folder


@pytest.fixture
def rl_checkpoint(tmp_path) -> Path:
    """Step 10 of 16 of a run of stage 2, on two train files."""
    files = [tmp_path / "data" / name for name in ("first.parquet", "second.parquet")]
    for file, samples in zip(files, (SAMPLES[:1], SAMPLES[1:]), strict=True):
        write_rl_parquet(file, samples, "train", tmp_path)
    actor = {"optim": {"lr": 3e-6, "lr_scheduler_type": "cosine"}, "policy_loss": {"loss_mode": "gspo"}}
    recipe = {
        "actor_rollout_ref": {"model": {"path": str(tmp_path / "base")}, "actor": actor, "rollout": {"n": 8}},
        "algorithm": {"adv_estimator": "grpo"},
        "reward": {"custom_reward_function": {"reward_kwargs": REWARD}},
        "data": {"train_files": list(map(str, files)), "train_batch_size": 256},
        "trainer": {"total_training_steps": None},
    }
    steps = "Total training steps: {}\n"
    return _run(tmp_path / "rl", recipe, steps.format(9) + "step:1\n" + steps.format(16)) / "global_step_10" / "actor"


@pytest.fixture
def sft_checkpoint(tmp_path) -> Path:
    """Step 600 of a run of stage 1."""
    rows = [sft_row(sample, "There is one.", tmp_path) for sample in SAMPLES]
    write_rows(tmp_path / "data" / "sft.parquet", rows, SFT_SCHEMA)
    recipe = {
        "model": {"path": QWEN, "lora_rank": 32},
        "optim": {"lr": 1e-5, "lr_scheduler_type": "cosine"},
        "pixels": {"sft": {"min_pixels": 784, "max_pixels": 50176}},
        "data": {"train_files": str(tmp_path / "data" / "sft.parquet"), "train_batch_size": 128},
        "trainer": {"total_training_steps": 700},
    }
    return _run(tmp_path / "sft", recipe, "") / "global_step_600"


def _run(folder: Path, recipe: dict, log: str) -> Path:
    """A run folder with this recipe, which gets the hash of its data as `train` writes it."""
    config = OmegaConf.create(recipe)
    record_data_hash(config, "data.train_files")
    folder.mkdir()
    OmegaConf.save(config, folder / RECIPE_FILE)
    (folder / LOG).write_text(log)
    return folder


@pytest.fixture
def card(weights) -> Callable[..., str]:
    """`card(checkpoint, scores)`: the text of the card."""

    def write(checkpoint: Path, scores: str | None = None) -> str:
        write_card(weights, checkpoint, "EGM-8B", scores)
        return (weights / CARD).read_text()

    return write


def metadata(text: str) -> dict:
    _, block, _ = text.split("---\n", 2)
    return yaml.safe_load(block)


def run_of(checkpoint: Path) -> Path:
    return next(folder for folder in checkpoint.parents if (folder / RECIPE_FILE).exists())


def change(checkpoint: Path, key: str, value: object) -> None:
    """Change the recipe of a checkpoint's run."""
    path = run_of(checkpoint) / RECIPE_FILE
    recipe = OmegaConf.load(path)
    OmegaConf.update(recipe, key, value, force_add=True)
    OmegaConf.save(recipe, path)


def test_a_card_of_stage_2(card, rl_checkpoint, tmp_path):
    text = card(rl_checkpoint, "| split | accuracy |")
    assert "\n# EGM-8B\n" in text and "reinforcement learning, stage 2 of EGM" in text
    for line in (
        "| `first.parquet` | 1 |\n| `second.parquet` | 3 |",
        "| size | 1.50 million parameters |",
        "| weights | bfloat16 |",
        "| steps done | 10 of 16 |",
        "| algorithm | advantages grpo, loss gspo, aggregation not recorded |",
        "| learning rate | 3e-06 at its peak, schedule cosine |",
        "| prompts x answers per step | 256 x 8 |",
        "| reward | my rewards.py:shorter (alpha 0.5, IoU threshold 0.7) |",
        "| parser of the reward | strict |",
        "| longest answer | not recorded |",
        "Commit of the code: not recorded.",
        "Overrides of the training command: not recorded.",
        "## Scores\n\n| split | accuracy |",
        f"`qwen3`, 3 rows:\n\n```text\n{PROMPTS['qwen3']}\n```",
        f"a part of it is hidden):\n\n```text\n{PROMPTS['qwen3_amodal']}\n```",
        '```json\n[\n\t{"bbox_2d": [120, 410, 285, 760], "label": "the red cup"}\n]\n```',
        "The reward read boxes with the parser `strict`",
        "bash scripts/serve.sh EGM-8B\n",
    ):
        assert line in text
    assert str(tmp_path) not in text and "/home" not in text


def test_a_card_of_stage_1(card, sft_checkpoint):
    text = card(sft_checkpoint)
    assert metadata(text)["tags"][-1] == "sft"
    for line in (
        "| stage | 1, supervised fine-tuning |",
        "| steps done | 600 of 700 |",
        "| samples per step | 128 |",
        "| pixels of an image | 784 to 50176 |",
        "| rank of LoRA adapters (0: none) | 32 |",
        "| `sft.parquet` | 4 |",
        "The export was given no evaluation.",
        "EGM reads boxes with the parser `strict`",
    ):
        assert line in text


def test_a_base_on_the_hub_is_linked_and_gives_its_licence(card, sft_checkpoint):
    text = card(sft_checkpoint)
    known = metadata(text)
    assert known["license"] == "apache-2.0" and known["base_model"] == QWEN
    assert known["pipeline_tag"] == "image-text-to-text" and known["library_name"] == "transformers"
    assert f"[{QWEN}](https://huggingface.co/{QWEN})" in text
    assert "The code of EGM is under Apache-2.0." in text and "that of the base model: apache-2.0." in text
    change(sft_checkpoint, "model.path", "someone/some-model")
    known = metadata(card(sft_checkpoint))
    assert known["base_model"] == "someone/some-model" and known["license"] == "other"


def test_a_local_base_is_unknown_unless_it_has_a_card(card, rl_checkpoint, sft_checkpoint, weights, tmp_path):
    text = card(rl_checkpoint)
    assert "`base`, a local checkpoint. Its name on the Hugging Face Hub is not recorded." in text
    assert "base_model" not in metadata(text) and metadata(text)["license_name"] == "that-of-the-base-model"
    assert text.endswith("The licence of the weights is that of the base model.\n")
    card(sft_checkpoint)
    (tmp_path / "base").mkdir()
    (weights / CARD).rename(tmp_path / "base" / CARD)
    text = card(rl_checkpoint)
    assert f"`base`, a local checkpoint that was trained from [{QWEN}]" in text
    assert metadata(text)["base_model"] == QWEN and metadata(text)["license"] == "apache-2.0"


@pytest.mark.parametrize(
    ("base_card", "licence", "hub"),
    [
        ("---\nlicense: mit\n---\n# Base", "mit", None),
        (f"---\nlicense: other\nbase_model: {QWEN}\n---\n", "other", QWEN),
        (f"---\nbase_model: {QWEN}\n---\n", "apache-2.0", QWEN),
        ("# Base without metadata\n---\nlicense: mit\n---\n", "other", None),
        ("---\n: : [broken\n---\n", "other", None),
    ],
)
def test_the_card_of_the_base_decides(card, rl_checkpoint, tmp_path, base_card, licence, hub):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / CARD).write_text(base_card)
    known = metadata(card(rl_checkpoint))
    assert known["license"] == licence and known.get("base_model") == hub


@pytest.mark.parametrize("other", ["missing", "replaced", "not hashed"])
def test_rows_and_prompts_of_other_files_are_not_shown(card, rl_checkpoint, tmp_path, other):
    file = tmp_path / "data" / "second.parquet"
    if other == "missing":
        file.unlink()
    elif other == "replaced":
        write_rl_parquet(file, SAMPLES[:2], "train", tmp_path)
    else:
        change(rl_checkpoint, "trainer.train_files_sha256", None)
    text = card(rl_checkpoint)
    assert "| `first.parquet` | not recorded |\n| `second.parquet` | not recorded |" in text
    assert "The prompts of the training rows are not recorded. EGM's tools ask as follows." in text
    assert PROMPTS["qwen3"] in text and "rows:" not in text


def test_rows_with_other_prompts_are_counted(card, rl_checkpoint, tmp_path):
    file = tmp_path / "data" / "own.parquet"
    turns = [[{"role": "user", "content": "<image>Where is it?"}], [], None]
    write_rows(file, [{"prompt": turn} for turn in turns], RL_SCHEMA)
    recipe = OmegaConf.create({"data": {"train_files": str(file)}})
    record_data_hash(recipe, "data.train_files")
    change(rl_checkpoint, "data.train_files", str(file))
    change(rl_checkpoint, "trainer.train_files_sha256", recipe.trainer.train_files_sha256)
    change(rl_checkpoint, "data.train_max_samples", 2)
    text = card(rl_checkpoint)
    assert "| `own.parquet` | 3 |" in text and "The run used at most 2 of the rows" in text
    assert "3 rows ask with a prompt that is not one of EGM's." in text and PROMPTS["qwen3"] not in text


def test_a_checkpoint_outside_its_run_has_a_card_without_facts(card, tmp_path):
    text = card(tmp_path / "copied")
    for line in (
        "It was trained with EGM",
        "The base model is not recorded.",
        "The train files are not recorded.",
        "| stage | not recorded |",
        "| steps done | not recorded |",
        "The prompts of the training rows are not recorded.",
    ):
        assert line in text
    assert "| learning rate |" not in text


@pytest.fixture
def begin(monkeypatch) -> Callable[..., None]:
    """`begin(checkpoint, commit, dirty, overrides)`: record such a start of the checkpoint's run, which resumes it."""

    def record(checkpoint: Path, *start: object) -> None:
        run = run_of(checkpoint)
        config = OmegaConf.load(run / RECIPE_FILE)
        config.trainer.default_local_dir = str(run)
        monkeypatch.setattr(Start, "of_this_process", lambda: Start(*start))
        record_start(config)
        (run / LATEST).write_text("10")

    return record


def test_recorded_overrides_and_commit_are_shown(card, begin, rl_checkpoint):
    files = "data.train_files=[/home/me/a.parquet,/home/me/b.parquet]"
    begin(rl_checkpoint, "1170ded", False, ["size=8b", files])
    text = card(rl_checkpoint)
    assert "Commit of the code: `1170ded`." in text
    assert "Overrides of the training command:\n\n```text\nsize=8b\ndata.train_files=[a.parquet,b.parquet]\n```" in text


def test_commits_of_all_starts_and_overrides_of_the_last_are_shown(card, begin, rl_checkpoint):
    for commit, dirty in (("1170ded", False), ("58c0ad7", True), ("1170ded", False)):
        begin(rl_checkpoint, commit, dirty, ["size=8b"])
    text = card(rl_checkpoint)
    starts = "Commits of the code, in the order of the run's starts"
    assert f"{starts}: `1170ded`; `58c0ad7`, with uncommitted changes." in text
    assert "Overrides of the training command:\n" in text
    begin(rl_checkpoint, None, None, [])
    text = card(rl_checkpoint)
    assert "with uncommitted changes; not recorded." in text
    assert "Overrides of the training command, at its last start: none." in text


def test_recorded_rows_outlive_the_files(card, begin, rl_checkpoint, tmp_path):
    begin(rl_checkpoint, "1170ded", False, [])
    (tmp_path / "data" / "second.parquet").unlink()
    text = card(rl_checkpoint)
    assert "| `first.parquet` | 1 |\n| `second.parquet` | 3 |" in text and "`qwen3`, 3 rows:" in text
    change(rl_checkpoint, "trainer.train_files_sha256", "of other files")
    assert "| `second.parquet` | not recorded |" in card(rl_checkpoint)


def test_quantized_weights_are_named(card, rl_checkpoint, weights):
    quantized = {"quantization_config": {"quant_method": "compressed-tensors"}}
    config = {"dtype": "bfloat16", "model_type": "qwen3_vl"} | quantized
    (weights / "config.json").write_text(json.dumps(config))
    save_file({"weight": torch.zeros(2000, 1000), "weight_scale": torch.zeros(50_000)}, weights / "model.safetensors")
    text = card(rl_checkpoint)
    assert "| weights | quantized by compressed-tensors |" in text and "| size | 2.00 million parameters |" in text
