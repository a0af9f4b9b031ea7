"""What a checkpoint comes from: its run, its base model, and the rows that it was trained on.

A run records in `provenance.json` what its recipe does not hold: `starts`, a list of `Start`, each other than the one
before; and `train_files`, the `Rows` of the train files with the SHA-256 of these.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import yaml
from omegaconf import DictConfig, OmegaConf

from qwen3vl_rl.data.expressions import read_user_turn
from qwen3vl_rl.data.files import replacing
from qwen3vl_rl.data.parquet import iter_parquet
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.training.preflight.rows import file_paths
from qwen3vl_rl.training.recipe import is_hub_name
from qwen3vl_rl.training.run_folder import (
    LATEST,
    LOG,
    PROVENANCE_FILE,
    RECIPE_FILE,
    data_hash,
    hash_key,
    is_first_node,
    load_recipe,
)
from qwen3vl_rl.training.starts import Start

CARD = "README.md"  # of a model
TRAIN_FILES = "data.train_files"
OTHER_PROMPT = "other"
QWEN, APACHE = "Qwen/Qwen3-VL-", "apache-2.0"  # the licence of all models whose names begin so


class Stage(NamedTuple):
    """A stage of training, and where its recipe and its log hold what we look for."""

    number: int
    title: str
    tag: str
    model_key: str
    turns_column: str  # of the training rows
    total_steps: str  # pattern of the line of the log


STAGES = (
    Stage(1, "supervised fine-tuning", "sft", "model.path", "messages", r"Total steps: (\d+), num_warmup"),
    Stage(
        number=2,
        title="reinforcement learning",
        tag="grpo",
        model_key="actor_rollout_ref.model.path",
        turns_column="prompt",
        total_steps=r"Total training steps: (\d+)",
    ),
)


@dataclass(frozen=True, slots=True)
class Rows:
    """The training rows: their number in each file, and for each prompt (a name in `PROMPTS`, or `OTHER_PROMPT`)."""

    by_file: Sequence[int]
    by_prompt: Mapping[str, int]

    @classmethod
    def count_same(cls, recipe: DictConfig) -> "Rows | None":
        """`count` if the files have the recipe's hash, else None."""
        then = OmegaConf.select(recipe, hash_key(TRAIN_FILES))
        try:
            is_same = then and data_hash(recipe, TRAIN_FILES) == then
        except OSError:
            return None
        return cls.count(recipe) if is_same else None

    @classmethod
    def count(cls, recipe: DictConfig) -> "Rows | None":
        """The rows of the recipe's train files as they are now. None if they cannot be read."""
        stage = _stage(recipe)
        if not stage or not OmegaConf.select(recipe, TRAIN_FILES):
            return None
        try:
            counts = [_count_prompts(path, stage.turns_column) for path in file_paths(recipe, TRAIN_FILES)]
        except (OSError, InputError):
            return None
        return cls([count.total() for count in counts], dict(sum(counts, Counter())))


@dataclass(frozen=True, slots=True)
class Written:
    """The content of `provenance.json`, or of none.

    sha256: of the train files; None if their rows are not recorded.
    """

    starts: Sequence[Start] | None = None
    sha256: str | None = None
    rows: Rows | None = None

    @classmethod
    def read(cls, run: Path) -> "Written":
        """Raises InputError if the file is broken."""
        path = run / PROVENANCE_FILE
        if not path.exists():
            return cls()
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            starts, files = [Start(**start) for start in content["starts"]], content["train_files"]
            rows = Rows(list(files["by_file"]), dict(files["by_prompt"])) if files else None
            return cls(starts, files["sha256"] if files else None, rows)
        except (ValueError, KeyError, TypeError) as error:
            what = "expected what the starts of this run have recorded; restore or remove the file"
            raise InputError(f"{path}: {what} ({error!r})") from None

    def rows_of(self, recipe: DictConfig) -> Rows | None:
        """None if they are not recorded, or if the recipe has other train files."""
        return self.rows if self.sha256 == OmegaConf.select(recipe, hash_key(TRAIN_FILES)) else None


