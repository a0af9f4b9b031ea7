"""scripts/grounding_qwen.sh: variables of the environment to overrides."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
SCRIPT = ["bash", "scripts/grounding_qwen.sh"]
PLAIN = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "MODEL_PATH", "DATA_DIR"))}


def composed(environment: dict[str, str], *overrides: str) -> dict:
    """The recipe that the launch script composes."""
    command = [*SCRIPT, *overrides, "--cfg", "job"]
    printed = subprocess.run(command, cwd=ROOT, env=PLAIN | environment, capture_output=True, text=True)
    assert printed.returncode == 0, printed.stderr
    return yaml.safe_load(printed.stdout)


def test_the_launch_script_hands_its_variables_on():
    names = {"DATA_DIR": "D", "MODEL_PATH": "M", "OUTPUT_DIR": "O", "TASK_NAME": "T", "PROJECT_NAME": "P"}
    recipe = composed(names | {"WANDB_MODE": "offline"}, "reward=giou")
    assert recipe["data"]["train_files"] == "D/train_grounding.parquet"
    assert recipe["data"]["val_files"] == "D/val_grounding.parquet"
    assert recipe["actor_rollout_ref"]["model"]["path"] == "M"
    assert recipe["trainer"]["default_local_dir"] == "O/T"
    assert (recipe["trainer"]["project_name"], recipe["trainer"]["experiment_name"]) == ("P", "T")
    assert recipe["trainer"]["logger"] == ["console", "file", "tensorboard", "wandb"]
    assert recipe["reward"]["custom_reward_function"]["reward_kwargs"]["reward_type"] == "giou"


def test_the_launch_script_has_defaults_for_all_but_the_data():
    recipe = composed({"DATA_DIR": "D"})
    assert recipe["actor_rollout_ref"]["model"]["path"] == "JamesZGQ/EGM-8B-SFT"
    assert recipe["trainer"]["default_local_dir"] == "outputs/rl"
    assert recipe["trainer"]["logger"] == ["console", "file", "tensorboard"]
    refused = subprocess.run(SCRIPT, cwd=ROOT, env=PLAIN, capture_output=True, text=True)
    assert refused.returncode != 0 and "DATA_DIR: must name" in refused.stderr


def test_the_sft_script_names_the_folder_itself_and_looks_without_exporting(tmp_path):
    """What it exports in the end is what it has trained."""
    script = ["bash", "scripts/sft_qwen3_2b_grounding.sh"]
    environment = PLAIN | {"TRAIN_FILE": "x=1,(2)/T", "OUTPUT_DIR": str(tmp_path), "TASK_NAME": "run"}
    run = {"cwd": ROOT, "env": environment, "capture_output": True, "text": True}
    refused = subprocess.run([*script, "trainer.default_local_dir=elsewhere"], **run)
    assert refused.returncode == 2 and "expected OUTPUT_DIR and TASK_NAME" in refused.stderr
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "latest_checkpointed_iteration.txt").write_text("1")
    looked = subprocess.run([*script, "--cfg", "job"], **run)
    assert looked.returncode == 0, looked.stderr
    recipe = yaml.safe_load(looked.stdout)
    assert recipe["trainer"]["default_local_dir"] == f"{tmp_path}/run"
    assert recipe["data"]["train_files"] == "x=1,(2)/T"
    assert not (tmp_path / "run" / "hf").exists()
