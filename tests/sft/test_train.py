"""What stops stage 1 before verl is started."""

from pathlib import Path

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from qwen3vl_rl.engine import launch
from qwen3vl_rl.grounding import InputError
from sft.train import train

CONFIG = Path(__file__).parents[2] / "sft" / "config"


@pytest.fixture
def recipe(tmp_path):
    """`recipe(*overrides)`: of the tiny size, with 70 rows of data, which are two steps."""
    pd.DataFrame({"messages": range(70)}).to_parquet(tmp_path / "rows.parquet")
    assert launch.verl_config()  # the resolver that finds verl's own configs

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
    (tmp_path / "run" / "global_step_2").mkdir(parents=True)
    (tmp_path / "run" / launch.LATEST).write_text("2")
    OmegaConf.save(recipe(), tmp_path / "run" / launch.RECIPE)


@pytest.mark.parametrize("key", ["data.train_files", "data.val_files"])
def test_less_than_a_batch_of_rows_is_refused(recipe, key, tmp_path):
    config = recipe("data.train_batch_size=64", f"data.val_files={tmp_path}/rows.parquet")
    pd.DataFrame({"messages": range(63)}).to_parquet(tmp_path / "few.parquet")
    OmegaConf.update(config, key, [f"{tmp_path}/few.parquet"])
    with pytest.raises(InputError, match=f"{key}: expected at least the 64 rows of data.train_batch_size, found 63"):
        train(config)


def test_a_finished_run_says_so_and_starts_nothing(recipe, checkpointed, capsys, tmp_path):
    train(recipe())
    assert capsys.readouterr().out == f"{tmp_path}/run: all 2 steps are trained\n"


@pytest.mark.parametrize("override", ["optim.lr=1e-2", "trainer.n_gpus_per_node=2", "pixels.sft.max_pixels=100352"])
def test_a_folder_keeps_to_one_run(recipe, checkpointed, override):
    with pytest.raises(InputError, match="holds a run with another " + override.partition("=")[0].rpartition(".")[0]):
        train(recipe(override))
