"""Proposers for `benchmarks.serving --drafts`: random weights accept drafts as trained ones were measured to.

vLLM's synthetic acceptance takes the place of the check. `benchmarks.speculation` measured, with 16 tokens a draft and
answers of RefShapes: 15 % of all steps have a draft, and such a step gives 6.3 tokens; on average a step gives 1.8.
"""

import random
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from benchmarks.answer_draft import DRAFT_TOKENS

STEPS_WITH_DRAFT = 0.15
TOKENS_A_STEP: Mapping[str, float] = MappingProxyType({"sometimes": 6.3, "always": 1.8})  # of the steps with a draft


class Sometimes:
    """Proposes a draft on the measured share of steps, at random. The tokens do not matter."""

    share = STEPS_WITH_DRAFT

    def __init__(self, vllm_config):
        self.random = random.Random(0)

    def load_model(self, model: object) -> None:
        """Nothing: a draft needs no weights."""

    def propose(self, sampled: Sequence[Sequence[int]], *_, **__) -> list[list[int]]:
        return [
            [new[-1]] * DRAFT_TOKENS if new and self.random.random() < self.share else [] for new in map(list, sampled)
        ]


class Always(Sometimes):
    """Proposes a draft on every step, as if short ones were filled up."""

    share = 1.0


def synthetic_config(when: str) -> dict[str, str | int | float]:
    """For vLLM's `--speculative-config`. `when`: a key of `TOKENS_A_STEP`."""
    return {
        "method": "custom_class",
        "model": f"{__name__}.{when.capitalize()}",
        "num_speculative_tokens": DRAFT_TOKENS,
        "rejection_sample_method": "synthetic",
        "synthetic_acceptance_length": TOKENS_A_STEP[when],
    }
