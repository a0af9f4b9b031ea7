"""What the answers to some questions say of a checkpoint: cut off, without a box, in another convention, worse than
published."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean

from qwen3vl_rl.data.predictions import THRESHOLD_IOU, Prediction
from qwen3vl_rl.evaluation.diagnosis import Finding
from qwen3vl_rl.evaluation.scoring.metrics import summarize
from qwen3vl_rl.evaluation.scoring.published import splits, table
from qwen3vl_rl.grounding import PARSERS, Box, iou, order_corners, scale_to_px, xywh_to_xyxy
from qwen3vl_rl.models.shapes import MERGED_PATCH_PX, QWENS_PIXELS, fitted_size

FEW = 0.05  # of answers: less than that is the model's own weakness
NOISE = "!" * 8  # token 0 of Qwen, over and over
CLEARLY_BETTER = 0.2  # accuracy by which another reading beats ours
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
}

Reading = Callable[[Box, int, int], Box]  # (four numbers of an answer, width, height) -> xyxy px


def _resized(numbers: Box, width: int, height: int) -> Box:
    """From px of the picture as the processor resized it."""
    seen_width, seen_height = fitted_size(width, height, MERGED_PATCH_PX, QWENS_PIXELS)
    x1, y1, x2, y2 = numbers
    return x1 * width / seen_width, y1 * height / seen_height, x2 * width / seen_width, y2 * height / seen_height


def _by_y(numbers: Box, width: int, height: int) -> Box:
    y1, x1, y2, x2 = numbers
    return scale_to_px((x1, y1, x2, y2), width, height)


READINGS: Mapping[str, Reading] = {  # other than ours, which is xyxy in 0..1000
    "pixels of the picture": lambda numbers, width, height: numbers,
    "pixels of the resized picture": _resized,
    "0..1": lambda numbers, width, height: scale_to_px(tuple(1000 * n for n in numbers), width, height),
    "x, y, width, height in 0..1000": lambda numbers, width, height: scale_to_px(xywh_to_xyxy(numbers), width, height),
    "y before x in 0..1000": _by_y,
}


def judge(predictions: Sequence[Prediction], size: str | None = None) -> Iterator[Finding]:
    """All findings. `size`: a published one, such as `8B`, whose numbers the accuracy is compared with."""
    answered = [row for row in predictions if row.error is None]
    yield _share("requests", "failed", [row.error is not None for row in predictions])
    if not answered:
        return
    yield _share("numbers", "are exclamation marks", [NOISE in row.text for row in answered])
    yield _share("length", "are cut off", [row.finish_reason == "length" for row in answered])
    if meant := [row for row in answered if row.xyxy_px is not None]:
        yield _share("boxes", "hold no box", [row.pred_xyxy_px is None for row in meant])
    yield coordinates(answered)
    yield accuracy(answered, size)


def _share(name: str, what: str, hits: Sequence[bool]) -> Finding:
    text = f"{sum(hits)} of {len(hits)} {what}"
    return Finding(name, text) if fmean(hits) < FEW else Finding(name, text, *ADVICE[name])


def coordinates(answered: Sequence[Prediction]) -> Finding:
    """Whether answers score far better if their numbers are read in another way."""
    rows = [row for row in answered if row.xyxy_px is not None]
    if not rows:
        return Finding("coordinates", "no question has a box to compare with")
    ours = fmean(row.iou > THRESHOLD_IOU for row in rows)
    scores = {name: fmean(_hits(row, reading) for row in rows) for name, reading in READINGS.items()}
    best = max(scores, key=scores.__getitem__)
    if scores[best] < ours + CLEARLY_BETTER:
        return Finding("coordinates", f"no reading scores better than xyxy in 0..1000 ({ours:.0%} right)")
    text = f"read as {best}, {scores[best]:.0%} of the answers are right, and {ours:.0%} as xyxy in 0..1000"
    change = "Use a Qwen3-VL checkpoint. Qwen2.5-VL answers in pixels: set coordinates: px and parser: released."
    return Finding(
        "coordinates", text, "The model has learnt another convention; the reward would see wrong boxes.", change
    )


def _hits(row: Prediction, reading: Reading) -> bool:
    numbers = PARSERS["released_reward"](row.text)  # which takes numbers of any size
    box = numbers and order_corners(reading(numbers, row.width, row.height))
    return bool(box) and iou(box, row.xyxy_px) > THRESHOLD_IOU


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
