"""Check files for training or evaluation, in any of our formats, and count all problems.

    python -m qwen3vl_rl.data.tools.check FILE… [--images DIR] [--evaluation FILE…]

The checks cover every row's fields, unique ids, whether the boxes of a file look like another convention (xywh, 0..1,
0..1000 or px), and the known number of rows of a RefCOCO evaluation split.
With `--images`, every image is opened once: it must be complete and have the stated size. With `--evaluation`, FILE
must not contain an image of those files, mirrored or not. The exit code is 1 if there are problems.
"""

import argparse
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from qwen3vl_rl.data.boxes import BoxError
from qwen3vl_rl.data.entries import Entry, image_key, read_entries
from qwen3vl_rl.data.refcoco import EVAL_SPLITS, EXPRESSIONS
from qwen3vl_rl.data.samples import ImageCheck, TurnedError
from qwen3vl_rl.data.tools.conventions import Conventions
from qwen3vl_rl.errors import InputError, cli, row_error
from qwen3vl_rl.grounding import scale_to_px


@dataclass
class Findings:
    """Counts and problems of one file. All problems are counted, the first `shown` are kept."""

    shown: int
    rows: int = 0
    turned: int = 0  # problems where the size is the one before the EXIF orientation
    conventions: Conventions = field(default_factory=Conventions)
    repeats: int = 0  # rows with the image, expression and box of an earlier row; not a problem
    problems: int = 0
    first: list[InputError] = field(default_factory=list)

    def add(self, problem: InputError) -> None:
        self.problems += 1
        self.turned += isinstance(problem, TurnedError)
        if len(self.first) < self.shown:
            self.first.append(problem)


@dataclass(frozen=True)
class Expectations:
    """What to check a file against.

    `images`: None to open no images; `folder`: the folder that relative image paths start from; `held_out`: keys of
    images that must not be in the file.
    """

    images: ImageCheck | None
    folder: Path | None
    held_out: set[str]

    def holds_out(self, image: str) -> bool:
        """Whether an image is held out. Raises InputError if that needs `folder` and it is missing or wrong."""
        return bool(self.held_out) and image_key(image, self.folder) in self.held_out


def check_file(path: Path, expected: Expectations, shown: int) -> Findings:
    """Check every row and the file as a whole. Raises InputError if the file is not in one of our formats."""
    findings = check_rows(path, expected, shown)
    if other := findings.conventions.other():
        findings.add(InputError(f"{path}: {other}"))
    _check_count(path, findings)
    return findings


def check_rows(path: Path, expected: Expectations, shown: int) -> Findings:
    """Check every row, but not the file as a whole. Raises InputError if the file is not in one of our formats."""
    findings = Findings(shown)
    ids, seen = set(), set()  # hashes, because the strings would need more memory
    for number, entry in tqdm(read_entries(path), desc=path.name, unit="row", disable=None):
        findings.rows += 1
        if isinstance(entry, InputError):
            findings.add(entry)
            if isinstance(entry, BoxError) and entry.numbers:
                findings.conventions.add(entry.numbers, entry.size, entry.in_px)
            continue
        if entry.xyxy_1000:
            given = scale_to_px(entry.xyxy_1000, *entry.size) if entry.in_px else entry.xyxy_1000
            findings.conventions.add(given, entry.size, entry.in_px)
        if expected.holds_out(entry.image):
            findings.add(row_error(path, number, "image", "no image of the evaluation files", entry.image))
        if expected.images:
            _check_image(path, number, entry, expected.images, findings)
        if entry.id is not None and (key := hash(entry.id)) in ids:
            findings.add(row_error(path, number, "id", "an id that no earlier row has", entry.id))
        elif entry.id is not None:
            ids.add(key)
        content = hash((entry.image, entry.sent, entry.xyxy_1000))
        findings.repeats += content in seen
        seen.add(content)
    return findings


def image_keys(paths: Iterable[Path], folder: Path | None = None) -> set[str]:
    """The keys of all images in these files. Raises InputError for the first bad row."""
    keys = set()
    for path in paths:
        for _, entry in read_entries(path):
            if isinstance(entry, InputError):
                raise entry
            keys.add(image_key(entry.image, folder))
    return keys


def _check_image(path: Path, number: int, entry: Entry, images: ImageCheck, findings: Findings) -> None:
    try:
        images.check_image(path, number, entry.image, entry.size)
    except InputError as problem:
        findings.add(problem)


def _check_count(path: Path, findings: Findings) -> None:
    expected = EXPRESSIONS[path.stem] if path.stem in EVAL_SPLITS else None  # training files may be filtered
    if not findings.rows:
        findings.add(InputError(f"{path}: expected at least one row, found none"))
    elif expected not in (None, findings.rows):
        findings.add(InputError(f"{path}: expected the {expected:,} rows of {path.stem}, found {findings.rows:,}"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--images", type=Path, help="the folder that image paths are relative to")
    parser.add_argument(
        "--check-images", action=argparse.BooleanOptionalAction, default=True, help="with --images, open every image"
    )
    parser.add_argument("--evaluation", type=Path, nargs="+", default=[], help="files whose images must not be in FILE")
    parser.add_argument("--show", type=int, default=10, metavar="N", help="number of problems to print per file")
    args = parser.parse_args()
    images = ImageCheck(args.images) if args.images and args.check_images else None
    expected = Expectations(images, args.images, image_keys(args.evaluation, args.images))
    problems = 0
    for path in args.files:
        findings = check_file(path, expected, args.show)
        for problem in findings.first:
            print(problem)
        repeats = f", {findings.repeats:,} repeated" if findings.repeats else ""
        print(f"{path}: {findings.rows:,} rows{repeats}, {findings.problems:,} problems")
        problems += findings.problems
    if problems:
        raise SystemExit(1)


if __name__ == "__main__":
    cli(main)
