"""All answers to a prompt go to one rank, where their image is encoded once (see `models/shared_images.py`).

verl 0.9.1 deals out single answers by length: of 256 prompts with 16 answers each on 8 GPUs, hardly two answers with
one image would meet in a micro-batch. It still does so where an answer is missing, or ranks do not divide the prompts;
`global_seqlen/whole_prompts` tells (1 or 0). Importing this puts our trainers in the place of verl's, those whose
rollouts share the GPUs with the actor.
"""

from collections.abc import Sequence

import torch
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1 import PPOTrainer, PPOTrainerColocateAsync, PPOTrainerSync
from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY
from verl.utils.seqlen_balancing import calculate_workload, get_seqlen_balanced_partitions, log_seqlen_unbalance


def deal_prompts(prompts: Sequence[str], lengths: Sequence[int], answers: int, ranks: int) -> list[list[int]] | None:
    """Per rank the numbers of its samples: equally many prompts, and about equal work. None where that cannot be, or
    the samples are not `answers` consecutive ones to each prompt. `prompts`, `lengths`: of each sample."""
    if len(prompts) % (answers * ranks):
        return None
    groups = [range(start, start + answers) for start in range(0, len(prompts), answers)]
    if any(len({prompts[i] for i in group}) > 1 for group in groups):
        return None
    work = calculate_workload(torch.tensor(lengths)).view(-1, answers).sum(dim=1).tolist()
    dealt = get_seqlen_balanced_partitions(work, k_partitions=ranks, equal_size=True)
    return [[i for number in numbers for i in groups[number]] for numbers in dealt]


def deal_batch(batch: KVBatchMeta, answers: int, ranks: int) -> list[list[int]] | None:
    """`deal_prompts` for a batch of verl's, whose keys are PROMPT_ANSWER_TURN."""
    prompts = [key.split("_")[0] for key in batch.keys]
    return deal_prompts(prompts, [tag["seq_len"] for tag in batch.tags], answers, ranks)


class WholePrompts(PPOTrainer):
    def _balance_batch(
        self, batch: KVBatchMeta, metrics: dict, logging_prefix: str = "global_seqlen", keep_minibatch: bool = False
    ) -> KVBatchMeta:
        ranks, lengths = self._data_parallel_size(), [tag["seq_len"] for tag in batch.tags]
        padded = len(batch) % self._get_required_batch_multiple(ranks)  # by verl, where answers are missing
        dealt = None if padded else deal_batch(batch, self.config.actor_rollout_ref.rollout.n, ranks)
        metrics[f"{logging_prefix}/whole_prompts"] = int(dealt is not None)
        if ranks == 1 or dealt is None:
            return super()._balance_batch(batch, metrics, logging_prefix, keep_minibatch)
        batch.reorder([i for numbers in dealt for i in numbers])
        metrics.update(log_seqlen_unbalance(lengths, dealt, logging_prefix))
        return batch

    def _data_parallel_size(self) -> int:
        workers = self.actor_rollout_wg
        if "actor" not in workers._dispatch_info:  # as verl asks for it, and keeps it
            workers._dispatch_info["actor"] = workers._query_dispatch_info("actor")
        return max(workers._dispatch_info["actor"]) + 1


class Sync(WholePrompts, PPOTrainerSync):
    pass


class ColocateAsync(WholePrompts, PPOTrainerColocateAsync):
    pass


# `register_trainer` refuses a name that is taken, and verl compares the mode with its own names in other places.
TRAINER_REGISTRY.update(sync=Sync, colocate_async=ColocateAsync)
