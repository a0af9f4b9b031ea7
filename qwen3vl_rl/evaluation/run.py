"""One model's evaluation: how it starts, resumes and ends, and the files that it writes.

A run folder holds `config.yaml` (everything that affects the predictions), `predictions.jsonl` (one row per sample, see
data/predictions.py), `summary.json` (a pure function of the predictions) and `timing.json` (latency and throughput).
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

import yaml

from qwen3vl_rl.data.files import replacing
from qwen3vl_rl.data.predictions import Prediction, Question, append, drop_failed, read_predictions, resume, unanswered
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.evaluation.scoring.metrics import latency_fields, summarize, summarize_latency
from qwen3vl_rl.evaluation.scoring.results import SINGLE_REQUEST, read_timing
from qwen3vl_rl.evaluation.serving.predict import REQUEST_TIMEOUT_S, Target, predict, warm_up
from qwen3vl_rl.evaluation.serving.questions import describe_questions
from qwen3vl_rl.evaluation.serving.server import AnyServer, EngineError
from qwen3vl_rl.evaluation.serving.settings import Settings
from qwen3vl_rl.grounding import parser_name
from qwen3vl_rl.training.progress import CountProgress

WARM_UP_REQUESTS = 4


@dataclass(frozen=True, slots=True)
class Load:
    """Client load settings. They affect timing, not predictions.

    `latency_samples`: the number of questions that are asked again at the end, one at a time, to measure the latency of
    a single request. `retry_failed`: ask again the questions that an earlier start recorded as failed.
    """

    concurrency: int
    latency_samples: int = 0
    timeout_s: float = REQUEST_TIMEOUT_S
    retry_failed: bool = False


class Run:
    """One model's evaluation in one folder.

    Raises InputError on creation if the model cannot be found, or if the folder's predictions come from another model,
    server, settings or samples.
    """

    def __init__(self, folder: Path, model: str, questions: Sequence[Question], settings: Settings, server: AnyServer):
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
        """Ask the questions that have no row yet, then write summary and timing.

        Raises EngineError if the server fails.
        """
        if load.retry_failed:
            self._done = drop_failed(self.folder / "predictions.jsonl")
        todo = unanswered(self.questions, self._done)
        if todo or (load.latency_samples and SINGLE_REQUEST not in self._timing()):
            self._ask(todo, images, load)
        self._conclude({})

    def _conclude(self, measured: dict) -> None:
        """Write the scores of all rows, and the timing: `measured` now, earlier values for the rest."""
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
        return read_timing(self.folder) if (self.folder / "timing.json").exists() else {}

    def write_config(self) -> None:
        """Write config.yaml, before there are any predictions."""
        with replacing(self.folder / "config.yaml") as draft:
            draft.write_text(yaml.safe_dump(self._config, sort_keys=False), encoding="utf-8")

    def _ask(self, todo: list[Question], images: Path, load: Load) -> None:
        self.write_config()
        name = self.server.load(self.model)
        target = Target(self.server.urls, name, images, self.server.by_path, self.settings, load.timeout_s)
        try:
            # All questions count, answered or not: those that are left may be the few that the server always refuses.
            warm_up(target, self._warming())
            if todo:
                self._conclude(self._ask_all(target, todo, load))
            self._conclude(self._measure_latency(target, load))
        except EngineError as error:
            raise EngineError(self.server.describe_failure(str(error))) from error

    def _ask_all(self, target: Target, todo: list[Question], load: Load) -> dict:
        path = self.folder / "predictions.jsonl"
        progress = CountProgress(f"evaluate {self.folder.name}", "samples", len(self.questions), len(self._done))
        tokens = 0
        start = time.monotonic()

        def finished(prediction: Prediction) -> None:
            nonlocal tokens
            append(file, prediction)
            tokens += prediction.tokens
            progress.add()

        try:
            with progress, path.open("a", encoding="utf-8") as file:
                predict(target, todo, load.concurrency, finished)
        except OSError as error:
            raise EngineError(f"{path}: {error.strerror}; run the same command again to resume") from error
        wall_s = time.monotonic() - start
        rates = {"requests_per_s": len(todo) / wall_s, "tokens_per_s": tokens / wall_s}
        session = {"server": self._served(), "resumed": bool(self._done), "concurrency": load.concurrency}
        return session | {"requests": len(todo), "wall_s": wall_s} | rates

    def _measure_latency(self, target: Target, load: Load) -> dict:
        """The latency of single requests, for evenly spaced questions."""
        if not load.latency_samples:
            return {}
        self.server.reset_caches()  # a cached prompt would make the repeated questions faster
        answers: list[Prediction] = []
        predict(target, _spread(self.questions, load.latency_samples), 1, answers.append)
        latencies_s = [answer.latency_s for answer in answers if answer.error is None]
        return {SINGLE_REQUEST: {"requests": len(latencies_s), **latency_fields(latencies_s)}} if latencies_s else {}

    def _warming(self) -> list[Question]:
        """A few questions of every split, so that unreadable images fail early instead of counting as wrong."""
        splits = [list(members) for _, members in groupby(self.questions, key=lambda question: question.split)]
        each = max(2, WARM_UP_REQUESTS // len(splits))
        return [question for members in splits for question in _spread(members, each)]

    def _check_config(self) -> None:
        path = self.folder / "config.yaml"
        earlier = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
        ours, theirs = dict(_flat(self._config)), dict(_flat(earlier))
        theirs["settings.parser"] = parser_name(theirs.get("settings.parser"))
        theirs.setdefault("settings.sentences", "each")  # before it was a setting
        for field in sorted((ours.keys() | theirs.keys()) - {"model"}):  # its path may change; the weights' hash counts
            if ours.get(field) != theirs.get(field):
                raise InputError(
                    f'{path}: field "{field}": the predictions here were made with {theirs.get(field)}, expected '
                    f"{ours.get(field)}; remove {self.folder} or choose another place for this evaluation"
                )


def _spread(questions: Sequence[Question], count: int) -> list[Question]:
    """`count` evenly spaced questions, from the first to the last."""
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
