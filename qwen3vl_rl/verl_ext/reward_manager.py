"""How verl 0.9.1 calls the reward: its own manager hands on the text of an answer but not its tokens.

Chosen through `reward.reward_manager` in the recipe.
"""

from verl import DataProto
from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager


class GroundingRewardManager(NaiveRewardManager):
    async def run_single(self, data: DataProto) -> dict:
        """Add the number of generated tokens to the sample's `extra_info` as `length_tokens`, then score it."""
        answer = data[-1]  # the one that verl scores
        mask = answer.batch["attention_mask"][-answer.batch["responses"].shape[-1] :]
        answer.non_tensor_batch["extra_info"]["length_tokens"] = int(mask.sum())
        result = await super().run_single(data)
        return result | {"reward_score": exact_in_sums(result["reward_score"])}


def exact_in_sums(score: float) -> float:
    """The nearest multiple of 2^-16: 32-bit floats add up 256 of those in -1..1 without error.

    The mean of equal scores is then that score, and their advantage 0. Otherwise the mean may be off by rounding, and
    GRPO, which divides by a deviation that is rounding as well, makes an advantage of it: 0.1 for 16 answers.
    """
    return round(score * 2**16) / 2**16
