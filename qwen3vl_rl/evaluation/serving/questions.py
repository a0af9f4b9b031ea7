"""What is asked: the samples of evaluation jsonl files, each under a key of its own."""

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

JOINED = '", "'  # between the sentences of an object, which a prompt puts in quotation marks


def read_questions(
    data: Sequence[Path],
    images: Path,
    splits: Sequence[str] | None = None,
    limit: int | None = None,
    joined: bool = False,
) -> list[Question]:
    """All samples of the jsonl files in `data` (files or folders); a split is named by its file. `joined`: those of
    one object as one question, which names all their sentences; `limit` then counts objects.

    Raises InputError naming file, row and field for a bad row, and for an image that is missing, unreadable or of
    another size; also for an unknown or repeated split, one named "average", and one in which nothing has a box.
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
    """Neighbours of one image and box as one."""
    for _, neighbours in groupby(numbered, key=_object):
        (number, first), *rest = neighbours
        yield number, replace(first, sent=JOINED.join([first.sent, *(sample.sent for _, sample in rest)]))


def _object(numbered: tuple[int, Sample]) -> tuple:
    """The same for neighbours that name one object; a row without a referent stands by itself."""
    number, sample = numbered
    return sample.image, sample.xyxy_px, sample.modal_xyxy_px, None if sample.xyxy_px else number


def readable_folder(questions: Sequence[Question], images: Path) -> Path:
    """The folder below which all their images lie, links resolved: what a server must be allowed to read."""
    folders = {(images / image).resolve().parent for image in {question.sample.image for question in questions}}
    return Path(os.path.commonpath([images.resolve(), *folders]))


def describe_questions(questions: Sequence[Question]) -> dict[str, dict]:
    """Per split the number of samples and a hash of all that is asked about them."""
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
            if file.stem == AVERAGE:  # under which results hold the average over splits
                raise InputError(f'{file}: expected another name for a split than "{AVERAGE}"')
            if files.setdefault(file.stem, file) != file:
                raise InputError(f"{file}: expected one file per split, {files[file.stem]} has the same name")
    return files
