"""What a rehearsal measured becomes a forecast of the run, and advice."""

from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from qwen3vl_rl.data.samples import read_samples
from qwen3vl_rl.training import rehearsal
from qwen3vl_rl.training.gpus import GPUS
from qwen3vl_rl.training.planner.constants import read_constants
from qwen3vl_rl.training.planner.timing import step_seconds
from qwen3vl_rl.training.rehearsal import (
    GIB,
    Rehearsal,
    advice,
    first_question,
    planned_phases,
    report,
    step_and_save_s,
)
from qwen3vl_rl.training.workload import times

CONFIG = {"trainer": {"save_freq": 10, "test_freq": 20, "val_before_train": True, "max_ckpt_to_keep": 2}}


@pytest.fixture
def done() -> Rehearsal:
    return Rehearsal(
        config=OmegaConf.create(CONFIG), steps=100, steps_per_epoch=50, start_s=200.0, step_s=50.0,
        phases_s={"gen": 20.0, "update_actor": 29.9, "adv": 0.1, "step": 52.0, "save_checkpoint": 2.0}, save_s=2.0,
        checkpoint_bytes=10 * GIB, validate_s=30.0, free_bytes=100 * GIB, peaks_mib=(70_000, 60_000),
        answer_tokens=100.0, cut_off=0.02,
    )  # fmt: skip


@pytest.fixture
def gpus(monkeypatch) -> None:
    monkeypatch.setattr(rehearsal, "gpu_memories_mib", lambda: [81_559, 81_559])


def test_things_happen_every_so_many_steps_and_at_the_end():
    assert [times(100, 10), times(95, 10), times(5, 10), times(100, -1)] == [10, 10, 1, 0]


def test_the_whole_run_is_its_steps_checkpoints_and_validations(done, gpus):
    assert (done.saves, done.validations) == (10, 6)
    assert done.total_s == 200 + 100 * 50 + 10 * 2 + 6 * 30
    text = report(done)
    assert "1.5 h in total: 100 steps, 10 checkpoints, 6 validations" in text
    assert "GPU 0: at most 68.4 of 79.6 GiB in use" in text and "29.9  update_actor" in text
    assert "  adv" not in text and "  step" not in text  # of no weight, and the whole
    assert list(advice(done)) == []


def test_stage_1_may_save_by_epochs_and_keep_all(done, gpus):
    OmegaConf.update(done.config, "trainer.save_freq", "after_each_epoch")
    OmegaConf.update(done.config, "trainer.max_ckpt_to_keep", None)
    assert done.saves == 2
    (line,) = advice(replace(done, free_bytes=25 * GIB))
    assert line.startswith("free 30 GiB of disk for 3 checkpoints")


def test_a_step_is_told_from_its_checkpoint():
    assert step_and_save_s({"timing_s/step": 12.0, "timing_s/save_checkpoint": 2.0}) == (10.0, 2.0)
    assert step_and_save_s({"perf/step_s": 70.0, "timing_s/data": 60.0}) == (10.0, 60.0)  # stage 1, whose data wait


@pytest.mark.parametrize(("name", "known"), [("NVIDIA H100 80GB HBM3", "h100"), ("NVIDIA A100-SXM4-80GB", "a100")])
def test_gpus_are_told_apart_by_name_as_their_memory_is_alike(done, run_8b, monkeypatch, name, known):
    monkeypatch.setattr(rehearsal, "gpu_names", lambda: [name])
    monkeypatch.setattr(rehearsal, "modelled_run", lambda config: run_8b)
    config = OmegaConf.merge(done.config, {"actor_rollout_ref": {}})
    expected = step_seconds(replace(run_8b, answer_tokens=100), GPUS[known], read_constants()[0])
    assert planned_phases(replace(done, config=config)) == expected


def test_a_run_without_validation_has_none(done):
    assert replace(done, validate_s=None).validations == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"free_bytes": 25 * GIB}, "free 30 GiB of disk for 3 checkpoints"),
        ({"peaks_mib": (70_000, 80_000)}, "GPU memory is nearly full"),
        ({"save_s": 100.0}, "raise trainer.save_freq"),
        ({"validate_s": 1000.0}, "raise trainer.test_freq"),
        ({"cut_off": 0.3}, "30% of the answers are cut off"),
    ],
)
def test_what_would_go_wrong_is_told_with_what_to_change(done, gpus, change, said):
    (line,) = advice(replace(done, **change))
    assert said in line


def recipe(folder: Path, stage: int) -> DictConfig:
    if stage == 1:
        return OmegaConf.create({"data": {"train_files": str(folder / "sft.parquet")}})
    files = {"train_files": str(folder / "rl.parquet"), "val_files": str(folder / "rl_val.parquet")}
    return OmegaConf.create({"data": files, "actor_rollout_ref": {}})


@pytest.mark.parametrize("stage", [1, 2])
def test_the_first_row_becomes_a_question_with_its_truth(training_data, stage):
    sample = read_samples(training_data / "refshapes_train.jsonl")[0]
    question = first_question(recipe(training_data, stage)).sample
    assert (question.sent, question.width, question.height) == (sample.sent, sample.width, sample.height)
    assert Path(question.image) == training_data / "images" / sample.image
    assert question.xyxy_px == pytest.approx(sample.xyxy_px, abs=0.2)
