"""Filter the samples of a jsonl file by difficulty for a model, or remove those with held-out images.

    python -m qwen3vl_rl.data.tools.filter --samples train.jsonl --out hard.jsonl --iou 0:0.5 --column iou_4b
    python -m qwen3vl_rl.data.tools.filter --samples train.jsonl --out mid.jsonl --pass-rate 0.1:0.9 \\
        --predictions run1/predictions.jsonl run2/predictions.jsonl
    python -m qwen3vl_rl.data.tools.filter --samples train.jsonl --out clean.jsonl --without-images-of eval/*.jsonl
    python -m qwen3vl_rl.data.tools.filter --samples train.jsonl --out rl.jsonl --column iou_8b --strong-column iou_241b

Difficulty is computed from the evaluation's predictions on the same file (several prediction files give several answers
per sample), or from a column of IoUs in the rows, as in the released raw training file. `--iou LOW:HIGH` bounds the
mean IoU, `--pass-rate LOW:HIGH` the share of answers with IoU > 0.5; both bounds are inclusive. Samples without an
answer are left out and counted. Kept lines stay byte-identical. `--strong-column` selects rows as the release does for
RL: all rows that the model of `--column` gets wrong and a strong model gets right, and as many easier ones
(`tools/selection.py`).
"""

import argparse
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from math import nan
from pathlib import Path
from statistics import fmean
from typing import Any

from tqdm import tqdm

from qwen3vl_rl.data.boxes import is_number
from qwen3vl_rl.data.entries import image_key
from qwen3vl_rl.data.files import replacing
from qwen3vl_rl.data.jsonl import iter_lines, parse_line
from qwen3vl_rl.data.predictions import THRESHOLD_IOU, declined, read_predictions
from qwen3vl_rl.data.samples import Sample, parse_sample
from qwen3vl_rl.data.tools.check import image_keys
from qwen3vl_rl.data.tools.selection import select_released
from qwen3vl_rl.errors import InputError, cli, row_error

Answer = tuple[str, str, float]  # image, expression, IoU of a prediction; its text would need too much memory
Answers = Mapping[int, Sequence[Answer]]  # by 1-based row of the sample file


def answers_of(samples: Path, predictions: Sequence[Path]) -> Answers:
    """The answers to each row of a sample file. Failed requests are skipped, because they say nothing about a sample.

    Raises InputError for a malformed prediction, and if no prediction belongs to this file.
    """
    answers: dict[int, list[Answer]] = defaultdict(list)
    for path in predictions:
        for prediction in read_predictions(path):
            split, _, row = str(prediction.key).partition("/")
            if not row.isdecimal():
                raise InputError(f'{path}: field "key": expected SPLIT/ROW, got {prediction.key!r}')
            if split == samples.stem and prediction.error is None:
                iou = float(declined(prediction)) if prediction.xyxy_px is None else prediction.iou
                if not is_number(iou):
                    raise InputError(f'{path}: {prediction.key}: field "iou": expected a number, got {iou!r}')
                answers[int(row)].append((prediction.image, prediction.sent, iou))
    if not answers:
        raise InputError(f"{predictions[0]}: expected answers for {samples.stem}, found none")
    return answers


def filter_file(samples: Path, out: Path, keep: Callable[[int, dict[str, Any], Sample], str | None]) -> Counter[str]:
    """Copy the rows for which `keep` returns None; otherwise it returns the reason for leaving the row out.

    Returns the number of rows by reason, and of `kept` rows. Raises InputError for a bad row, and if no row is kept.
    """
    counts: Counter[str] = Counter()
    with replacing(out) as part, part.open("wb") as file:
        for number, line in tqdm(iter_lines(samples), desc=samples.name, unit="row", disable=None):
            row = parse_line(samples, number, line)
            reason = keep(number, row, parse_sample(samples, number, row, allow_no_referent=True))
            counts[reason or "kept"] += 1
            if reason is None:
                file.write(line if line.endswith(b"\n") else line + b"\n")
        if not counts["kept"]:
            reasons = "".join(f"; left out {count:,}: {why}" for why, count in counts.most_common() if count)
            raise InputError(f"{samples}: expected at least one row to keep, found none{reasons}")
    return counts


