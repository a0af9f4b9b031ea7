"""A reward that depends on the reasoning and not only on the box.

bash scripts/grounding_qwen.sh engine=vllm reward=custom reward.function=examples/rewards/named.py:named
"""

import re

from qwen3vl_rl.grounding import render_prompt
from qwen3vl_rl.reward import Parts, mix


def words(text: str) -> set[str]:
    """The words of four letters and more."""
    return set(re.findall(r"\w{4,}", text.lower()))


PROMPT = words("<image>" + render_prompt("qwen3_amodal", ""))  # `question` is the whole user turn


def named(parts: Parts) -> float:
    """The recipe's reward, plus 0.1 if the reasoning contains at least half of the longer words of the expression."""
    wanted = words(parts.sample.get("question", "")) - PROMPT
    found = wanted & words(parts.reasoning)
    return mix(parts) + 0.1 * (2 * len(found) >= len(wanted) > 0)
