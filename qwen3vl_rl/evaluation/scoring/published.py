"""Published numbers of the paper and of a model card, read from published.yaml."""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import yaml

from qwen3vl_rl.data.refcoco import EXPRESSIONS


@dataclass(frozen=True, slots=True)
class Split:
    """One of the eight RefCOCO splits. `samples`: how many expressions it has."""

    dataset: str
    part: str
    samples: int


@dataclass(frozen=True, slots=True)
class Point:
    """One model of the accuracy-latency figure; `acc` in percent."""

    family: str
    size: str
    latency_ms: float
    acc: float


@cache
def splits() -> dict[str, Split]:
    """The eight splits by name, in the paper's order."""
    return {name: Split(**fields, samples=EXPRESSIONS[name]) for name, fields in _content()["splits"].items()}


CARD = "EGM-8B, model card"  # a second row for the checkpoint EGM-8B


@cache
def table() -> dict[str, list[float]]:
    """Model -> Acc@0.5 in percent for each of `splits`, then the average."""
    return _content()["table"]


@cache
def points() -> list[Point]:
    """The points of the accuracy-latency figure."""
    families = _content()["figure"]
    return [Point(family, size, *values) for family, sizes in families.items() for size, values in sizes.items()]


@cache
def _content() -> dict:
    return yaml.safe_load(files("qwen3vl_rl.evaluation.scoring").joinpath("published.yaml").read_text(encoding="utf-8"))
