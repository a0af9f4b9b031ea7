"""A reward that depends on the reasoning and not only on the box.

bash scripts/grounding_qwen.sh reward=custom reward.function=examples/rewards/named.py:named
"""

from qwen3vl_rl.reward import Parts, mix


def named(parts: Parts) -> float:
    """The recipe's reward, plus 0.1 if the reasoning contains at least half of the longer words of the question."""
    words = {word for word in parts.sample.get("question", "").lower().split() if len(word) > 3}
    spoken = set(parts.reasoning.lower().split())
    return mix(parts) + 0.1 * (2 * len(words & spoken) >= len(words) > 0)
