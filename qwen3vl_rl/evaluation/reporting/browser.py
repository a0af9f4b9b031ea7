"""Which samples a report shows, and what it embeds of them: as many as fit into a few megabytes, of every kind."""

import base64
import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path

from PIL import Image

from qwen3vl_rl.data.predictions import Prediction
from qwen3vl_rl.evaluation.scoring.groups import expression_types
from qwen3vl_rl.evaluation.scoring.metrics import is_correct
from qwen3vl_rl.evaluation.scoring.results import Result

PICTURES_BYTES = 4_000_000  # of embedded pictures
MAX_SAMPLES = 1500  # about one picture there may be many expressions
MAX_SIDE_PX = 512  # larger pictures are embedded smaller; the boxes are drawn over them in full precision

Answered = Mapping[str, Prediction]  # one sample: name of the run -> its prediction


def browser_data(results: Sequence[Result], images: Path) -> dict:
    """What the page's script reads: `models`, `total` samples, `samples` that are shown, `pictures` as data URLs."""
    answered = join(results)
    shown, pictures = [], _Pictures(images)
    for sample in spread(answered):
        if len(shown) < MAX_SAMPLES and pictures.add(first(sample).image):
            shown.append(sample)
    shown.sort(key=lambda sample: first(sample).key)
    names = [result.name for result in results]
    return {
        "models": names,
        "total": len(answered),
        "samples": [_sample_fields(sample, names) for sample in shown],
        "pictures": pictures.urls,
    }


def join(results: Sequence[Result]) -> list[Answered]:
    """Predictions of several runs by sample, in the order of keys; a run may lack some samples."""
    joined: dict[tuple[str, str, str], dict[str, Prediction]] = {}
    for result in results:
        for row in result.predictions:
            joined.setdefault((row.key, row.image, row.sent), {})[result.name] = row
    return [joined[place] for place in sorted(joined)]


def spread(answered: Iterable[Answered]) -> Iterator[Answered]:
    """All samples, those of each split and outcome in turn, within these in an order that no file decides."""
    kinds: dict[tuple[str, tuple[bool, ...]], list[Answered]] = {}
    for sample in answered:
        outcome = tuple(is_correct(row) for row in sample.values())
        kinds.setdefault((first(sample).split, outcome), []).append(sample)
    for kind in kinds.values():
        kind.sort(key=lambda sample: hashlib.sha256(first(sample).key.encode()).digest())
    return (sample for sample in chain.from_iterable(zip_longest(*kinds.values())) if sample)


def first(sample: Answered) -> Prediction:
    """Any of the predictions, for what they all share."""
    return next(iter(sample.values()))


def reasoning_and_answer(text: str) -> tuple[str, str]:
    """The text up to the last `</think>`, and what follows it; without one, all of it counts as the answer."""
    reasoning, _, answer = text.rpartition("</think>")
    return reasoning.strip(), answer.strip()


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
        "answers": [_answer_fields(sample[name]) if name in sample else None for name in names],
    }


def _answer_fields(row: Prediction) -> dict:
    reasoning, answer = reasoning_and_answer(row.text)
    return {
        "box": row.pred_xyxy_px,
        "iou": row.iou,
        "right": is_correct(row),
        "reasoning": reasoning,
        "answer": answer,
        "tokens": row.tokens,
        "latency_s": row.latency_s,
        "cut": row.finish_reason == "length",
        "error": row.error,
    }


class _Pictures:
    """Pictures within a budget of bytes; `urls` maps an image's name to its data URL."""

    def __init__(self, folder: Path):
        self.urls: dict[str, str] = {}
        self._broken: set[str] = set()
        self._folder, self._bytes = folder, 0

    def add(self, name: str) -> bool:
        """Whether the picture is in: it was before, or there was room."""
        if name not in self.urls and name not in self._broken and self._bytes < PICTURES_BYTES:
            try:
                self.urls[name] = _data_url(self._folder / name)
                self._bytes += len(self.urls[name])
            except OSError:  # the answer to it stands among the failed
                self._broken.add(name)
        return name in self.urls


def _data_url(path: Path) -> str:
    with Image.open(path) as image:
        picture = image.convert("RGB")
        is_photo = image.format == "JPEG" or max(image.size) > MAX_SIDE_PX  # as PNG ten times the bytes
    picture.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX))
    kind, options = ("jpeg", {"quality": 80}) if is_photo else ("png", {"optimize": True})
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
