"""Reports on rollouts that verl 0.9.1 lacks: reward parts of every training step, and pages of validation answers.

An active run of Weights & Biases also gets these pages, and an alert for each sign of `training/signs.py`.

verl's trainer takes all rollouts from its replay buffer and logs the metrics that `sample` returns. Our buffer is
selected with `trainer.v1.sampler.custom_sampler`.
"""

import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import transfer_queue as tq
from transfer_queue import KVBatchMeta
from verl.utils import hf_tokenizer

from qwen3vl_rl.data.sample_card import Example, render_page
from qwen3vl_rl.errors import ANSWERS_MISSING
from qwen3vl_rl.training.checkpoints import signs_before
from qwen3vl_rl.training.metrics import METRICS_FILE, read_new_rows
from qwen3vl_rl.training.signs import Signs, section_of
from qwen3vl_rl.training.watch import end_when_one_dies
from qwen3vl_rl.verl_ext.filtering import FilteringReplayBuffer
from qwen3vl_rl.verl_ext.group_by_prompt import prompt_of

LOST = 0.01  # largest share of a step's answers that may be missing
FEW = 10  # prompts from which on a training step may lose one of them, whose answers fail together
NONE_LEFT = "no materializable trajectories"  # in verl's message for a step without any answer
POLL_S = 0.2  # verl waits 2 s, half a step of a small model


