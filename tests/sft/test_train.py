"""What stops stage 1 before verl is started."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.training.preflight.resume import KINDS
from qwen3vl_rl.training.recipe import verl_config
from qwen3vl_rl.training.run_folder import LATEST, PROVENANCE_FILE, RECIPE_FILE, record_data_hash
from qwen3vl_rl.training.starts import revision
from sft.train import train

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "sft" / "config"
# Stage 1, with a trainer that ends at once.
WITHOUT_TRAINER = """
import runpy
from qwen3vl_rl.training import processes

start = processes.start
processes.start = lambda command, *others: start([command[0], "-c", ""], *others)
runpy.run_module("sft.train", run_name="__main__", alter_sys=True)
"""


def rows_of(count: int) -> pd.DataFrame:
    return pd.DataFrame({"messages": range(count), "images": [[__file__]] * count})


@pytest.fixture
def recipe(tmp_path):
    """`recipe(*overrides)`: of the tiny size, with 70 rows of data, which are two steps."""
    rows_of(70).to_parquet(tmp_path / "rows.parquet")
    assert verl_config()  # the resolver that finds verl's own configs

    def make(*overrides: str) -> DictConfig:
        given = [f"model.path={tmp_path}", f"data.train_files={tmp_path}/rows.parquet"]
        given.append("data.train_batch_size=32")
        folder = f"trainer.default_local_dir={tmp_path}/run"
        with initialize_config_dir(str(CONFIG), version_base=None):
            return compose("sft", ["size=tiny", "hardware=cpu", *given, folder, *overrides])

    return make


@pytest.fixture
def checkpointed(recipe, tmp_path):
    """A folder that holds a run of `recipe()` after step 2, an epoch."""
    step = tmp_path / "run" / "global_step_2"
    step.mkdir(parents=True)
    (step / "fsdp_config.json").write_text('{"world_size": 1}')
    for kind in KINDS:
        (step / f"{kind}_world_size_1_rank_0.pt").touch()
    (tmp_path / "run" / LATEST).write_text("2")
    config = recipe()
    record_data_hash(config, "data.train_files")
    OmegaConf.save(config, tmp_path / "run" / RECIPE_FILE)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("data.train_files", "data.train_batch_size=64: expected at most the 63 rows of data.train_files"),
        ("data.val_files", "data.val_files: expected at least the 64 rows of data.train_batch_size, found 63"),
    ],
)
def test_less_than_a_batch_of_rows_is_refused(recipe, key, message, tmp_path):
    config = recipe("data.train_batch_size=64", f"data.val_files={tmp_path}/rows.parquet")
    rows_of(63).to_parquet(tmp_path / "few.parquet")
    OmegaConf.update(config, key, [f"{tmp_path}/few.parquet"])
    with pytest.raises(InputError, match=message):
        train(config)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.train_batch_size=0"], "data.train_batch_size=0: expected at least 1"),
        (["trainer.total_epochs=0"], "trainer.total_epochs=0: expected at least 1"),
        (["trainer.total_training_steps=5"], "trainer.total_epochs=3 gives enough"),
        (["trainer.n_gpus_per_node=3"], "expected a multiple of the 3 GPUs"),
        (["trainer.test_freq=2"], "expected data.val_files to be set"),
        (["data.max_token_len_per_gpu=100"], "expected room for one sample"),
        (["data.loss_span=all"], 'data.loss_span: expected answer or turn, got "all"'),
        (["hardware=gpu1"], "found 0 GPUs here"),
        (["recipe=released", "tuning=lora"], r"freeze_deepstack_mergers=true: expected false with adapters"),
        (["+engine.share_prompts=true"], r"engine\.share_prompts=true: expected false"),
        (["engine.strategy=fsdp"], r"engine\.strategy=fsdp: expected fsdp2"),
        (["model.use_remove_padding=false"], r"engine\.response_logits_only=true: expected model"),
        (
            ["model.use_liger=true", "engine.compile_blocks=true"],
            r"use_liger=true: expected engine\.compile_blocks=false",
        ),
        (["hardware=gpu1", "trainer.n_gpus_per_node=2"], r"n_gpus_per_node=2, nnodes=1: expected one GPU with"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_settings_that_would_fail_later_are_refused(recipe, overrides, message, monkeypatch):
    monkeypatch.setattr("qwen3vl_rl.training.preflight.machine.gpu_memories_mib", lambda: [])
    with pytest.raises(InputError, match=message):
        train(recipe(*overrides))


def test_other_files_and_missing_images_are_named(recipe, tmp_path):
    (tmp_path / "rows.parquet").write_bytes(b"no parquet")
    with pytest.raises(InputError, match="expected parquet written by sft"):
        train(recipe())
    rows = rows_of(70)
    rows["images"] = [[__file__]] * 69 + [["gone.png"]]
    rows.to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(InputError, match='row 70: field "images": expected an image that exists'):
        train(recipe())


def test_a_checkpoint_that_is_not_whole_is_named(recipe, checkpointed, tmp_path):
    (tmp_path / "run" / "global_step_2" / "optim_world_size_1_rank_0.pt").unlink()
    with pytest.raises(InputError, match=r"optim_world_size_1_rank_0.pt: expected all 1 shards"):
        train(recipe())


def test_other_data_under_the_same_name_is_another_run(recipe, checkpointed, tmp_path):
    rows_of(71).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(InputError, match=r"holds a run with another trainer\.train_files_sha256"):
        train(recipe())


def test_a_finished_run_says_so_and_starts_nothing(recipe, checkpointed, capsys, tmp_path):
    train(recipe())
    assert capsys.readouterr().out == f"{tmp_path}/run: all 2 steps are trained\n"


@pytest.mark.parametrize(
    "override",
    [
        "optim.lr=1e-2",
        "pixels.sft.max_pixels=100352",
        "engine.freeze_vision=false",
    ],
)
def test_a_folder_keeps_to_one_run(recipe, checkpointed, override):
    with pytest.raises(InputError, match="holds a run with another " + override.partition("=")[0].rpartition(".")[0]):
        train(recipe(override))


def test_a_start_records_its_command_its_rows_and_where_its_model_is(tmp_path):
    rows_of(70).to_parquet(tmp_path / "rows.parquet")
    (tmp_path / "base").mkdir()
    overrides = ["size=tiny", "hardware=cpu", "model.path=base", "data.train_files=rows.parquet"]
    overrides += ["data.train_batch_size=32", "trainer.default_local_dir=run"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", WITHOUT_TRAINER, *overrides], cwd=tmp_path, env=environment, check=True)
    recipe = OmegaConf.load(tmp_path / "run" / RECIPE_FILE)
    assert recipe.model.path == str(tmp_path / "base")
    written = json.loads((tmp_path / "run" / PROVENANCE_FILE).read_text())
    assert written["starts"] == [{"commit": None, "dirty": None} | revision(ROOT) | {"overrides": overrides}]
    assert written["train_files"]["by_file"] == [70]
    assert not any(key in recipe.trainer for key in ("overrides", "code_commit"))  # W&B's config has the recipe
