"""What stage 2 adds to a recipe before it starts, what its run reports, and the trend of its step rewards."""

import json
import re

import numpy as np
import pytest
from omegaconf import OmegaConf

from qwen3vl_rl.train import make_paths_absolute, set_sglang_sampling, summary, trend
from qwen3vl_rl.training.metrics import read_metrics


def test_every_step_reports_the_parts_of_its_reward(rl_run):
    parts = {"score", "acc", "iou", "format", "length_words", "repeats"}
    for metrics in read_metrics(rl_run).values():
        assert {f"reward/{part}" for part in parts} <= metrics.keys()
        assert metrics["reward/score"] == pytest.approx(metrics["critic/score/mean"])
        assert metrics["rollout/missing_responses"] == 0
        assert metrics["reward/length_words"] > 0


def test_a_validation_leaves_its_answers_and_a_page_of_pictures(rl_run):
    assert sorted(path.name for path in (rl_run / "validation").iterdir()) == ["3.html", "3.jsonl"]
    answers = [json.loads(line) for line in (rl_run / "validation" / "3.jsonl").open()]
    page = (rl_run / "validation" / "3.html").read_text()
    drawn = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert len(drawn) == len(answers) == 4
    assert all(sample["picture"].startswith("data:image/") and len(sample["truth"]) == 4 for sample in drawn)


def test_a_run_logs_for_tensorboard(rl_run):
    assert list((rl_run / "tensorboard").glob("events.*"))


def test_a_finished_run_is_left_as_it_is(rl_run, rl_command, train):
    assert train(rl_command(rl_run, "trainer.total_training_steps=3")) == f"{rl_run}: all 3 steps are trained\n"


def test_sglang_is_told_what_verl_tells_vllm_alone(starter):
    rollout = {"name": "sglang", "ignore_eos": True, "engine_kwargs": {"sglang": {"attention_backend": "triton"}}}
    config = OmegaConf.create({"actor_rollout_ref": {"model": {"path": str(starter)}, "rollout": rollout}})
    OmegaConf.set_struct(config, True)  # as Hydra gives it
    set_sglang_sampling(config)
    arguments = config.actor_rollout_ref.rollout.engine_kwargs.sglang
    assert arguments.attention_backend == "triton"
    ids = json.loads((starter / "config.json").read_text())
    banned = {str(ids["image_token_id"]): -10000.0, str(ids["video_token_id"]): -10000.0}
    assert json.loads(arguments.preferred_sampling_params) == {"logit_bias": banned, "ignore_eos": True}


def test_paths_are_made_absolute_and_what_is_no_path_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mine.py", "train.parquet", "more.parquet"):
        (tmp_path / name).touch()
    reward = {"custom_reward_function": {"reward_kwargs": {"reward_type": "mine.py:shorter"}}}
    data = {"train_files": ["train.parquet", "more.parquet"], "val_files": "gone.parquet"}
    model = {"model": {"path": "owner/name"}}
    config = OmegaConf.create({"reward": reward, "data": data, "actor_rollout_ref": model})
    make_paths_absolute(config)
    assert config.reward.custom_reward_function.reward_kwargs.reward_type == f"{tmp_path}/mine.py:shorter"
    assert config.data == {
        "train_files": [f"{tmp_path}/train.parquet", f"{tmp_path}/more.parquet"],
        "val_files": "gone.parquet",
    }
    assert config.actor_rollout_ref.model.path == "owner/name"
    config.reward.custom_reward_function.reward_kwargs.reward_type = "mix"
    make_paths_absolute(config)
    assert config.reward.custom_reward_function.reward_kwargs.reward_type == "mix"


def test_a_line_has_its_slope_without_doubt():
    assert trend({step: 2.0 + 0.5 * step for step in range(1, 9)}) == pytest.approx((0.5, 0.5, 0.5))


def test_the_interval_covers_the_slope_of_noisy_rewards():
    rng = np.random.default_rng(0)
    slope, low, high = trend({step: 0.1 * step + rng.normal(0, 0.2) for step in range(40)})
    assert low < 0.1 < high
    assert low < slope < high
    assert high - low < 0.05


def test_two_steps_have_no_trend():
    assert trend({1: 0.1, 2: 0.9}) is None


def test_the_end_of_a_run_tells_reward_and_length():
    rewards = {1: 0.2, 2: 0.4, 3: 0.6, 4: 0.8}
    rows = {
        step: {"critic/score/mean": reward, "response_length/mean": 60.0 + step} for step, reward in rewards.items()
    }
    first, second = summary({0: {"val-core/acc": 0.5}} | rows)
    assert first.startswith("reward trend per step +0.2000")
    assert second == "answers: 61 tokens in step 1, 64 in step 4"
    assert list(summary({})) == []