class ReportingReplayBuffer(FilteringReplayBuffer):
    """For the trainers whose rollouts share the GPUs with the actor: `sync` and `colocate_async`.

    `sampler_kwargs`, in addition to those of `FilteringReplayBuffer`: `tokenizer` (a model folder), `pages` (a folder),
    `parser`, `threshold`, `examples` (per page), `answers` (per training prompt), `val_answers` (per validation
    prompt), `answer_tokens` (limit of an answer).
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs, poll_interval=POLL_S)
        self._tokenizer = hf_tokenizer(self.sampler_kwargs.tokenizer)
        self._shown: int | None = None  # the step of the last page
        self._signs: Signs | None = None  # None until there is a run to alert
        self._looked_at = 0  # bytes of the metrics file
        end_when_one_dies()  # here, because the trainer creates its buffer first

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[KVBatchMeta, dict]:
        options = self.sampler_kwargs
        wanted = batch_size * (options.answers if partition_id == "train" else options.val_answers)
        try:
            batch, metrics = super().sample(global_steps, partition_id, batch_size)
        except RuntimeError as error:
            if NONE_LEFT in str(error):  # verl advises to retry, but the engine may be dead
                check_answered(0, wanted, global_steps)
            raise
        is_training = partition_id == "train"
        lost_one = is_training and batch_size >= FEW and has_lost_one_prompt(batch.keys, batch_size, options.answers)
        check_answered(len(batch), wanted, global_steps, options.answers if lost_one else 0)
        if is_training:
            self._alert()
            batch.reorder(sorted(range(len(batch)), key=batch.keys.__getitem__))  # the answers to a prompt together
            cut_off = np.mean([tag["response_len"] >= options.answer_tokens for tag in batch.tags])
            own = {"rollout/missing_responses": wanted - len(batch), "rollout/cut_off": float(cut_off)}
            return batch, {**metrics, **mean_parts(batch), **own}
        if global_steps != self._shown:  # the first validation batch of a step has the first samples
            self._write_page(batch, global_steps)
            self._shown = global_steps
        return batch, metrics

    def _alert(self) -> None:
        """Alert Weights & Biases of the signs in the steps since the last call.

        It sends one alert per title and minute, so each sign has its own title.
        """
        if wandb := wandb_of_a_run():
            metrics = Path(os.environ[METRICS_FILE])
            self._signs = self._signs or signs_before(metrics.parent)
            rows, self._looked_at = read_new_rows(metrics, self._looked_at)
            for line in (line for row in rows for line in self._signs.look(row["data"])):
                wandb.alert(title=section_of(line), text=f"{metrics.parent.name}: {line}")

    def _write_page(self, batch: KVBatchMeta, step: int) -> None:
        """Write the answers to the first samples to `pages/STEP.html` and to an active run of Weights & Biases."""
        options = self.sampler_kwargs
        fields = ["responses", "raw_prompt", "reward_model", "extra_info"]
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)
        rows = zip(data["responses"].unbind(), *(plain(data[name]) for name in fields[1:]), strict=True)
        shown = [row for row in rows if has_image(row[1])]
        shown.sort(key=lambda row: row[-1].get("index", 0))  # the same samples on every page
        kinds = ([row for row in shown if (row[2]["ground_truth"] is None) == absent] for absent in (False, True))
        first = [row for both in zip_longest(*kinds) for row in both if row][: options.examples]  # alternating
        examples = [example(self._tokenizer.decode(ids, skip_special_tokens=True), *rest) for ids, *rest in first]
        page = render_page(f"validation at step {step}", examples, options.parser, options.threshold)
        path = Path(options.pages, f"{step}.html")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
        if wandb := wandb_of_a_run():
            wandb.log({"validation/page": wandb.Html(page)}, step=step, commit=False)


def wandb_of_a_run() -> ModuleType | None:
    """The package of Weights & Biases if a run is active. verl imports it if its logger is selected."""
    wandb = sys.modules.get("wandb")
    return wandb if wandb and wandb.run else None


def has_lost_one_prompt(keys: Sequence[str], prompts: int, answers: int) -> bool:
    """Whether exactly one prompt has no answers and all others have all of theirs."""
    found = Counter(map(prompt_of, keys))
    return len(found) == prompts - 1 and set(found.values()) == {answers}


def check_answered(answers: int, wanted: int, step: int, lost: int = 0) -> None:
    """Raise RuntimeError if more answers are missing than chance explains: the share `LOST`, or `lost` if that is more.

    verl continues without the answers whose engine or reward failed, and the rest looks better than it is.
    """
    if wanted - answers > max(LOST * wanted, lost) or not answers:
        raise RuntimeError(
            f"step {step}: {wanted - answers} of {wanted} {ANSWERS_MISSING}, the engine or the reward failed: see "
            "'Error in _run_prompt' above"
        )


def mean_parts(batch: KVBatchMeta) -> dict[str, float]:
    """`reward/NAME`, the mean of each part that the reward function returned, over the answers that have it, and
    `rollout/alike_groups`."""
    data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["extra_fields"])
    parts = [fields["reward_extra_info"] for fields in plain(data["extra_fields"])]
    values = defaultdict(list)
    for part in parts:
        for name, value in part.items():
            values[f"reward/{name}"].append(value)
    means = {name: float(np.mean(column)) for name, column in values.items()}
    return means | alike_groups(list(map(prompt_of, batch.keys)), parts)


def alike_groups(prompts: Sequence[str], parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """`rollout/alike_groups`: the share of prompts whose answers are all right or all wrong by the reward part `acc`.

    They teach nothing about right and wrong, but a graded reward still moves their boxes. Empty for a reward without
    that part.
    """
    found = defaultdict(list)
    for prompt, part in zip(prompts, parts, strict=True):
        if "acc" in part:
            found[prompt].append(part["acc"])
    several = [values for values in found.values() if len(values) > 1]
    return {"rollout/alike_groups": float(np.mean([min(v) == max(v) for v in several]))} if several else {}


def has_image(messages: list[dict]) -> bool:
    return any(part["type"] == "image" for message in messages for part in message["content"] if isinstance(part, dict))


def example(answer: str, messages: list[dict], reward_model: Mapping, extra_info: Mapping) -> Example:
    """One entry of a page, from the fields that verl stores with an answer."""
    content = [part for message in messages for part in message["content"]]
    return Example(
        image=next(part["image"] for part in content if part["type"] == "image"),
        question="".join(part["text"] for part in content if part["type"] == "text"),
        answer=answer,
        truth_1000=None if reward_model["ground_truth"] is None else tuple(reward_model["ground_truth"]),
        width=extra_info["width"],
        height=extra_info["height"],
    )


def plain(column: Iterable) -> list:
    """The values of a TransferQueue column: a list, an array, or tensordict's stack of wrapped values."""
    return [getattr(value, "data", value) for value in column]
