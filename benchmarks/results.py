"""Read the results of this folder's `results/`, which stay as the scripts wrote them, under today's names."""

import json
import re
from pathlib import Path

FOLDER = Path(__file__).parent / "results"
RENAMED = {  # a name in results: what it is called now
    "model.override_config.unsharded": "engine.no_shard",  # a config key of stage 1
    "unsharded": "no-shard",  # a variant of `grpo_step`
    "house": "strict",  # a parser of answers
}
AS_IT_RAN = ("command", "error")  # a command goes with its commit
_RENAMED = re.compile(rf"(?<![\w-])({'|'.join(map(re.escape, RENAMED))})(?![\w-])")


def current(name: str) -> str:
    """`name`, a word or several, with what has been renamed since."""
    return _RENAMED.sub(lambda found: RENAMED[found[1]], name)


def read_result(path: Path) -> dict:
    return _current(json.loads(path.read_text()))


def _current(value):
    if isinstance(value, str):
        return current(value)
    if isinstance(value, dict):
        return {key: one if key in AS_IT_RAN else _current(one) for key, one in value.items()}
    return [_current(one) for one in value] if isinstance(value, list) else value
