"""One model's evaluation: what decides it, its folder of results, and how it starts, resumes and ends.

A run folder holds `config.yaml` (what decides the predictions), `predictions.jsonl` (one row a sample, see
predictions.py), `summary.json` (a pure function of the predictions) and `timing.json` (what the clock said).
"""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

import yaml
from tqdm import tqdm

from qwen3vl_rl.data.samples import check_images, read_samples
from qwen3vl_rl.evaluation.checkpoints import check_checkpoint, weights_fingerprint
from qwen3vl_rl.evaluation.metrics import summarize, summarize_latency
from qwen3vl_rl.evaluation.predict import predict
from qwen3vl_rl.evaluation.predictions import (
    Prediction,
    Question,
    append,
    read_predictions,
    resume,
    unanswered,
    write_whole,
)
from qwen3vl_rl.evaluation.server import Endpoint, EngineError, Server
from qwen3vl_rl.evaluation.settings import Settings
from qwen3vl_rl.grounding import InputError


def read_questions(
    data: Sequence[Path], images: Path, splits: Sequence[str] | None = None, limit: int | None = None
) -> list[Question]:
    """All samples of the jsonl files in `data` (files or folders); a split is named by its file.

    Raises InputError naming file, row and field for a bad row, and for an image that is missing, unreadable or of
    another size; also for an unknown or repeated split.
    """
    files = _split_files(data)
    if unknown := sorted(set(splits or ()) - set(files)):
        raise InputError(f'split: expected one of {", ".join(files)}, got "{unknown[0]}"')
    if limit is not None and limit < 1:
        raise InputError(f"limit: expected at least 1, got {limit}")
    questions = []
    for split, path in files.items():
        if splits and split not in splits:
            continue
        samples = read_samples(path)[:limit]
        if not samples:
            raise InputError(f"{path}: expected at least one sample, found none")
        check_images(((path, number, sample) for number, sample in enumerate(samples, start=1)), images)
        questions += [
            Question(f"{split}/{number:06d}", split, sample) for number, sample in enumerate(samples, start=1)
        ]
    return questions


def _split_files(data: Sequence[Path]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in data:
        found = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
        if not found:
            raise InputError(f"{path}: expected *.jsonl files in the folder, found none")
        for file in found:
            if files.setdefault(file.stem, file) != file:
                raise InputError(f"{file}: expected one file per split, {files[file.stem]} has the same name")
    return files


class Run:
    """Raises InputError on creation where the model is none, or the folder holds predictions of something else."""

    def __init__(
        self, folder: Path, model: str, questions: Sequence[Question], settings: Settings, endpoint: str | None = None
    ):
        self.folder, self.model, self.questions, self.settings = folder, model, questions, settings
        if endpoint is None:
            check_checkpoint(Path(model))
        self._config = {
            "model": model,
            "weights": f"{model} at {endpoint}" if endpoint else weights_fingerprint(Path(model)),
            "settings": asdict(settings),
            "samples": _describe(questions),
        }
        if (folder / "predictions.jsonl").exists():
            self._check_config()
        self._done = resume(folder / "predictions.jsonl")

    def complete(self, server: Server | Endpoint, images: Path, concurrency: int) -> None:
        """Ask what no row answers yet, then write summary and timing. Raises EngineError where the server fails."""
        todo = unanswered(self.questions, self._done)
        wall_s = self._ask(todo, server, images, concurrency) if todo else None
        predictions = read_predictions(self.folder / "predictions.jsonl")
        _write_json(self.folder / "summary.json", summarize(predictions))
        if todo or not (self.folder / "timing.json").exists():
            timing = {
                "concurrency": concurrency,
                "resumed": bool(self._done),
                "latency": summarize_latency(predictions),
            }
            if wall_s is not None:
                timing |= {"wall_s": wall_s, "requests": len(todo), "requests_per_s": len(todo) / wall_s}
            _write_json(self.folder / "timing.json", timing)

    def write_config(self) -> None:
        """Write what decides the predictions, before there are any."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / "config.yaml", yaml.safe_dump(self._config, sort_keys=False))

    def _ask(self, todo: list[Question], server: Server | Endpoint, images: Path, concurrency: int) -> float:
        self.write_config()
        served = server.load(self.model)
        bar = tqdm(
            total=len(self.questions), initial=len(self._done), desc=f"evaluate {self.folder.name}", unit="sample"
        )
        start = time.monotonic()
        with (self.folder / "predictions.jsonl").open("a", encoding="utf-8") as file, bar:

            def finished(prediction: Prediction) -> None:
                append(file, prediction)
                bar.update()

            try:
                predict(
                    todo,
                    url=server.url,
                    model=served,
                    images=images,
                    reads_images_below=server.reads_images_below,
                    settings=self.settings,
                    concurrency=concurrency,
                    finished=finished,
                )
            except EngineError as error:
                raise EngineError(server.describe_failure(str(error))) from error
        return time.monotonic() - start

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


def read_result(folder: Path) -> Result:
    """Raises InputError where the folder holds no finished run."""
    for name in ("predictions.jsonl", "summary.json", "timing.json"):
        if not (folder / name).is_file():
            raise InputError(f"{folder}: expected a finished evaluation, found no {name} in it")
    summary, timing = (json.loads((folder / name).read_text("utf-8")) for name in ("summary.json", "timing.json"))
    return Result(folder.name, read_predictions(folder / "predictions.jsonl"), summary, timing)


def _describe(questions: Sequence[Question]) -> dict[str, dict]:
    """Per split the number of samples and a hash of all that is asked about them."""
    digests: dict[str, list[bytes]] = {}
    for question in questions:
        digests.setdefault(question.split, []).append(repr((question.key, astuple(question.sample))).encode())
    return {
        split: {"count": len(parts), "sha256": hashlib.sha256(b"\n".join(parts)).hexdigest()}
        for split, parts in digests.items()
    }


def _flat(tree: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _write_json(path: Path, content: dict) -> None:
    write_whole(path, json.dumps(content, indent=2) + "\n")