@dataclass(frozen=True, slots=True)
class Origin:
    """The run of a checkpoint. What is not recorded is empty or None.

    starts: those that differ from the one before.
    rows: None also if they were not recorded and the train files are gone or may be others.
    """

    recipe: DictConfig
    stage: Stage | None
    step: int | None
    total_steps: int | None
    starts: Sequence[Start]
    rows: Rows | None

    @classmethod
    def read(cls, checkpoint: Path) -> "Origin":
        """`checkpoint`: the folder with verl's shards, inside its run."""
        folder = checkpoint.absolute()
        folder = folder.parent if folder.name == "actor" else folder
        run, step = folder.parent, re.fullmatch(r"global_step_(\d+)", folder.name)
        recipe = load_recipe(run) if (run / RECIPE_FILE).exists() else OmegaConf.create()
        stage, written = _stage(recipe), Written.read(run)
        return cls(
            recipe,
            stage,
            step=int(step[1]) if step else None,
            total_steps=_total_steps(run, recipe, stage),
            starts=written.starts or [],
            rows=written.rows_of(recipe) or Rows.count_same(recipe),
        )


@dataclass(frozen=True, slots=True)
class Base:
    """The model that training started from.

    name: on the Hugging Face Hub, or of the folder; None if not recorded.
    hub: the name on the hub of this model, or of the model that it was trained from; None if not recorded.
    licence: as the hub names it; None if not recorded.
    """

    name: str | None
    hub: str | None
    licence: str | None

    @classmethod
    def read(cls, origin: Origin) -> "Base":
        """The base of a run. If it is a folder, the model card in it may name its own base and its licence."""
        model = OmegaConf.select(origin.recipe, origin.stage.model_key) if origin.stage else None
        if model is None:
            return cls(None, None, None)
        if is_hub_name(model):
            return cls(model, model, _licence_of(model))
        card = _metadata(Path(model).expanduser() / CARD)
        hub = card["base_model"] if isinstance(card.get("base_model"), str) else None
        licence = card.get("license", _licence_of(hub))
        return cls(Path(model).name, hub, licence if isinstance(licence, str) and licence != "other" else None)


def record_start(config: DictConfig) -> None:
    """Record this start in the run's folder, and the training rows if they are not recorded.

    A start that trains nothing, or that equals the last one, adds nothing.
    """
    folder = Path(config.trainer.default_local_dir)
    if config.trainer.get("val_only") or not is_first_node():
        return
    written, this = Written.read(folder), Start.of_this_process()
    unknown = [Start()] if (folder / LATEST).exists() else []  # an earlier version has started the run
    starts = unknown if written.starts is None else written.starts
    rows = written.rows_of(config) or Rows.count(config)
    digest = OmegaConf.select(config, hash_key(TRAIN_FILES))
    content = {
        "starts": [asdict(start) for start in (starts if starts[-1:] == [this] else [*starts, this])],
        "train_files": {"sha256": digest} | asdict(rows) if rows else None,
    }
    with replacing(folder / PROVENANCE_FILE) as draft:
        draft.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _stage(recipe: DictConfig) -> Stage | None:
    return next((stage for stage in STAGES if OmegaConf.select(recipe, stage.model_key)), None)


def _total_steps(run: Path, recipe: DictConfig, stage: Stage | None) -> int | None:
    """The number of steps that the last start wrote into the log, or else that of the recipe."""
    total = OmegaConf.select(recipe, "trainer.total_training_steps")
    if stage and (run / LOG).exists():
        with (run / LOG).open(encoding="utf-8", errors="replace") as lines:
            for found in filter(None, (re.search(stage.total_steps, line) for line in lines)):
                total = int(found[1])
    return total


def _count_prompts(path: Path, column: str) -> Counter[str]:
    return Counter(_prompt(path, number, column, row[column]) for number, row in iter_parquet(path, [column]))


def _prompt(path: Path, number: int, column: str, turns: object) -> str:
    """The prompt of a row's first user turn."""
    known = [turn for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []
    asked = [turn.get("content") for turn in known if turn.get("role") == "user"]
    try:
        return read_user_turn(path, number, column, asked[0] if asked else None)[0]
    except InputError:
        return OTHER_PROMPT


def _licence_of(hub: str | None) -> str | None:
    return APACHE if hub and hub.startswith(QWEN) else None


def _metadata(card: Path) -> dict:
    """The YAML block at the start of a model card. Empty if there is none."""
    try:
        before, _, rest = card.read_text(encoding="utf-8").partition("---\n")
        content = yaml.safe_load(rest.partition("\n---")[0]) if not before else None
    except (OSError, ValueError, yaml.YAMLError):
        content = None
    return content if isinstance(content, dict) else {}
