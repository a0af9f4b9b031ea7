"""One model's evaluation: what decides it, its folder of results, and how it starts, resumes and ends.

A run folder holds `config.yaml` (what decides the predictions), `predictions.jsonl` (one row a sample, see
data/predictions.py), `summary.json` (a pure function of the predictions) and `timing.json` (what the clock said).
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path

import yaml
from tqdm import tqdm

from qwen3vl_rl.data.files import replacing
from qwen3vl_rl.data.predictions import Prediction, Question, append, drop_failed, read_predictions, resume, unanswered
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.evaluation.scoring.metrics import latency_fields, summarize, summarize_latency
from qwen3vl_rl.evaluation.serving.predict import REQUEST_TIMEOUT_S, Target, predict, warm_up
from qwen3vl_rl.evaluation.serving.questions import describe_questions
from qwen3vl_rl.evaluation.serving.server import Endpoint, EngineError, Server
from qwen3vl_rl.evaluation.serving.settings import Settings

WARM_UP_REQUESTS = 4


@dataclass(frozen=True, slots=True)
class Load:
    """How hard the server is asked; decides the clock, not the predictions.

    `alone`: so many questions are asked again afterwards, one at a time, for the latency of a request on its own.
    `retry_failed`: ask again what an earlier session wrote down as failed.
    """

    concurrency: int
    alone: int = 0
    timeout_s: float = REQUEST_TIMEOUT_S
    retry_failed: bool = False


class Run:
    """Raises InputError on creation where the model is none, or the folder holds predictions of something else."""

    def __init__(
        self, folder: Path, model: str, questions: Sequence[Question], settings: Settings, server: Server | Endpoint
    ):
        self.folder, self.model, self.questions = folder, model, questions
        self.settings, self.server = settings, server
        self._config = {
            "model": model,
            **server.fingerprint(model),
            "server": server.describe(),
            "settings": asdict(settings),
            "samples": describe_questions(questions),
        }
        if (folder / "predictions.jsonl").exists():
            self._check_config()
        self._done = resume(folder / "predictions.jsonl")

    def complete(self, images: Path, load: Load) -> None:
        """Ask what no row answers yet, then write summary and timing. Raises EngineError where the server fails."""
        if load.retry_failed:
            self._done = drop_failed(self.folder / "predictions.jsonl")
        todo = unanswered(self.questions, self._done)
        if todo or (load.alone and "alone" not in self._timing()):
            self._ask(todo, images, load)
        self._conclude({})

    def _conclude(self, measured: dict) -> None:
        """Write the scores of all rows, and what the clock said: `measured` of it just now, the rest before."""
        predictions = read_predictions(self.folder / "predictions.jsonl")
        summary = summarize(predictions)
        _write_json(self.folder / "summary.json", summary)
        timing = {
            "server": self._served(),
            "resumed": bool(self._done),
            **self._timing(),
            "latency": summarize_latency(predictions, summary["average"]["of"]),
        }
        _write_json(self.folder / "timing.json", timing | measured)

    def _served(self) -> dict:
        return self.server.describe() | {"device": self.server.device}

    def _timing(self) -> dict:
        path = self.folder / "timing.json"
        return json.loads(path.read_text("utf-8")) if path.exists() else {}

    def write_config(self) -> None:
        """Write what decides the predictions, before there are any."""
        with replacing(self.folder / "config.yaml") as draft:
            draft.write_text(yaml.safe_dump(self._config, sort_keys=False), encoding="utf-8")

    def _ask(self, todo: list[Question], images: Path, load: Load) -> None:
        self.write_config()
        name = self.server.load(self.model)
        target = Target(self.server.url, name, images, self.server.by_path, self.settings, load.timeout_s)
        try:
            # Spread over all questions, answered or not: what is left may well be the few that are always refused.
            warm_up(target, self._warming())
            if todo:
                self._conclude(self._ask_all(target, todo, load))
            self._conclude(self._ask_alone(target, load))
        except EngineError as error:
            raise EngineError(self.server.describe_failure(str(error))) from error

    def _ask_all(self, target: Target, todo: list[Question], load: Load) -> dict:
        path = self.folder / "predictions.jsonl"
        counts = {"total": len(self.questions), "initial": len(self._done)}
        bar = tqdm(**counts, desc=f"evaluate {self.folder.name}", unit="sample", mininterval=1)
        tokens = 0
        start = time.monotonic()

        def finished(prediction: Prediction) -> None:
            nonlocal tokens
            append(file, prediction)
            tokens += prediction.tokens
            bar.update()

        try:
            with bar, path.open("a", encoding="utf-8") as file:
                predict(target, todo, load.concurrency, finished)
        except OSError as error:
            raise EngineError(f"{path}: {error.strerror}; the same command goes on from here") from error
        wall_s = time.monotonic() - start
        rates = {"requests_per_s": len(todo) / wall_s, "tokens_per_s": tokens / wall_s}
        session = {"server": self._served(), "resumed": bool(self._done), "concurrency": load.concurrency}
        return session | {"requests": len(todo), "wall_s": wall_s} | rates

    def _ask_alone(self, target: Target, load: Load) -> dict:
        """Latency of requests that have the server to themselves, over questions spread through all."""
        if not load.alone:
            return {}
        self.server.forget()  # of a question that was asked before, little would be left to compute
        answers: list[Prediction] = []
        predict(target, _spread(self.questions, load.alone), 1, answers.append)
        latencies_s = [answer.latency_s for answer in answers if answer.error is None]
        return {"alone": {"requests": len(latencies_s), **latency_fields(latencies_s)}} if latencies_s else {}

    def _warming(self) -> list[Question]:
        """A few questions of every split: one whose images the server cannot open shall not pass for a bad score."""
        splits = [list(members) for _, members in groupby(self.questions, key=lambda question: question.split)]
        each = max(2, WARM_UP_REQUESTS // len(splits))
        return [question for members in splits for question in _spread(members, each)]

    def _check_config(self) -> None:
        path = self.folder / "config.yaml"
        earlier = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
        ours, theirs = dict(_flat(self._config)), dict(_flat(earlier))
        for field in sorted((ours.keys() | theirs.keys()) - {"model"}):  # a folder may move, its weights decide
            if ours.get(field) != theirs.get(field):
                raise InputError(
                    f'{path}: field "{field}": the predictions here were made with {theirs.get(field)}, expected '
                    f"{ours.get(field)}; remove {self.folder} or choose another place for this evaluation"
                )


@dataclass(frozen=True, slots=True)
class Result:
    """What a finished run left behind; `name` is its folder's."""

    name: str
    predictions: list[Prediction]
    summary: dict
    timing: dict


