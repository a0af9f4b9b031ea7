"""What our replay buffer reports, from fields as verl stores them."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from inspect import getsource
from pathlib import Path

import numpy as np
import pytest
import wandb
from omegaconf import OmegaConf
from tensordict.tensorclass import NonTensorData
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from qwen3vl_rl.training.signs import WINDOW
from qwen3vl_rl.verl_ext.replay_buffer import (
    NONE_LEFT,
    ReportingReplayBuffer,
    alike_groups,
    check_answered,
    example,
    plain,
)

NO_FILTER = {"filter_groups": {"enable": False, "metric": "acc", "max_inflight_gen_batches": 1}}
STARTER = Path(__file__).parents[2] / "examples" / "starter" / "checkpoint"


@pytest.fixture
def build_buffer(monkeypatch) -> Callable[..., ReportingReplayBuffer]:
    """`build_buffer(**sampler_kwargs)`: a buffer as verl's trainer creates it, without watching Ray's actors."""
    monkeypatch.setattr("qwen3vl_rl.verl_ext.replay_buffer.end_when_one_dies", lambda: None)

    def build(**sampler_kwargs) -> ReportingReplayBuffer:
        return ReportingReplayBuffer(
            trainer_mode="sync",
            trainer_config=OmegaConf.create({}),
            max_off_policy_threshold=None,
            max_off_policy_strategy="drop",
            sampler_kwargs=OmegaConf.create({"tokenizer": str(STARTER), "prompts": 1, **NO_FILTER, **sampler_kwargs}),
            refill_fn=lambda prompts: prompts,
        )

    return build


@pytest.mark.slow
def test_weights_and_biases_gets_one_alert_per_sign(build_buffer, monkeypatch, tmp_path):
    metrics, alerts = tmp_path / "run" / "metrics-000.jsonl", []
    metrics.parent.mkdir()
    monkeypatch.setenv("VERL_FILE_LOGGER_PATH", str(metrics))
    buffer, row = build_buffer(), {"response_length/mean": 50, "rollout/cut_off": 0.8, "actor/kl_loss": 2.0}
    buffer._alert()  # no run is on
    with wandb.init(mode="offline", dir=tmp_path), monkeypatch.context() as patch:  # a run has its own `alert`
        patch.setattr(wandb, "alert", lambda title, text: alerts.append((title, text)))
        for step in range(1, 8):
            with metrics.open("a") as file:
                file.write(json.dumps({"step": step, "data": row}) + "\n")
            buffer._alert()
            assert len(alerts) == 2 * (step >= WINDOW)
    assert [title for title, _ in alerts] == ["answers-are-cut-off", "far-from-the-start"]
    assert alerts[0][1].startswith("run: warning: 80% of the answers reach data.max_response_length")


def test_columns_of_any_type_become_lists():
    rows = [{"iou": 1.0}, {"iou": 0.5}]
    assert plain(rows) == plain(np.array(rows, dtype=object)) == plain([NonTensorData(row) for row in rows]) == rows


def test_an_example_is_read_from_the_fields_of_an_answer():
    content = [{"type": "image", "image": "/a.jpg"}, {"type": "text", "text": "Locate the cup"}]
    messages, model = [{"role": "user", "content": content}], {"ground_truth": np.array([1, 2, 3, 4])}
    shown = example("text", messages, model, {"width": 640, "height": 480, "index": 7})
    assert shown == ("/a.jpg", "Locate the cup", "text", (1, 2, 3, 4), 640, 480)


def test_a_step_with_missing_answers_ends_the_run():
    """verl would continue with the remaining answers, which are the better ones."""
    check_answered(128, 128, 1)
    check_answered(1275, 1280, 1)  # chance
    for answers in (0, 100):
        with pytest.raises(RuntimeError, match=f"step 3: {128 - answers} of 128 answers are missing"):
            check_answered(answers, 128, 3)


@pytest.mark.parametrize(
    ("partition", "prompts", "answers", "goes_on"),
    [
        *(("train", 16, 60, True), ("train", 16, 59, False)),  # one request, whose four answers fail together, and more
        *(("train", 9, 32, False), ("train", 200, 792, True), ("train", 200, 791, False)),
        *(("train", 16, 61, False), ("val", 16, 48, True), ("val", 16, 45, False), ("val", 400, 1188, True)),
    ],
)
def test_a_training_step_of_ten_prompts_may_lose_one(build_buffer, monkeypatch, partition, prompts, answers, goes_on):
    batch = KVBatchMeta(
        keys=[f"{number // 4}_{number % 4}_0" for number in range(answers)],
        tags=[{"seq_len": number, "response_len": 2} for number in range(answers)],
        partition_id=partition,
    )
    monkeypatch.setattr(ReplayBuffer, "sample", lambda *_: (batch, {}))
    monkeypatch.setattr("qwen3vl_rl.verl_ext.replay_buffer.mean_parts", lambda _: {})
    monkeypatch.setattr(ReportingReplayBuffer, "_write_page", lambda *_: None)
    with nullcontext() if goes_on else pytest.raises(RuntimeError, match="answers are missing"):
        _, metrics = build_buffer(answers=4, val_answers=3, answer_tokens=2).sample(1, partition, prompts)
        assert metrics.get("rollout/cut_off", 1.0) == 1.0


@pytest.mark.parametrize(("partition", "wanted"), [("train", 8), ("val", 6)])
def test_a_step_without_any_answer_names_the_engine(build_buffer, monkeypatch, partition, wanted):
    """verl's own message advises to enable retries."""
    assert NONE_LEFT in getsource(ReplayBuffer)
    message = "Sync replay buffer selected terminal groups with no materializable trajectories. Enable something"
    monkeypatch.setattr(ReplayBuffer, "sample", lambda *_: (_ for _ in ()).throw(RuntimeError(message)))
    buffer = build_buffer(answers=4, val_answers=3)
    with pytest.raises(RuntimeError, match=f"step 7: {wanted} of {wanted} answers are missing, the engine"):
        buffer.sample(7, partition, 2)


def test_only_the_first_validation_batch_is_shown(build_buffer, monkeypatch):
    monkeypatch.setattr(ReplayBuffer, "sample", lambda *_: (["answer"] * 2, {}))
    shown = []
    monkeypatch.setattr(ReportingReplayBuffer, "_write_page", lambda _, batch, step: shown.append(step))
    buffer = build_buffer(val_answers=1)
    for step in (0, 0, 10, 10):
        buffer.sample(step, "val", 2)
    assert shown == [0, 10]


def test_other_errors_of_the_buffer_are_passed_on(build_buffer, monkeypatch):
    monkeypatch.setattr(ReplayBuffer, "sample", lambda *_: (_ for _ in ()).throw(RuntimeError("another one")))
    buffer = build_buffer(answers=4)
    with pytest.raises(RuntimeError, match="another one"):
        buffer.sample(7, "train", 2)


def test_prompts_whose_answers_are_all_alike_are_counted():
    prompts = ["a", "a", "b", "b", "c", "c", "d"]
    parts = [{"acc": value} for value in (1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0)]  # d lost all but one
    assert alike_groups(prompts, parts) == {"rollout/alike_groups": pytest.approx(2 / 3)}
    assert alike_groups(["a", "a"], [{"score": 1.0}] * 2) == {}
