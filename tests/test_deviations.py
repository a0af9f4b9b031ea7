"""Our recipes differ from the release only where docs/deviations.md says so, and as it says.

The release is verl's own config with what docs/released/*.yaml holds. A key counts as different where its text and its
resolved value both are: one that follows another is not named twice. Unset, null, false and empty are one.
"""

import operator
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from qwen3vl_rl.training.recipe import verl_config

ROOT = Path(__file__).parents[1]
SFT, RL = ROOT / "sft" / "config", ROOT / "qwen3vl_rl" / "config"
OURS = ([], ["recipe=released"])
STAGES = {  # folder, recipe, verl's config, heading of the table, overrides of each of its columns after the first
    "sft": (SFT, "sft", "sft_trainer_engine", "## Stage 1", OURS),
    "rl": (RL, "grounding_grpo", "ppo_trainer", "## Stage 2", OURS),
    "rl_internvl": (RL, "grounding_grpo", "ppo_trainer", "## InternVL3.5", (["size=internvl3_5_8b"],)),
}
COMMON = {"rl_internvl": "rl"}  # the table whose first columns also count
Leaves = dict[str, tuple[Any, Any]]  # by key: as written, and resolved

pytestmark = pytest.mark.slow


def compose_from(folder: Path, name: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(folder), version_base=None):
        return compose(name, list(overrides))


@cache
def released(stage: str) -> Mapping[str, Any]:
    return yaml.safe_load((ROOT / "docs" / "released" / f"{stage}.yaml").read_text())


def the_release(stage: str) -> DictConfig:
    config = compose_from(Path(verl_config()), STAGES[stage][2])
    for entry in [*released(stage)["overrides"], *released(stage)["unset"]]:
        given = {} if "user" in entry else {entry["key"]: entry["value"]}
        for key, value in entry.get("does", given).items():
            OmegaConf.update(config, key, value, force_add=True)
    return config


def leaves(config: DictConfig) -> Leaves:
    return dict(walk(config, OmegaConf.to_container(config), ""))


def walk(config: DictConfig, node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, tuple[Any, Any]]]:
    for name, raw in node.items():
        key = f"{prefix}{name}"
        if isinstance(raw, dict):
            yield from walk(config, raw, f"{key}.")
            continue
        value = OmegaConf.select(config, key)
        value = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        if isinstance(value, dict):
            yield from ((f"{key}.{part}", (f"{raw}.{part}", plain(found))) for part, found in value.items())
        else:
            yield key, (plain(raw), plain(value))


def plain(value: Any) -> Any:
    """Numbers that YAML may hold as text, such as 3e-6, are numbers."""
    if isinstance(value, str) and re.fullmatch(r"\d[\d.]*e-?\d+", value):
        value = float(value)
    return value or None


def differences(stage: str) -> dict[str, list[Any]]:
    """By key: the value of the release and those of our columns, where they differ."""
    folder, name, *_, columns = STAGES[stage]
    configs = the_release(stage), *(compose_from(folder, name, *overrides) for overrides in columns)
    base, *ours = found = [leaves(config) for config in configs]
    users = {key for entry in released(stage)["overrides"] for key in entry.get("user", ())}
    none = (None, None)
    return {
        key: [part.get(key, none)[1] for part in found]
        for key in sorted(set().union(*found) - users)
        if any(all(a != b for a, b in zip(base.get(key, none), mine.get(key, none), strict=True)) for mine in ours)
    }


def declared(stage: str) -> dict[str, list[Any]]:
    """The rows of the stage's table of keys: by key, the same values."""
    keys, count = section(stage).split("\nNo value ")[0], 1 + len(STAGES[stage][-1])
    rows = [line.strip("|").split(" | ") for line in keys.splitlines() if line.startswith("| `")]
    return {key.strip(" `"): [read_cell(cell) for cell in cells[:count]] for key, *cells in rows}


def section(stage: str) -> str:
    text = (ROOT / "docs" / "deviations.md").read_text()
    return text.split(f"\n{STAGES[stage][3]}", 1)[1].split("\n## ")[0]


def read_cell(cell: str) -> Any:
    text = cell.strip().strip("`")
    return None if text == "—" else plain(yaml.safe_load(text))


def row(key: str, values: list[Any]) -> str:
    cells = (yaml.safe_dump(v, default_flow_style=True).split("\n")[0] if v is not None else "—" for v in values)
    return f"| `{key}` | " + " | ".join(f"`{cell}`" if cell != "—" else cell for cell in cells) + " | … |"


@pytest.mark.parametrize("stage", STAGES)
def test_every_difference_from_the_release_is_declared(stage):
    found, table = differences(stage), declared(stage)
    common = declared(COMMON[stage]) if stage in COMMON else {}
    known = {key: values[: 1 + len(STAGES[stage][-1])] for key, values in common.items()} | table
    groups = tuple(key.removesuffix("*") for key in known if key.endswith(".*"))
    undeclared = [row(key, found[key]) for key in found if known.get(key) != found[key] and not key.startswith(groups)]
    assert not undeclared, "docs/deviations.md lacks:\n" + "\n".join(undeclared)
    stale = [key for key in table if not any(other == key or other.startswith(key.rstrip("*")) for other in found)]
    assert not stale, "docs/deviations.md declares what is no difference"


@pytest.mark.parametrize("stage", ["sft", "rl"])
def test_what_smaller_models_have_of_their_own_is_named(stage):
    folder, name, *_ = STAGES[stage]
    words = section(stage).replace("….", "actor_rollout_ref.actor.fsdp_config.")
    paper = leaves(compose_from(folder, name))
    for size in ("2b", "4b"):
        model = leaves(compose_from(folder, name, f"size={size}"))
        other = [key for key, found in model.items() if all(map(operator.ne, found, paper.get(key, (None, None))))]
        assert not [key for key in other if not key.endswith("model.path") and f"`{key}`" not in words]


def test_all_overrides_of_the_released_scripts_are_held():
    for stage, count, first in (("rl", 73, 68), ("sft", 30, 36), ("rl_internvl", 71, 70)):
        overrides = released(stage)["overrides"]
        assert [entry["line"] for entry in overrides] == list(range(first, first + count))
        assert len({entry["key"] for entry in overrides}) == count


@pytest.mark.parametrize("stage", STAGES)
def test_overrides_that_do_something_name_keys_of_the_config(stage):
    """A misspelt key of the data would be added to the release and to nothing of ours."""
    folder, name, *_ = STAGES[stage]
    known = leaves(compose_from(folder, name, *STAGES[stage][-1][-1]))
    for entry in [*released(stage)["overrides"], *released(stage)["unset"]]:
        keys = entry.get("user") or entry.get("does", {entry["key"]: None})
        assert not [key for key in keys if key not in known], entry
