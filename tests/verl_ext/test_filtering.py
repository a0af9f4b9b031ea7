"""The prompt filter: what happens to every prompt, and when a run ends."""

from collections import Counter
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from verl.trainer.ppo.v1 import replay_buffer as theirs

from qwen3vl_rl.verl_ext.filtering import FilteringReplayBuffer, PromptBudget


class Queue:
    """Replaces TransferQueue's store and the rollout engine: prompts with two answers each.

    alike: for each prompt in the order of fetching, whether both answers get the same `acc`.
    """

    def __init__(self, alike: Iterable[bool]):
        self.alike = iter(alike)
        self.status: dict[str, str] = {}
        self.answers: dict[str, float] = {}  # acc, by PROMPT_ANSWER_TURN
        self.fetched: list[str] = []
        self.left: Counter = Counter()  # how often each prompt has left the store

    def fetch(self, prompts: int) -> int:
        for prompt in (str(len(self.fetched) + number) for number in range(prompts)):
            self.status[prompt] = "running"
            second = 1.0 if next(self.alike) else 0.0
            self.answers.update({f"{prompt}_0_0": 1.0, f"{prompt}_1_0": second})
        self.fetched += list(self.status)[-prompts:]
        return prompts

    def finish(self, prompt: str) -> None:
        self.status[prompt] = "finished"

    def kv_list(self) -> dict:
        prompts = {p: {"is_prompt": True, "status": status, "global_steps": 1} for p, status in self.status.items()}
        return {"train": prompts | {key: {"seq_len": 1} for key in self.answers}}

    def kv_batch_get(self, keys: list[str], **_: object) -> dict:
        return {"extra_fields": [{"reward_extra_info": {"acc": self.answers[key]}} for key in keys]}

    def kv_clear(self, partition_id: str, keys: Iterable[str]) -> None:
        for key in keys:
            if self.status.pop(key, None):
                self.left[key] += 1
            self.answers.pop(key, None)


def buffer_of(queue: Queue, batch: int, in_flight: int) -> FilteringReplayBuffer:
    options = {"enable": True, "metric": "acc", "max_inflight_gen_batches": in_flight}
    return FilteringReplayBuffer(
        trainer_mode="sync",
        trainer_config=OmegaConf.create({}),
        max_off_policy_threshold=None,
        max_off_policy_strategy="drop",
        sampler_kwargs=OmegaConf.create({"filter_groups": options, "prompts": batch}),
        refill_fn=queue.fetch,
    )


@given(
    batch=st.integers(1, 5),
    extra=st.integers(0, 12),
    in_flight=st.integers(1, 3),
    alike=st.lists(st.booleans(), min_size=17, max_size=17),
    seed=st.integers(0, 2**16),
)
def test_every_fetched_prompt_is_trained_on_filtered_or_surplus(batch, extra, in_flight, alike, seed):
    queue, draw = Queue(alike), np.random.default_rng(seed)
    buffer = buffer_of(queue, batch, in_flight)

    def wait(partition_id: str, last_debug_time: float) -> float:
        running = [prompt for prompt, status in queue.status.items() if status == "running"]
        for prompt in draw.permutation(running)[: draw.integers(1, len(running), endpoint=True)]:
            queue.finish(str(prompt))
        return last_debug_time

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(theirs, "tq", queue)
        patch.setattr(buffer, "_wait_for_next_poll", wait)
        queue.fetch(batch)
        buffer.allow(batch + extra)
        taken, metrics = buffer.sample(1, "train", batch)
    trained = {key.split("_")[0] for key in taken.keys}
    filtered = metrics.get("training/filter_groups/evicted_samples", 0)
    surplus = metrics.get("training/filter_groups/discarded_surplus_samples", 0)
    assert len(trained) == batch
    assert len(trained) + filtered + surplus == len(queue.fetched) <= batch + extra
    assert queue.left == Counter(queue.fetched)  # each once
    is_alike = dict(zip(queue.fetched, alike, strict=False))
    assert sum(metrics.get(theirs.DAPO_FILTERED_REWARD_COUNTS_KEY, {}).values()) == filtered
    if any(is_alike[prompt] for prompt in trained):  # only if the limit left no others
        assert len(queue.fetched) == batch + extra
        assert not any(not is_alike[prompt] for prompt in set(queue.fetched) - trained)


@given(
    batch=st.integers(1, 8),
    steps=st.integers(1, 20),
    left_over=st.integers(0, 7),
    most=st.sampled_from([0, 2, 3]),
    seed=st.integers(0, 2**16),
)
def test_a_run_ends_with_its_prompts(batch, steps, left_over, most, seed):
    budget, draw = PromptBudget(batch * steps + left_over % batch, batch, most), np.random.default_rng(seed)
    while True:
        is_last, may_fetch = budget.is_last, budget.of_step
        assert batch <= may_fetch <= batch * (most or np.inf)
        budget.fetched += int(draw.integers(batch, may_fetch, endpoint=True))
        if is_last:
            break
        assert budget.total - budget.fetched >= batch  # enough for another
    assert budget.fetched <= budget.total < budget.fetched + 2 * batch


def test_without_filter_a_run_has_the_steps_that_verl_counts():
    budget, steps = PromptBudget(total=12, batch=4, most_batches=3), 0
    while True:
        is_last, steps = budget.is_last, steps + 1
        budget.fetched += 4
        if is_last:
            break
    assert steps == 3
