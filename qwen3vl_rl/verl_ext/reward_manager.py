"""How verl 0.9.1 calls the reward: its own manager, which hands on the text of an answer but not its tokens.

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
        return await super().run_single(data)
