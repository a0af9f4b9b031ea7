"""A reward that reads what an answer says, not only where its box is.

bash scripts/grounding_qwen.sh reward=custom reward.function=examples/rewards/named.py:named
"""

from qwen3vl_rl.reward import Parts, mix


def named(parts: Parts) -> float:
    """The recipe's reward, and 0.1 on top where the reasoning speaks of what the question asks for: half of its longer
    words or more."""
    words = {word for word in parts.sample.get("question", "").lower().split() if len(word) > 3}
    spoken = set(parts.reasoning.lower().split())
    return mix(parts) + 0.1 * (2 * len(words & spoken) >= len(words) > 0)
