"""Which checkpoints of a run count, and which are kept."""

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from qwen3vl_rl.training import checkpoints
from qwen3vl_rl.training.checkpoints import (
    best_step,
    is_trained,
    keep_newest,
    latest_step,
    remove_others,
    repair_checkpoint_record,
)

ACCURACY = "val-core/grounding/acc/mean@1"


@pytest.fixture
def run(tmp_path):
    """`run(latest, {step: accuracy})`: a run with those checkpoints; None for one that was not validated."""

    def make(latest: str | None, accuracies: dict[int, float | None]) -> Path:
        rows = []
        for step, accuracy in accuracies.items():
            (tmp_path / f"global_step_{step}").mkdir()
            rows.append({"step": step, "data": {} if accuracy is None else {ACCURACY: accuracy}})
        (tmp_path / "metrics-000.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        if latest is not None:
            (tmp_path / checkpoints.LATEST).write_text(latest)
        return tmp_path

    return make


def test_only_what_the_record_names_is_whole(run):
    folder = run("4", {2: 0.1, 4: 0.2, 6: 0.9})  # 6 is half written
    assert (latest_step(folder), best_step(folder)) == (4, 4)


def test_a_run_that_saved_nothing_has_no_checkpoint(run):
    folder = run(None, {2: 0.5})
    assert (latest_step(folder), best_step(folder)) == (None, None)
    repair_checkpoint_record(folder)
    assert latest_step(folder) is None


def test_the_newest_whole_ones_are_kept(run):
    folder = run("6", dict.fromkeys((2, 4, 6, 8)))  # 8 is half written
    keep_newest(folder, 2)
    assert sorted(path.name for path in folder.glob("global_step_*")) == [f"global_step_{n}" for n in (4, 6, 8)]
    keep_newest(folder, 5)
    assert len(list(folder.glob("global_step_*"))) == 3


def test_an_empty_record_stands_for_the_newest(run):
    folder = run("", {2: 0.1, 4: 0.2})
    assert latest_step(folder) == 4
    repair_checkpoint_record(folder)
    assert (folder / checkpoints.LATEST).read_text() == "4"


@pytest.mark.parametrize(
    ("latest", "mode", "trained"),
    [(None, "auto", False), ("2", "auto", False), ("4", "auto", True), ("4", "disable", False)],
)
def test_a_run_is_trained_once_its_last_step_is_saved(run, latest, mode, trained):
    folder = run(latest, {2: None, 4: None})
    recipe = OmegaConf.create({"trainer": {"default_local_dir": str(folder), "resume_mode": mode}})
    assert is_trained(recipe, 4) is trained


@pytest.mark.parametrize(
    ("accuracies", "best"),
    [({2: 0.5, 4: 0.7, 6: 0.6}, 4), ({2: 0.7, 4: 0.7}, 2), ({2: None, 4: 0.1, 6: None}, 4), ({2: None}, None)],
)
def test_the_best_is_the_earliest_with_the_highest_accuracy(run, accuracies, best):
    assert best_step(run(str(max(accuracies)), accuracies)) == best


def test_the_best_is_found_whatever_was_asked_and_how_often(run):
    folder = run("6", dict.fromkeys((2, 4, 6)))
    sources = {2: (0.2, 0.9), 4: (0.6, 0.6), 6: (0.9, 0.1)}
    names = ("val-core/my/boxes/acc/mean@4", "val-core/grounding/acc/mean@4")
    rows = ({"step": step, "data": dict(zip(names, both, strict=True))} for step, both in sources.items())
    (folder / "metrics-001.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert best_step(folder) == 4  # by the mean


def test_all_but_the_latest_and_the_best_are_removed(run):
    folder = run("8", {2: 0.1, 4: 0.7, 6: 0.6, 8: None, 10: None})
    remove_others(folder)
    assert sorted(path.name for path in folder.glob("global_step_*")) == ["global_step_4", "global_step_8"]


def test_verl_finds_the_callback_and_it_removes_after_a_save(run):
    from verl.trainer.ppo.checkpoint_callback import build_checkpoint_callback

    folder = run("4", {2: 0.1, 4: 0.2})
    name = "qwen3vl_rl.verl_ext.checkpoint_callback.KeepLatestAndBest"
    callback = build_checkpoint_callback(OmegaConf.create({"trainer": {"checkpoint_callback_class": name}}))
    callback.on_save(trainer=None, global_step=4, checkpoint_dir=str(folder / "global_step_4"))
    assert [path.name for path in folder.glob("global_step_*")] == ["global_step_4"]
