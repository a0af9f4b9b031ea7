"""A run records its starts and its training rows once, whatever starts come after."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from qwen3vl_rl.data.rl_rows import write_rl_parquet
from qwen3vl_rl.data.samples import Sample
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.training.provenance import Origin, record_start
from qwen3vl_rl.training.run_folder import LATEST, PROVENANCE_FILE, record_data_hash, set_earlier_run_aside
from qwen3vl_rl.training.starts import Start

FIRST, SECOND = Start("1170ded", False, ["size=8b"]), Start("58c0ad7", True, ["size=8b", "trainer.save_freq=5"])


@pytest.fixture
def config(tmp_path) -> DictConfig:
    """A recipe of stage 2 with three rows."""
    (tmp_path / "run").mkdir()
    samples = [Sample(str(number), "a.png", 100, 100, "the red cup", (10.0, 10.0, 30.0, 30.0)) for number in range(3)]
    write_rl_parquet(tmp_path / "rl.parquet", samples, "train", tmp_path)
    config = OmegaConf.create(
        {
            "actor_rollout_ref": {"model": {"path": "base"}},
            "data": {"train_files": str(tmp_path / "rl.parquet")},
            "trainer": {"resume_mode": "auto", "default_local_dir": str(tmp_path / "run")},
        }
    )
    record_data_hash(config, "data.train_files")
    return config


@pytest.fixture
def begin(config, monkeypatch) -> Callable[[Start], dict | None]:
    """`begin(start)`: start the run of `config` so, and return the content of `provenance.json`."""

    def run(start: Start) -> dict | None:
        monkeypatch.setattr(Start, "of_this_process", lambda: start)
        set_earlier_run_aside(config)
        record_start(config)
        path = Path(config.trainer.default_local_dir) / PROVENANCE_FILE
        return json.loads(path.read_text()) if path.exists() else None

    return run


@pytest.fixture
def checkpointed(config) -> None:
    (Path(config.trainer.default_local_dir) / LATEST).write_text("2")


def commits(written: dict | None) -> list[str | None]:
    return [start["commit"] for start in written["starts"]]


def test_the_first_start_records_itself_and_the_rows(begin, config):
    assert begin(FIRST) == {
        "starts": [{"commit": "1170ded", "dirty": False, "overrides": ["size=8b"]}],
        "train_files": {
            "sha256": config.trainer.train_files_sha256,
            "by_file": [3],
            "by_prompt": {"qwen3": 3},
        },
    }


def test_a_resumed_run_adds_what_changed_and_keeps_its_rows(begin, config, tmp_path):
    begin(FIRST)
    (tmp_path / "run" / LATEST).write_text("2")
    (tmp_path / "rl.parquet").unlink()
    assert commits(begin(FIRST)) == ["1170ded"]
    assert commits(begin(SECOND)) == ["1170ded", "58c0ad7"]
    written = begin(FIRST)
    assert commits(written) == ["1170ded", "58c0ad7", "1170ded"]
    assert written["train_files"]["by_file"] == [3]


def test_starts_before_an_upgrade_are_unknown(begin, checkpointed):
    assert commits(begin(FIRST)) == [None, "1170ded"]


def test_a_run_begun_anew_forgets_the_starts_of_another(begin, tmp_path):
    begin(FIRST)
    assert commits(begin(SECOND)) == ["58c0ad7"]
    assert "1170ded" in (tmp_path / "run" / f"earlier-{PROVENANCE_FILE}").read_text()


def test_a_validation_and_further_nodes_record_nothing(begin, config, checkpointed, monkeypatch):
    OmegaConf.update(config, "trainer.val_only", True, force_add=True)
    assert begin(FIRST) is None
    config.trainer.val_only = False
    monkeypatch.setenv("PET_NODE_RANK", "1")
    assert begin(FIRST) is None


@pytest.mark.parametrize("broken", ["", "{", "[]", "{}", '{"starts": [{"comit": 1}], "train_files": null}'])
def test_a_broken_record_is_named(begin, tmp_path, broken):
    begin(FIRST)
    (tmp_path / "run" / LATEST).write_text("2")
    (tmp_path / "run" / PROVENANCE_FILE).write_text(broken)
    with pytest.raises(InputError, match=r"run/provenance\.json: expected what the starts of this run have recorded"):
        begin(SECOND)
    with pytest.raises(InputError, match=r"run/provenance\.json: .*; restore or remove the file"):
        Origin.read(tmp_path / "run" / "global_step_2")


def test_rows_that_cannot_be_read_are_left_out(begin, tmp_path):
    (tmp_path / "rl.parquet").write_text("no parquet")
    assert begin(FIRST)["train_files"] is None
