"""Checks of answers: cut off, without a box, in another box format, less accurate than published."""

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
from qwen3vl_rl.models.families import FAMILIES

FEW = 0.05  # share of the answers; fewer bad answers are normal for a model
NOISE = "!" * 8  # token 0 of Qwen, repeated
CLEARLY_BETTER = 0.2  # accuracy (0..1) by which another box format must beat the one that was read
MIN_ROWS = 20  # answers with a true box; with fewer, another format may score better by chance
CLEARLY_WORSE = 0.05  # accuracy (0..1) by which the interval may lie below the lowest published number

ADVICE = {  # finding -> what it causes, how to fix it
    "requests": (
        "These questions have no answer and count as wrong.",
        "Read their `error` in predictions.jsonl, then repeat the evaluation command with --retry-failed.",
    ),
    "NaN logits": (
        "`!` is token 0. Engines repeat it when all logits are NaN, as after an overflow in float16.",
        "Add -- --dtype bfloat16 to the evaluation command. In stage 2 set actor_rollout_ref.rollout.dtype=bfloat16.",
    ),
    "length": (
        "An answer that ends before its box counts as wrong and earns no reward.",
        "Raise --max-tokens (evaluation) or data.max_response_length (stage 2). If answers never end by themselves, "
        "check the stop tokens: python -m qwen3vl_rl.first_contact MODEL, line `generation config`.",
    ),
    "boxes": (
        "The parser found no valid box after the reasoning. These answers count as wrong.",
        "Read the `text` of a few answers in predictions.jsonl. The line `coordinates` tests other box formats.",
    ),
    "reasoning": (
        "Without </think> the reasoning counts as part of the answer, and a box in the reasoning may be scored.",
        "If it is not a Thinking model, serve it with a template that opens no <think>: add -- --chat-template FILE.",
    ),
}
KNOWN = " or ".join(family.name for family in FAMILIES.values())
ANOTHER = "The model writes another box format than the parser reads. Evaluation and reward see wrong boxes."
# How to fix it, by the format in which the answers are right; `CONVERT` for the others.
CHANGE: Mapping[str, str] = {
    XYXY_1000: "Remove `coordinates` and `parser` from the --settings file: the recipe's defaults read 0..1000.",
    XYXY_PX: f"Use a checkpoint of {KNOWN} (they answer in 0..1000), or set coordinates: px and parser: released in "
    "--settings.",
    **dict.fromkeys(
        RESIZED,
        f"Use a checkpoint of {KNOWN}, which answer in 0..1000. No setting reads px of the resized picture.",
    ),
    STORED: "Apply the EXIF orientation to pictures before the model sees them, as this project does.",
}
UNREAD = (
    "The numbers are right, but the parser does not read the syntax around them.",
    'Train the model or prompt it to write "bbox_2d": [x1, y1, x2, y2], or evaluate with --parser released.',
)
CONVERT = "Convert the boxes of its training data to xyxy in 0..1000, or convert its answers before scoring them."

_BOX_BEGINS = re.compile(r"bbox_2d|[\[(]\s*[-+.\d]")
LONG_WORDS = 40  # more words than this before the box are reasoning, not a sentence around the answer


def judge(predictions: Sequence[Prediction], size: str | None = None, images: Path | None = None) -> Iterator[Finding]:
    """All findings about answers.

    `size`: a published model size, such as `8B`, with whose numbers the accuracy is compared. `images`: the folder of
    the pictures; with it, EXIF orientations are tested too.
    """
    answered = [row for row in predictions if row.error is None]
    yield _share("requests", "requests failed", [row.error is not None for row in predictions])
    if not answered:
        return
    yield _share("NaN logits", "answers contain a run of exclamation marks", [NOISE in row.text for row in answered])
    yield _share("length", "answers hit the token limit", [row.finish_reason == "length" for row in answered])
    located = [row for row in answered if row.xyxy_px is not None]
    if whole := [row for row in located if row.finish_reason != "length"]:
        yield _share("reasoning", "answers reason but never write </think>", [_never_ends(row.text) for row in whole])
    if located:
        yield _share("boxes", "answers contain no box", [row.pred_xyxy_px is None for row in located])
    yield coordinates(answered, images)
    yield accuracy(answered, size)


def _never_ends(text: str) -> bool:
    """Whether an answer reasons before its box without closing the reasoning with </think>."""
    box = _BOX_BEGINS.search(text)
    before = text[: box.start()] if box else text
    return "</think>" not in text and ("<think>" in text or len(before.split()) > LONG_WORDS)


def _share(name: str, what: str, hits: Sequence[bool]) -> Finding:
    text = f"{sum(hits)} of {len(hits)} {what}"
    return Finding(name, text) if fmean(hits) < FEW else Finding(name, text, *ADVICE[name])


def coordinates(answered: Sequence[Prediction], images: Path | None = None) -> Finding:
    """Whether the answers, all together or those of one split, score far better in another box format."""
    rows = [row for row in answered if row.xyxy_px is not None]
    if len(rows) < MIN_ROWS:
        return Finding("coordinates", f"not checked: {len(rows)} answers have a true box, {MIN_ROWS} are needed")
    hits = hits_by_reading(rows, images)
    together = _coordinates(rows, hits)
    numbers: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        numbers.setdefault(row.split, []).append(number)
    if not together.is_fine or len(numbers) == 1:
        return together
    for split, members in numbers.items():
        if len(members) < MIN_ROWS:
            continue
        of_split = {name: hit[members] for name, hit in hits.items()}
        finding = _coordinates([rows[number] for number in members], of_split)
        if not finding.is_fine:
            return replace(finding, found=f"{split}: {finding.found}")
    return together


def _coordinates(rows: Sequence[Prediction], hits: Mapping[str, np.ndarray]) -> Finding:
    ours = fmean(row.iou > THRESHOLD_IOU for row in rows)
    scores = {name: float(hit.mean()) for name, hit in hits.items()}
    best = max(scores, key=scores.__getitem__)
    if scores[best] < ours + CLEARLY_BETTER:
        return Finding("coordinates", f"no other box format scores clearly better ({ours:.0%} right)")
    text = f"{scores[best]:.0%} of the answers are right if read as {best}, {ours:.0%} as they were read"
    if best == XYXY_1000 and fmean(row.pred_xyxy_px is None for row in rows) > 0.5:
        return Finding("coordinates", text, *UNREAD)
    return Finding("coordinates", text, ANOTHER, CHANGE.get(best, CONVERT))


def accuracy(answered: Sequence[Prediction], size: str | None) -> Finding:
    """Acc@0.5 of each split with its interval, next to the published numbers of the model size."""
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
    text = f"Acc@0.5 in % (95 % interval): {'; '.join(found)}"
    if not behind:
        return Finding("accuracy", text)
    points = f"more than {100 * CLEARLY_WORSE:.0f} points below the published numbers of this model size"
    means = f"The whole interval of {behind[0]} lies {points}."
    return Finding("accuracy", text, means, "Fix the findings above first, then look at wrong answers in report.html.")


def published(size: str | None, split: str) -> list[float]:
    """The paper's numbers of a split for models of a size, in percent. Empty if there are none."""
    names = list(splits())
    if split not in names:
        return []
    return [row[names.index(split)] for model, row in table().items() if size and f"-{size}" in model]
