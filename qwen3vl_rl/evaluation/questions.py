"""What is asked: the samples of evaluation jsonl files, each under a key of its own."""

import hashlib
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

from qwen3vl_rl.data.predictions import Question
from qwen3vl_rl.data.samples import check_images, read_samples
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
        samples = list(enumerate(read_samples(path, allow_no_referent=True)[:limit], start=1))
        if not samples:
            raise InputError(f"{path}: expected at least one sample, found none")
        check_images(((path, number, sample) for number, sample in samples), images)
        questions += [Question(f"{split}/{number:06d}", split, sample) for number, sample in samples]
    return questions


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
            if files.setdefault(file.stem, file) != file:
                raise InputError(f"{file}: expected one file per split, {files[file.stem]} has the same name")
    return files
