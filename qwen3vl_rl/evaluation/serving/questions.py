"""The questions of an evaluation: samples of jsonl files, each with a unique key."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, replace
from itertools import groupby, islice
from pathlib import Path

from qwen3vl_rl.data.predictions import Question, question_key
from qwen3vl_rl.data.samples import Sample, check_images, iter_released_samples
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.evaluation.scoring.metrics import AVERAGE

JOINED = '", "'  # separates the sentences about an object; the prompt adds the outer quotation marks


def read_questions(
    data: Sequence[Path],
    images: Path,
    splits: Sequence[str] | None = None,
    limit: int | None = None,
    joined: bool = False,
) -> list[Question]:
    """All samples of the jsonl files in `data` (files or folders). A split has the name of its file.

    `joined`: samples of one object become one question with all their sentences, and `limit` counts objects.
    Raises InputError naming file, row and field for a bad row, and for an image that is missing, unreadable or of
    another size; also for a split that is unknown, repeated, named "average" or without any box.
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
        read = enumerate(iter_released_samples(path), start=1)
        samples = list(islice(_by_object(read) if joined else read, limit))
        if all(sample.xyxy_px is None for _, sample in samples):
            raise InputError(f"{path}: expected at least one sample with a box, found none among {len(samples)}")
        check_images(((path, number, sample) for number, sample in samples), images)
        questions += [Question(question_key(split, number), split, sample) for number, sample in samples]
    return questions


def _by_object(numbered: Iterable[tuple[int, Sample]]) -> Iterator[tuple[int, Sample]]:
    """Merge consecutive samples of one object into one."""
    for _, neighbours in groupby(numbered, key=_object):
        (number, first), *rest = neighbours
        yield number, replace(first, sent=JOINED.join([first.sent, *(sample.sent for _, sample in rest)]))


def _object(numbered: tuple[int, Sample]) -> tuple:
    """A key that consecutive samples of one object share. A row without a referent shares it with no other."""
    number, sample = numbered
    return sample.image, sample.xyxy_px, sample.modal_xyxy_px, None if sample.xyxy_px else number


def readable_folder(questions: Sequence[Question], images: Path) -> Path:
    """The folder that contains all images, links resolved. A server must be allowed to read it."""
    folders = {(images / image).resolve().parent for image in {question.sample.image for question in questions}}
    return Path(os.path.commonpath([images.resolve(), *folders]))


def describe_questions(questions: Sequence[Question]) -> dict[str, dict]:
    """Per split, the number of samples and a hash of their content."""
    digests: dict[str, list[bytes]] = {}
    for question in questions:
        digests.setdefault(question.split, []).append(repr((question.key, astuple(question.sample))).encode())
    return {
        split: {"count": len(parts), "sha256": hashlib.sha256(b"\n".join(parts)).hexdigest()}
        for split, parts in digests.items()
    }


def _split_files(data: Sequence[Path]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in data:
        found = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
        if not found:
            raise InputError(f"{path}: expected *.jsonl files in the folder, found none")
        for file in found:
            if file.stem == AVERAGE:  # results use this name for the average over splits
                raise InputError(f'{file}: expected another name for a split than "{AVERAGE}"')
            if files.setdefault(file.stem, file) != file:
                raise InputError(f"{file}: expected one file per split, {files[file.stem]} has the same name")
    return files
