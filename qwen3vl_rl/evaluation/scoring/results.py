"""Reads the results of finished runs from their folders. `evaluation/run.py` lists the files."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from qwen3vl_rl.data.predictions import Prediction, read_predictions
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.evaluation.scoring.metrics import summarize

PREDICTIONS = "predictions.jsonl"
SINGLE_REQUEST = "single_request_latency"  # key of timing.json: latency of requests that are sent one at a time
_VARIANT = re.compile(r"free|(?:budget|answers)-\d+")  # names that `serving.settings.variants` gives


@dataclass(frozen=True, slots=True)
class Result:
    """What a finished run wrote. `name` is the name of its folder."""

    name: str
    predictions: list[Prediction]
    summary: dict
    timing: dict


def missing_part(folder: Path) -> str | None:
    """What is missing in the folder of an unfinished run: a file, or rows. None if the run is finished.

    A folder whose failed samples are being retried still holds earlier scores, so only its number of rows shows it.
    """
    for name in ("predictions.jsonl", "config.yaml", "summary.json", "timing.json"):
        if not (folder / name).is_file():
            return f"no {name}"
    asked = _sample_count(folder / "config.yaml")
    rows = (folder / "predictions.jsonl").read_bytes().count(b"\n")
    return None if rows == asked else f"{rows} rows for {asked} samples; rerun its command to resume"


def read_timing(folder: Path) -> dict:
    """The content of timing.json. Earlier files call the key `single_request_latency` `alone`.

    Raises InputError if an evaluation did not write it.
    """
    try:
        timing = json.loads((folder / "timing.json").read_text("utf-8"))
        timing["latency"], timing["resumed"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{folder / 'timing.json'}: expected the fields that an evaluation writes") from None
    if "alone" in timing:
        timing[SINGLE_REQUEST] = timing.pop("alone")
    return timing


def read_result(folder: Path) -> Result:
    """The result of a finished run, or of a single predictions.jsonl, which has no timing.

    Raises InputError if `folder` is neither.
    """
    if folder.is_file():
        predictions = read_predictions(folder)
        timing = {"latency": {}, "resumed": False}
        return Result(_place(folder.resolve()).name, predictions, summarize(predictions), timing)
    if missing := missing_part(folder):
        raise InputError(f"{folder}: expected a finished evaluation, found {missing}")
    timing = read_timing(folder)
    predictions = read_predictions(folder / PREDICTIONS)
    return Result(folder.name, predictions, summarize(predictions), timing)  # not summary.json, which may be old


def read_results(runs: Sequence[Path]) -> list[Result]:
    """The results of several runs, each a folder or a file of answers.

    Runs with the same name get the name of their parent folder as a prefix. Raises InputError if a run is given twice.
    """
    places = [_place(run.resolve()) for run in runs]
    if twice := [place for place in places if places.count(place) > 1]:
        raise InputError(f"{twice[0]}: expected every run once")
    names, parts = [place.name for place in places], 1
    while len(set(names)) < len(names):
        parts += 1
        names = ["/".join(place.parts[-parts:]) for place in places]
    return [replace(read_result(run), name=name) for run, name in zip(runs, names, strict=True)]


def _place(run: Path) -> Path:
    """The path that names the run: its folder or, for other files of answers, the file without its suffix."""
    return run.parent if run.name == PREDICTIONS else run.with_suffix("") if run.is_file() else run


def read_scaling(out: Path) -> dict[str, list[Result]]:
    """Model -> results of its finished variants in OUT/MODEL/VARIANT. Raises InputError if there are none."""
    found: dict[str, list[Result]] = {}
    folders = sorted((folder for folder in out.glob("*/*") if _VARIANT.fullmatch(folder.name)), key=_order)
    for folder in (folder for folder in folders if not missing_part(folder)):
        found.setdefault(folder.parent.name, []).append(read_result(folder))
    if not found:
        raise InputError(f"{out}: expected results of `scaling run`, found none")
    return found


def _order(folder: Path) -> tuple[str, bool, str, int]:
    """Sort key: by model; `free` first, then numbers of answers and budgets in ascending order."""
    kind, _, number = folder.name.partition("-")
    return folder.parent.name, bool(number), kind, int(number or 0)


def _sample_count(config: Path) -> int:
    """The number of samples of the run. Raises InputError if the file does not hold it."""
    try:
        splits = yaml.safe_load(config.read_text(encoding="utf-8"))["samples"]
        return sum(split["count"] for split in splits.values())
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f'{config}: field "samples": expected the count of each split') from None
