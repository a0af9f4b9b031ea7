"""A custom reward: one function of the parts of an answer, in any file.

    bash scripts/grounding_qwen.sh engine=vllm reward=custom reward.function=examples/rewards/shorter.py:shorter

It is called for answers that contain a box; all others score 0. Validation still reports plain accuracy.
"""

from qwen3vl_rl.reward import Parts, mix


def shorter(parts: Parts) -> float:
    """The recipe's reward, plus up to 0.1 for a correct answer of fewer than 50 words."""
    saved = max(0, 50 - parts.length_words) / 50
    return mix(parts) + 0.1 * saved * (parts.iou >= parts.threshold)
