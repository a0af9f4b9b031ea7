"""The proposer of `benchmarks.serving --drafts`: random weights accept drafts as trained ones were measured to.

vLLM's synthetic acceptance takes the place of the check, so the tokens of a draft do not matter.
"""

from collections.abc import Sequence

from benchmarks.answer_draft import DRAFT_TOKENS

TOKENS_A_STEP = 1.8  # of `benchmarks.speculation` on answers of RefShapes (results/speculation_tiny_cpu.json)


class SyntheticDraft:
    """Proposes a draft on every step."""

    def __init__(self, vllm_config):
        """Nothing is needed of the configuration."""

    def load_model(self, model: object) -> None:
        """Nothing: a draft needs no weights."""

    def propose(self, sampled: Sequence[Sequence[int]], *_, **__) -> list[list[int]]:
        return [[new[-1]] * DRAFT_TOKENS if new else [] for new in map(list, sampled)]


def synthetic_config() -> dict[str, str | int | float]:
    """For vLLM's `--speculative-config`."""
    return {
        "method": "custom_class",
        "model": f"{__name__}.{SyntheticDraft.__name__}",
        "num_speculative_tokens": DRAFT_TOKENS,
        "rejection_sample_method": "synthetic",
        "synthetic_acceptance_length": TOKENS_A_STEP,
    }
