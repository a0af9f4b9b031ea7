"""Shell scripts from another folder: relative paths are the caller's, and no letter of a path is Hydra's."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
ODD = "a=1, (b) 猫"
PLAIN = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "MODEL_PATH", "DATA_"))}


def bash(script: str, *arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess:
    command = ["bash", str(ROOT / script), *arguments]
    return subprocess.run(command, cwd=cwd, env=PLAIN | variables, capture_output=True, text=True)


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / ODD).mkdir()
    return tmp_path / ODD


@pytest.mark.slow
def test_stage_1_looks_in_the_folder_of_the_caller(folder):
    variables = {"TRAIN_FILE": f"{ODD}.parquet", "OUTPUT_DIR": ODD, "TASK_NAME": "run=1"}
    looked = bash("scripts/sft_qwen3_8b_grounding.sh", "--cfg", "job", cwd=folder, **variables)
    assert looked.returncode == 0, looked.stderr
    recipe = yaml.safe_load(looked.stdout)
    assert recipe["data"]["train_files"] == f"{ODD}.parquet"
    assert recipe["trainer"]["default_local_dir"] == f"{ODD}/run=1"
    refused = bash("scripts/sft_qwen3_8b_grounding.sh", "model.path=.", cwd=folder, **variables)
    assert refused.returncode == 2 and f"data.train_files: no such file or folder: {ODD}.parquet" in refused.stderr
    (folder / f"{ODD}.parquet").write_text("no parquet")
    found = bash("scripts/sft_qwen3_8b_grounding.sh", "model.path=.", cwd=folder, **variables)
    assert found.returncode == 2 and f"{ODD}.parquet: expected parquet written by sft.build_dataset" in found.stderr


@pytest.mark.slow
def test_the_release_s_names_of_folders_are_understood(folder):
    (folder / "val").mkdir()
    variables = {"BASE_IMG_DIR": "img", "VAL_DIR": "val", "OUTPUT_DIR": "out"}
    refused = bash("examples/data_preprocess/grounding_val.sh", cwd=folder, **variables)
    assert refused.returncode == 2 and "val/refcoco_val.jsonl: expected a jsonl file, found none" in refused.stderr
    missing = bash("examples/data_preprocess/grounding_val.sh", cwd=folder, BASE_IMG_PATH="img")
    assert missing.returncode == 2 and "error: OUTPUT_DIR is not set" in missing.stderr
    variables = {"REFCOCO_ANNOTATION_PATH": "cot.jsonl", "REFCOCO_DATA_PATH": "img"}
    looked = bash("scripts/sft_qwen3_2b_grounding.sh", "--cfg", "job", cwd=folder, **variables)
    assert yaml.safe_load(looked.stdout)["data"]["train_files"] == "outputs/sft_2b.parquet"
    built = bash("scripts/sft_qwen3_2b_grounding.sh", cwd=folder, **variables)
    assert built.returncode == 2 and "cot.jsonl: expected a jsonl file, found none" in built.stderr


@pytest.mark.parametrize("script", sorted(path.relative_to(ROOT) for path in ROOT.glob("scripts/**/*.sh")), ids=str)
def test_every_script_parses_and_none_quotes_hydra_s_values_itself(script):
    assert subprocess.run(["bash", "-n", str(ROOT / script)]).returncode == 0
    text = (ROOT / script).read_text()
    for key in ("model.path", "data.train_files", "data.val_files", "trainer.default_local_dir"):
        assert f'{key}="$' not in text.replace('="$OUT/', "")  # gpu_smoke.sh: a fixed folder of the checkout
