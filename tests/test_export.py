"""Which checkpoint of a run is exported; tests/test_pipeline.py exports real ones."""

import json

import pytest

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.export import find_checkpoint
from qwen3vl_rl.training.checkpoints import LATEST, VALIDATION


@pytest.fixture
def run(tmp_path):
    """A run of stage 2 whose checkpoint 2 validated better than 4."""
    for step in (2, 4):
        shards = tmp_path / f"global_step_{step}" / "actor"
        shards.mkdir(parents=True)
        (shards / "fsdp_config.json").touch()
    rows = [{"step": step, "data": {VALIDATION: accuracy}} for step, accuracy in ((2, 0.9), (4, 0.8))]
    (tmp_path / "metrics-000.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / LATEST).write_text("4")
    return tmp_path


def test_the_latest_or_the_best_checkpoint_of_a_run_or_a_folder_of_it(run):
    assert find_checkpoint(run) == run / "global_step_4" / "actor"
    assert find_checkpoint(run, "best") == run / "global_step_2" / "actor"
    assert find_checkpoint(run / "global_step_2") == run / "global_step_2" / "actor"


def test_without_validation_there_is_no_best(run):
    (run / "metrics-000.jsonl").write_text("")
    with pytest.raises(InputError, match="expected a validated checkpoint"):
        find_checkpoint(run, "best")
    with pytest.raises(InputError, match="expected a training run"):
        find_checkpoint(run / "global_step_4" / "actor" / "nothing")
