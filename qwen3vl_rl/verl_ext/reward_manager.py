"""A reward manager that passes an answer's number of tokens to the reward; verl 0.9.1's passes only the text.

Selected with `reward.reward_manager` in the recipe.
"""

from verl import DataProto
from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager


class GroundingRewardManager(NaiveRewardManager):
    async def run_single(self, data: DataProto) -> dict:
        """Add the number of generated tokens to the sample's `extra_info` as `length_tokens`, then score it."""
        answer = data[-1]  # the row that verl scores
        mask = answer.batch["attention_mask"][-answer.batch["responses"].shape[-1] :]
        answer.non_tensor_batch["extra_info"]["length_tokens"] = int(mask.sum())
        result = await super().run_single(data)
        return result | {"reward_score": exact_in_sums(result["reward_score"])}


def exact_in_sums(score: float) -> float:
    """The nearest multiple of 2^-16. The float32 sum of 256 such scores in -1..1 is exact.

    The mean of equal scores is then that score, and their advantage is 0. Otherwise rounding may shift the mean. GRPO
    also divides by a deviation that is rounding, which gives 16 equal answers an advantage of 0.1.
    """
    return round(score * 2**16) / 2**16
