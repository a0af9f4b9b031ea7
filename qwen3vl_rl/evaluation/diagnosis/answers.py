"""What the answers of a checkpoint say of it: cut off, without a box, in another convention, worse than published."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np

from qwen3vl_rl.data.predictions import THRESHOLD_IOU, Prediction
from qwen3vl_rl.data.readings import XYXY_1000, XYXY_PX
from qwen3vl_rl.evaluation.diagnosis import Finding
from qwen3vl_rl.evaluation.diagnosis.readings import RESIZED, STORED, hits_by_reading
from qwen3vl_rl.evaluation.scoring.metrics import summarize
from qwen3vl_rl.evaluation.scoring.published import splits, table

FEW = 0.05  # of answers: less than that is the model's own weakness
NOISE = "!" * 8  # token 0 of Qwen, over and over
CLEARLY_BETTER = 0.2  # accuracy by which another reading beats ours
MIN_ROWS = 20  # with a true box: of fewer, another reading may score better by chance
CLEARLY_WORSE = 0.05  # accuracy that may lie between the interval and the lowest published number of the size

ADVICE = {  # what too many of a kind mean, and what to do
    "requests": (
        "The server refuses these questions. They count as wrong.",
        "Read the errors in predictions.jsonl.",
    ),
    "numbers": (
        "Token 0 over and over is what is left of logits that are not numbers. In float16 large activations overflow.",
        "Serve in bfloat16: -- --dtype bfloat16, and actor_rollout_ref.rollout.dtype=bfloat16 in stage 2.",
    ),
    "length": (
        "An answer that is cut off has no box and earns nothing.",
        "Raise --max-tokens and data.max_response_length. If answers run on, see generation config above.",
    ),
    "boxes": (
        "There are no four numbers in 0..1000 behind the reasoning.",
        "Read some answers in predictions.jsonl, and coordinates below.",
    ),
    "reasoning": (
        "Reasoning without </think> before the answer is read as part of it, and a box in it may count.",
        "If the checkpoint is not a Thinking model, serve it with a template that opens no <think>.",
    ),
}
ANOTHER = "The model has learnt another convention; the reward would see wrong boxes."
# What to do, by the reading that scores; `CONVERT` for others.
CHANGE: Mapping[str, str] = {
    XYXY_1000: "Read them so, as the recipe does: coordinates: relative_1000 and parser: strict in --settings.",
    XYXY_PX: "Use a Qwen3-VL checkpoint. Qwen2.5-VL answers in pixels: set coordinates: px and parser: released.",
    RESIZED: "Use a Qwen3-VL checkpoint. Qwen2.5-VL answers in pixels of the picture as its processor resized it.",
    STORED: "Turn pictures by their EXIF orientation before the model sees them, as this project does.",
}
UNREAD = (
    "The numbers are right, and written in a way that the parser does not read.",
    'Train or ask for "bbox_2d": [x1, y1, x2, y2], or read with parser: released.',
)
CONVERT = "Convert the boxes of its training data to xyxy in 0..1000, or its answers before they are scored."

_BOX_BEGINS = re.compile(r"bbox_2d|[\[(]\s*[-+.\d]")
LONG_WORDS = 40  # before the box: so many are no sentence of an answer


def judge(predictions: Sequence[Prediction], size: str | None = None, images: Path | None = None) -> Iterator[Finding]:
    """All findings. `size`: a published one, such as `8B`, whose numbers the accuracy is compared with; `images`: the
    folder of the pictures, to think of their EXIF orientations."""
    answered = [row for row in predictions if row.error is None]
    yield _share("requests", "failed", [row.error is not None for row in predictions])
    if not answered:
        return
    yield _share("numbers", "are exclamation marks", [NOISE in row.text for row in answered])
    yield _share("length", "are cut off", [row.finish_reason == "length" for row in answered])
    meant = [row for row in answered if row.xyxy_px is not None]
    if whole := [row for row in meant if row.finish_reason != "length"]:
        yield _share("reasoning", "reason without </think>", [_never_ends(row.text) for row in whole])
    if meant:
        yield _share("boxes", "hold no box", [row.pred_xyxy_px is None for row in meant])
    yield coordinates(answered, images)
    yield accuracy(answered, size)


def _never_ends(text: str) -> bool:
    """Whether an answer reasons before its box and no </think> stands between."""
    box = _BOX_BEGINS.search(text)
    before = text[: box.start()] if box else text
    return "</think>" not in text and ("<think>" in text or len(before.split()) > LONG_WORDS)


def _share(name: str, what: str, hits: Sequence[bool]) -> Finding:
    text = f"{sum(hits)} of {len(hits)} {what}"
    return Finding(name, text) if fmean(hits) < FEW else Finding(name, text, *ADVICE[name])


def coordinates(answered: Sequence[Prediction], images: Path | None = None) -> Finding:
    """Whether answers score far better if their numbers are read in another way, all together or those of a split."""
    rows = [row for row in answered if row.xyxy_px is not None]
    if len(rows) < MIN_ROWS:
        return Finding("coordinates", f"{len(rows)} answers to compare with a box, too few to tell")
    hits = hits_by_reading(rows, images)
    together = _coordinates(rows, hits)
    places: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(row.split, []).append(place)
    if not together.is_fine or len(places) == 1:
        return together
    for split, members in places.items():
        if len(members) < MIN_ROWS:
            continue
        alone = _coordinates([rows[place] for place in members], {name: hit[members] for name, hit in hits.items()})
        if not alone.is_fine:
            return replace(alone, found=f"{split}: {alone.found}")
    return together


def _coordinates(rows: Sequence[Prediction], hits: Mapping[str, np.ndarray]) -> Finding:
    ours = fmean(row.iou > THRESHOLD_IOU for row in rows)
    scores = {name: float(hit.mean()) for name, hit in hits.items()}
    best = max(scores, key=scores.__getitem__)
    if scores[best] < ours + CLEARLY_BETTER:
        return Finding("coordinates", f"no other reading scores better ({ours:.0%} right)")
    text = f"{scores[best]:.0%} of the answers are right if read as {best}, {ours:.0%} as they were read"
    if best == XYXY_1000 and fmean(row.pred_xyxy_px is None for row in rows) > 0.5:
        return Finding("coordinates", text, *UNREAD)
    return Finding("coordinates", text, ANOTHER, CHANGE.get(best, CONVERT))


def accuracy(answered: Sequence[Prediction], size: str | None) -> Finding:
    """Acc@0.5 with its interval, split by split, and the published ones of the size."""
    found, behind = [], []
    for split, summary in summarize(answered)["splits"].items():
        interval = summary["acc_interval"]
        known = published(size, split)
        text = f"{split} {100 * summary['acc']:.1f}"
        if interval:
            text += " ({:.1f} to {:.1f})".format(*(100 * bound for bound in interval))
        if known:
            text += f", published {min(known):.1f} to {max(known):.1f}"
            behind += [split] if interval and 100 * (interval[1] + CLEARLY_WORSE) < min(known) else []
        found.append(text)
    if not behind:
        return Finding("accuracy", "; ".join(found))
    means = f"{behind[0]} is further below the published numbers of this size than chance allows."
    return Finding("accuracy", "; ".join(found), means, "Look at the findings above, then at pictures in report.html.")


def published(size: str | None, split: str) -> list[float]:
    """The paper's numbers of a split for models of a size, in percent; none where it has none."""
    names = list(splits())
    if split not in names:
        return []
    return [row[names.index(split)] for model, row in table().items() if size and f"-{size}" in model]