def missing_part(folder: Path) -> str | None:
    """What the folder lacks to hold a finished run: a file, or rows. None where it lacks nothing.

    Scores of an earlier end stay while failed samples are asked again, so that only the rows tell.
    """
    for name in ("predictions.jsonl", "config.yaml", "summary.json", "timing.json"):
        if not (folder / name).is_file():
            return f"no {name} in it"
    asked = _sample_count(folder / "config.yaml")
    rows = (folder / "predictions.jsonl").read_bytes().count(b"\n")
    return None if rows == asked else f"{rows} rows for {asked} samples; the command that began it goes on"


def read_result(folder: Path) -> Result:
    """Raises InputError where the folder holds no finished run."""
    if missing := missing_part(folder):
        raise InputError(f"{folder}: expected a finished evaluation, found {missing}")
    try:
        timing = json.loads((folder / "timing.json").read_text("utf-8"))
        timing["latency"], timing["resumed"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{folder / 'timing.json'}: expected what an evaluation writes there") from None
    predictions = read_predictions(folder / "predictions.jsonl")
    return Result(folder.name, predictions, summarize(predictions), timing)  # the predictions are the truth


def read_results(folders: Sequence[Path]) -> list[Result]:
    """Of several runs; those in folders of one name are told apart by the folder above. Raises InputError where a run
    is given twice."""
    resolved = [folder.resolve() for folder in folders]
    if twice := [folder for folder in resolved if resolved.count(folder) > 1]:
        raise InputError(f"{twice[0]}: expected every run once")
    names = [folder.name for folder in resolved]
    parts = 1
    while len(set(names)) < len(names):
        parts += 1
        names = ["/".join(folder.parts[-parts:]) for folder in resolved]
    return [replace(read_result(folder), name=name) for folder, name in zip(folders, names, strict=True)]


def _sample_count(config: Path) -> int:
    """How many samples the run asks about. Raises InputError where the file does not tell."""
    try:
        splits = yaml.safe_load(config.read_text(encoding="utf-8"))["samples"]
        return sum(split["count"] for split in splits.values())
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f'{config}: field "samples": expected the count of each split') from None


def _spread(questions: Sequence[Question], count: int) -> list[Question]:
    """So many of them at even distances, first and last among them."""
    last, steps = len(questions) - 1, max(count - 1, 1)
    return [questions[i] for i in dict.fromkeys(round(last * step / steps) for step in range(count))]


def _flat(tree: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _write_json(path: Path, content: dict) -> None:
    with replacing(path) as draft:
        draft.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
