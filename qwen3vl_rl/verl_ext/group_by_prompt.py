"""All answers to a prompt go to one rank, where they share its forward pass (see `models/shared_prompts.py`).

verl 0.9.1 distributes single answers by length. With 256 prompts of 16 answers each on 8 GPUs, hardly two answers to a
prompt would be on the same rank. Importing this module replaces verl's trainers with ours.
"""

from collections.abc import Sequence

from transfer_queue import KVBatchMeta
from verl.trainer.ppo.padding_utils import upsample_batch_to_divisible_size
from verl.trainer.ppo.v1 import PPOTrainer, PPOTrainerColocateAsync, PPOTrainerSeparateAsync, PPOTrainerSync
from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY
from verl.utils.seqlen_balancing import get_seqlen_balanced_partitions, log_seqlen_unbalance

from qwen3vl_rl.verl_ext.filtering import CountPrompts


def prompt_of(key: str) -> str:
    """The prompt in one of verl's keys, PROMPT_ANSWER_TURN."""
    return key.split("_")[0]


def shared_tokens(prompts: Sequence[str], prompt_tokens: Sequence[int], answer_tokens: Sequence[int]) -> list[int]:
    """The tokens that each sample adds to the batch. Only the first answer to a prompt adds the prompt's tokens."""
    seen: set[str] = set()
    tokens = []
    for prompt, before, after in zip(prompts, prompt_tokens, answer_tokens, strict=True):
        tokens.append(after if prompt in seen else before + after)
        seen.add(prompt)
    return tokens


def deal_prompts(prompts: Sequence[str], tokens: Sequence[int], ranks: int) -> list[list[int]]:
    """The indices of each rank's samples, equally many per rank, with the answers to a prompt together.

    prompts: the prompt of each sample. tokens: the tokens that each sample adds to the batch. If every prompt has
    equally many answers and the number of ranks divides the number of prompts, each rank gets whole prompts and about
    as many tokens as the others. Otherwise, such as with missing answers, prompts at the borders of ranks are split.
    """
    found: dict[str, list[int]] = {}
    for number, prompt in enumerate(prompts):
        found.setdefault(prompt, []).append(number)
    groups = list(found.values())
    if len(groups) < ranks:
        dealt = [list(range(len(groups)))]
    else:
        work = [sum(tokens[number] for number in group) for group in groups]
        is_even = len(groups) % ranks == 0 and len(set(map(len, groups))) == 1
        dealt = get_seqlen_balanced_partitions(work, k_partitions=ranks, equal_size=is_even)
    order = [number for part in dealt for group in sorted(part) for number in groups[group]]
    each = len(prompts) // ranks
    return [order[rank * each : (rank + 1) * each] for rank in range(ranks)]


class GroupByPrompt(PPOTrainer):
    _computed_share = 1.0  # computed tokens / tokens that verl counts

    def _balance_batch(
        self, batch: KVBatchMeta, metrics: dict, logging_prefix: str = "global_seqlen", keep_minibatch: bool = False
    ) -> KVBatchMeta:
        if not self.config.actor_rollout_ref.actor.fsdp_config.get("share_prompts"):
            return super()._balance_batch(batch, metrics, logging_prefix, keep_minibatch)
        ranks = self._data_parallel_size()
        batch = upsample_batch_to_divisible_size(
            batch, self._get_required_batch_multiple(ranks), self.tokenizer.eos_token_id
        )
        prompts = list(map(prompt_of, batch.keys))
        tokens = shared_tokens(prompts, *([tag[name] for tag in batch.tags] for name in ("prompt_len", "response_len")))
        dealt = deal_prompts(prompts, tokens, ranks)
        batch.reorder([number for numbers in dealt for number in numbers])
        metrics.update(log_seqlen_unbalance(tokens, dealt, logging_prefix))
        self._computed_share = sum(tokens) / sum(tag["seq_len"] for tag in batch.tags)
        return batch

    def _update_actor(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        batch = super()._update_actor(batch, metrics)
        metrics["perf/mfu/actor"] *= self._computed_share  # verl counts a prompt once per answer
        return batch

    def _data_parallel_size(self) -> int:
        workers = self.actor_rollout_wg
        if "actor" not in workers._dispatch_info:  # as verl does, which keeps the result
            workers._dispatch_info["actor"] = workers._query_dispatch_info("actor")
        return max(workers._dispatch_info["actor"]) + 1


class Sync(GroupByPrompt, CountPrompts, PPOTrainerSync):
    pass


class ColocateAsync(GroupByPrompt, PPOTrainerColocateAsync):
    pass


class SeparateAsync(GroupByPrompt, PPOTrainerSeparateAsync):
    pass


# `register_trainer` rejects existing names, and verl compares the mode with its own names in other places.
TRAINER_REGISTRY.update(sync=Sync, colocate_async=ColocateAsync, separate_async=SeparateAsync)
