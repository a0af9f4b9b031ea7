"""Online filtering of prompts (DAPO, arXiv:2503.14476): `algorithm.filter_groups.enable=true`, in the mode `sync`.

A prompt is replaced by another within the step if all its answers have the same value of the reward part
`algorithm.filter_groups.metric`: they are alike. verl 0.9.1 has such a filter for its own buffer. It continues until a
step is full, however many prompts that takes, and ends a run after as many steps as without the filter. This filter

- fetches at most `max_num_gen_batches` batches per step (0: no limit), and fills a step that reaches the limit with
  prompts whose answers are alike;
- counts epochs by fetched prompts and ends a run with its last epoch, unless `trainer.total_training_steps` comes
  first. The learning rate keeps the schedule of a run without the filter.

Every prompt that a step fetches is trained on (`data.train_batch_size` of them), filtered
(`training/filter_groups/evicted_samples`), or surplus, because verl requests two for one that it filters
(`training/filter_groups/discarded_surplus_samples`). `rollout/fetched_prompts` is their sum, `rollout/thrown_away` the
share of those that are not trained on.
"""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1 import PPOTrainer
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from qwen3vl_rl.training.run_folder import FETCHED_FILE


@dataclass
class PromptBudget:
    """How many prompts a step may fetch, so that a run ends with its epochs."""

    total: int  # prompts of all epochs
    batch: int  # prompts that a step trains on
    most_batches: int  # that a step may fetch; 0: no limit
    fetched: int = 0  # prompts, by earlier steps

    @property
    def left(self) -> int:
        return self.total - self.fetched

    @property
    def of_step(self) -> int:
        most = self.left if self.is_last else self.left - self.batch  # leave enough for another step
        return min(most, self.batch * self.most_batches) if self.most_batches else most

    @property
    def is_last(self) -> bool:
        return self.left < 2 * self.batch


class FilteringReplayBuffer(ReplayBuffer):
    """A replay buffer that replaces prompts whose answers are alike, within the budget of a step.

    `sampler_kwargs`: `filter_groups` (verl's `algorithm.filter_groups`) and `prompts` (per step). If the filter is on,
    the trainer calls `allow` before every step.
    """

    def __init__(self, *, sampler_kwargs: DictConfig, refill_fn: Callable[[int], int], **kwargs: Any):
        options = sampler_kwargs.filter_groups
        super().__init__(
            sampler_kwargs=sampler_kwargs,
            refill_fn=self._refill,
            filter_groups_metric=options.metric if options.enable else None,
            train_batch_size=sampler_kwargs.prompts,
            gen_batch_size=1,
            max_inflight_gen_batches=options.max_inflight_gen_batches,
            **kwargs,
        )
        self._fetch = refill_fn
        self._may_fetch = self._may_filter = 0  # prompts, in the rest of the step

    def allow(self, prompts: int) -> None:
        """Begin a step that may fetch `prompts` prompts, including the batch that has already been requested."""
        self._may_fetch = self._may_filter = prompts - self.train_batch_size

    def _refill(self, prompts: int) -> None:
        if fetched := min(prompts, self._may_fetch):
            self._may_fetch -= fetched
            self._fetch(fetched)

    def _dapo_filtered_keys(self, partition_id: str) -> tuple[set[str], Counter]:
        """The prompts to filter, no more than can still be replaced, and how often each value occurs among them."""
        alike, _ = super()._dapo_filtered_keys(partition_id)
        chosen = sorted(alike)[: self._may_filter]
        values = self._dapo_classification_cache[partition_id]
        return set(chosen), Counter(values[prompt] for prompt in chosen)

    def _evict_terminal_groups(self, global_steps: int, partition_id: str, reasons: tuple) -> tuple:
        evicted = super()._evict_terminal_groups(global_steps, partition_id, reasons)
        self._may_filter -= evicted[2]
        return evicted

    def _select_prompt_uids(self, partition_id: str, sampleable_keys: set[str], batch_size: int) -> tuple:
        """Prompts whose answers are alike come last, after those with missing answers."""
        values, failed = self._dapo_classification_cache[partition_id], self.failure_keys[partition_id]
        rank = {prompt: (values.get(prompt) is not None, prompt in failed, prompt) for prompt in sampleable_keys}
        return super()._select_prompt_uids(partition_id, sorted(sampleable_keys, key=rank.get), batch_size)


class CountPrompts(PPOTrainer):
    """Counts epochs, and with them the last step, by fetched prompts."""

    _budget: PromptBudget | None = None  # set at the first step if the filter is on
    _fetched = 0  # prompts, including earlier starts of this run

    def on_train_begin(self) -> None:
        super().on_train_begin()
        options, batch = self.config.algorithm.filter_groups, self.config.data.train_batch_size
        if options.enable:
            total = self.steps_per_epoch * batch * self.config.trainer.total_epochs
            self._budget = PromptBudget(total, batch, options.max_num_gen_batches, self._fetched)
            self._end_with_prompts(self.global_steps)

    def on_step_begin(self) -> None:
        super().on_step_begin()
        if self._budget:
            self.replay_buffer.allow(self._budget.of_step)

    def _next_train_batch(self, num_prompts: int | None = None) -> TensorDict:
        batch = super()._next_train_batch(num_prompts)
        self._fetched += len(batch)
        return batch

    def _compute_metrics(
        self, batch: KVBatchMeta, metrics: dict, timing_raw: dict, global_steps: int, epoch: int
    ) -> None:
        if self._budget:
            fetched, self._budget.fetched = self._fetched - self._budget.fetched, self._fetched
            metrics["rollout/fetched_prompts"] = fetched
            metrics["rollout/thrown_away"] = 1 - self._budget.batch / fetched
            epoch = (self._fetched - 1) // (self._budget.batch * self.steps_per_epoch)
            self._end_with_prompts(global_steps + 1)
        super()._compute_metrics(batch, metrics, timing_raw, global_steps=global_steps, epoch=epoch)

    def _end_with_prompts(self, step: int) -> None:
        """End the run with the next step, `step`, if the prompts left do not suffice for two, or before it if they do
        not suffice for one."""
        if self._budget.is_last:
            last = step if self._budget.left >= self._budget.batch else step - 1
            self.total_training_steps = min(self.total_training_steps, last)

    def _save_checkpoint(self) -> None:
        path = Path(self.config.trainer.default_local_dir, f"global_step_{self.global_steps}", FETCHED_FILE)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"prompts": self._fetched}))
        super()._save_checkpoint()

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        trainer = self.config.trainer
        folder = Path(trainer.default_local_dir, f"global_step_{self.global_steps}")
        path = Path(trainer.resume_from_path if trainer.resume_mode == "resume_path" else folder, FETCHED_FILE)
        unfiltered = self.global_steps * self.config.data.train_batch_size  # earlier versions wrote no such file
        self._fetched = json.loads(path.read_text())["prompts"] if path.exists() else unfiltered
