"""The samples that a report embeds: as many as fit into a few megabytes, of every split and outcome."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import chain, zip_longest
from pathlib import Path

from qwen3vl_rl.data.pictures import open_picture, thumbnail_url
from qwen3vl_rl.data.predictions import Prediction
from qwen3vl_rl.data.sample_card import CardAnswer, reasoning_and_answer
from qwen3vl_rl.evaluation.scoring.groups import expression_types
from qwen3vl_rl.evaluation.scoring.metrics import is_correct
from qwen3vl_rl.evaluation.scoring.results import Result

PICTURES_BYTES = 4_000_000  # of embedded pictures
MAX_SAMPLES = 1500  # one picture may have many expressions

Answered = Mapping[str, Prediction]  # one sample: name of the run -> its prediction


def browser_data(results: Sequence[Result], images: Path) -> dict:
    """The data of the page's script.

    `samples`: those that the page shows, by key. `differing`: positions of those on which models differ, of every split
    and outcome in turn. `total` and `total_differing`: counts of all samples. `pictures`: data URLs by name.
    """
    answered = join(results)
    shown, pictures = [], _Pictures(images)
    for sample in spread(answered):
        if len(shown) < MAX_SAMPLES and pictures.add(first(sample).image):
            shown.append(sample)
    ordered = sorted(range(len(shown)), key=lambda number: first(shown[number]).key)
    position = {number: place for place, number in enumerate(ordered)}
    names = [result.name for result in results]
    return {
        "models": names,
        "total": len(answered),
        "total_differing": sum(map(differ, answered)),
        "samples": [_sample_fields(shown[number], names) for number in ordered],
        "differing": [position[number] for number, sample in enumerate(shown) if differ(sample)],
        "pictures": pictures.urls,
    }


def join(results: Sequence[Result]) -> list[Answered]:
    """The predictions of several runs, grouped by sample and sorted by key. A run may lack some samples."""
    joined: dict[tuple[str, str, str], dict[str, Prediction]] = {}
    for result in results:
        for row in result.predictions:
            joined.setdefault((row.key, row.image, row.sent), {})[result.name] = row
    return [joined[place] for place in sorted(joined)]


def spread(answered: Iterable[Answered]) -> Iterator[Answered]:
    """All samples, one of each split and outcome in turn. Among those of one kind, a hash of the key decides."""
    kinds: dict[tuple[str, tuple[bool, ...]], list[Answered]] = {}
    for sample in answered:
        outcome = tuple(is_correct(row) for row in sample.values())
        kinds.setdefault((first(sample).split, outcome), []).append(sample)
    for kind in kinds.values():
        kind.sort(key=lambda sample: hashlib.sha256(first(sample).key.encode()).digest())
    return (sample for sample in chain.from_iterable(zip_longest(*kinds.values())) if sample)


def differ(sample: Answered) -> bool:
    """Whether one model is right and another is wrong."""
    return len({is_correct(row) for row in sample.values()}) > 1


def first(sample: Answered) -> Prediction:
    """One of the predictions, for the fields that all of them share."""
    return next(iter(sample.values()))


def _sample_fields(sample: Answered, names: Sequence[str]) -> dict:
    shared = first(sample)
    return {
        "key": shared.key,
        "split": shared.split,
        "image": shared.image,
        "width": shared.width,
        "height": shared.height,
        "sent": shared.sent,
        "types": expression_types(shared.sent),
        "truth": shared.xyxy_px,
        "visible": shared.modal_xyxy_px,
        "answers": [asdict(_card_answer(sample[name])) if name in sample else None for name in names],
    }


def _card_answer(row: Prediction) -> CardAnswer:
    reasoning, answer = reasoning_and_answer(row.text)
    return CardAnswer(
        box=row.pred_xyxy_px,
        iou=row.iou,
        right=is_correct(row),
        reasoning=reasoning,
        answer=answer,
        tokens=row.tokens,
        latency_s=row.latency_s,
        cut=row.finish_reason == "length",
        error=row.error,
    )


class _Pictures:
    """Pictures within a budget of bytes; `urls` maps an image's name to its data URL."""

    def __init__(self, folder: Path):
        self.urls: dict[str, str] = {}
        self._broken: set[str] = set()
        self._folder, self._bytes = folder, 0

    def add(self, name: str) -> bool:
        """Add the picture if there is room. Returns whether it is embedded."""
        if name not in self.urls and name not in self._broken and self._bytes < PICTURES_BYTES:
            try:
                self.urls[name] = thumbnail_url(open_picture(self._folder / name))
                self._bytes += len(self.urls[name])
            except OSError:  # the notes list its failed request
                self._broken.add(name)
        return name in self.urls
