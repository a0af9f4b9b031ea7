"""Read the files of `results/`, which are never edited, and map names that have changed since they were written."""

import json
import re
from pathlib import Path

FOLDER = Path(__file__).parent / "results"
BASE = "resident+chunked+on-policy+fused-adamw"  # in most variants of `grpo_step`; tables abbreviate it to `base`
RENAMED = {  # old name: current name
    "model.override_config.unsharded": "engine.no_shard",  # a config key of stage 1
    "unsharded": "no-shard",  # a variant of `grpo_step`
    "house": "strict",  # a parser of answers
}
AS_IT_RAN = ("command", "error")  # left as they were, as they belong to the commit that ran
_RENAMED = re.compile(rf"(?<![\w-])({'|'.join(map(re.escape, RENAMED))})(?![\w-])")


def current(name: str) -> str:
    """`name`, which may hold several names, with each old name replaced."""
    return _RENAMED.sub(lambda found: RENAMED[found[1]], name)


def read_result(path: Path) -> dict:
    return _current(json.loads(path.read_text()))


def _current(value):
    if isinstance(value, str):
        return current(value)
    if isinstance(value, dict):
        return {key: one if key in AS_IT_RAN else _current(one) for key, one in value.items()}
    return [_current(one) for one in value] if isinstance(value, list) else value