def difficulty(ious: Sequence[float], measure: str) -> float:
    """The mean IoU for measure `iou`; the share of answers that are correct by Acc@0.5 for `pass_rate`."""
    return fmean(ious) if measure == "iou" else fmean(iou > THRESHOLD_IOU for iou in ious)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--predictions", type=Path, nargs="+", help="predictions.jsonl of evaluations on --samples")
    source.add_argument("--column", help="field of the samples that contains an IoU")
    parser.add_argument("--strong-column", metavar="COLUMN", help="a strong model's IoU; selects as the release does")
    band = parser.add_mutually_exclusive_group()
    band.add_argument("--iou", metavar="LOW:HIGH")
    band.add_argument("--pass-rate", metavar="LOW:HIGH")
    parser.add_argument("--without-images-of", type=Path, nargs="+", default=[], metavar="FILE")
    parser.add_argument("--images", type=Path, help="the folder that contains the images, needed for absolute paths")
    args = parser.parse_args()
    if args.strong_column and not (args.column and not args.iou and not args.pass_rate):
        raise InputError("--strong-column: expected together with --column, without --iou and --pass-rate")
    measures_difficulty = bool(args.predictions or (args.column and not args.strong_column))
    if measures_difficulty != bool(args.iou or args.pass_rate):
        raise InputError("expected --iou or --pass-rate together with --predictions or --column")
    if not (measures_difficulty or args.strong_column or args.without_images_of):
        raise InputError("expected --iou, --pass-rate, --strong-column or --without-images-of")
    counts = filter_file(args.samples, args.out, _reason_against(args))
    print(f"{args.out}: {counts.pop('kept'):,} rows")
    for reason, count in counts.most_common():
        print(f"left out {count:,}: {reason}")


def _reason_against(args: argparse.Namespace) -> Callable[[int, dict[str, Any], Sample], str | None]:
    answers = answers_of(args.samples, args.predictions) if args.predictions else {}
    held_out = image_keys(args.without_images_of, args.images)
    measure, text = ("iou", args.iou) if args.iou else ("pass_rate", args.pass_rate)
    band = _parse_band(text) if text else None
    selected = _select(args.samples, args.column, args.strong_column) if args.strong_column else None

    def reason(number: int, row: dict[str, Any], sample: Sample) -> str | None:
        if held_out and image_key(sample.image, args.images) in held_out:
            return "its image is held out"
        if selected is not None:
            return None if number - 1 in selected else "not selected"
        if band is None:
            return None
        if args.predictions:
            ious = [_iou(args.samples, number, sample, answer) for answer in answers.get(number, ())]
        else:
            ious = _column(args.samples, number, row, args.column)
        if not ious:
            return "no answer"
        low, high = band
        value = difficulty(ious, measure)
        return "too hard" if value < low else "too easy" if value > high else None

    return reason


def _select(path: Path, own: str, strong: str) -> set[int]:
    ious: list[tuple[float, float]] = []
    for number, line in iter_lines(path):
        row = parse_line(path, number, line)
        ious.append(tuple(next(iter(_column(path, number, row, name)), nan) for name in (own, strong)))
    return select_released(*zip(*ious, strict=True)) if ious else set()


def _iou(path: Path, number: int, sample: Sample, answer: Answer) -> float:
    image, sent, iou = answer
    if (image, sent) != (sample.image, sample.sent):
        expected = f"the sample that the predictions answer, {(image, sent)}"
        raise row_error(path, number, "image, sent", expected, (sample.image, sample.sent))
    return iou


def _column(path: Path, number: int, row: dict[str, Any], name: str) -> tuple[float, ...]:
    value = row.get(name)
    if value is None:
        return ()
    if not is_number(value) or not 0 <= value <= 1:
        raise row_error(path, number, name, "an IoU in 0..1", value)
    return (value,)


def _parse_band(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        low = high = -1.0
    if not 0 <= low <= high <= 1:
        raise InputError(f"--iou, --pass-rate: expected LOW:HIGH within 0..1, got {text!r}")
    return low, high


if __name__ == "__main__":
    cli(main)
