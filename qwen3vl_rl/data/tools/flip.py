"""Mirror samples: flip the image and the boxes, and swap left and right in the expression.

    python -m qwen3vl_rl.data.tools.flip --samples train.jsonl --images DIR --out train_flip.jsonl

The flipped copy of `coco/train2014/x.jpg` is `coco_flip/train2014/x.jpg` below the same DIR, as in the release.
Existing copies are kept, so rerunning the command resumes an interrupted run. Samples that cannot be mirrored safely
(mirror.py) are left out and counted.
"""

import argparse
import os
from collections import Counter
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import orjson
from PIL import ImageOps
from tqdm import tqdm

from qwen3vl_rl.data.boxes import BoxError, check_box_px
from qwen3vl_rl.data.files import replacing
from qwen3vl_rl.data.parquet import Located
from qwen3vl_rl.data.pictures import open_picture
from qwen3vl_rl.data.samples import ImageCheck, Sample, iter_samples, sample_row, undecodable
from qwen3vl_rl.data.tools.mirror import CannotMirrorError, mirror
from qwen3vl_rl.errors import InputError, cli, row_error
from qwen3vl_rl.grounding import Box

DECIMALS = 6  # of a px; avoids floating-point noise such as 103.92999999999995
# Pillow's encoding options for mirrored pictures, by format
SAVED = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "MPO": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True},
}


def flip_sample(path: Path, number: int, sample: Sample) -> Sample:
    """Mirror a sample. Raises CannotMirrorError, or InputError for an absolute image path."""
    modal = sample.modal_xyxy_px
    for box in filter(None, (sample.xyxy_px, modal)):
        _check_thinness(path, number, flip_box(box, sample.width), sample)
    return replace(
        sample,
        id=f"{sample.id}_flip",
        image=flip_path(path, number, sample.image),
        sent=mirror(sample.sent),
        xyxy_px=sample.xyxy_px and flip_box(sample.xyxy_px, sample.width),
        modal_xyxy_px=modal and flip_box(modal, sample.width),
    )


def flip_box(xyxy_px: Box, width: int) -> Box:
    """The box in the mirrored image. Flipping twice gives the same box, to a millionth of a px."""
    x1, y1, x2, y2 = xyxy_px
    return round(width - x2, DECIMALS), y1, round(width - x1, DECIMALS), y2


def _check_thinness(path: Path, number: int, flipped_px: Box, sample: Sample) -> None:
    """A very thin box at the left edge may lose its area at the right edge, where coordinates end at the last pixel."""
    try:
        check_box_px(path, number, "bbox", flipped_px, sample.width, sample.height)
    except BoxError:
        raise CannotMirrorError("the mirrored box is thinner than a pixel") from None


def flip_path(path: Path, number: int, image: str) -> str:
    """`coco/train2014/x.jpg` to `coco_flip/train2014/x.jpg`, and `x.jpg` to `_flip/x.jpg`."""
    if image.startswith("/"):
        raise row_error(path, number, "image", "a path relative to the image folder", image)
    first, rest = image.split("/", 1) if "/" in image else ("", image)
    return f"{first}_flip/{rest}"


def flip_file(paths: list[Path], images: Path, out: Path) -> tuple[int, Counter[str]]:
    """Write the mirrored samples of all files, and their images.

    Returns the number of samples written, and the numbers left out by reason. `out` is created after all images.
    """
    count, left_out = 0, Counter()
    originals: dict[str, Located] = {}
    with replacing(out) as part, part.open("wb") as file:
        for path in paths:
            samples = iter_samples(path, allow_no_referent=True)
            for number, sample in enumerate(tqdm(samples, desc=path.name, unit="row", disable=None), 1):
                try:
                    flipped = flip_sample(path, number, sample)
                except CannotMirrorError as reason:
                    left_out[str(reason)] += 1
                    continue
                originals.setdefault(sample.image, (path, number, sample))
                file.write(orjson.dumps(sample_row(flipped), option=orjson.OPT_APPEND_NEWLINE))
                count += 1
        if not count:
            raise InputError(f"{paths[0]}: expected a sample whose expression can be mirrored, found none")
        _flip_images(originals.values(), images)
    return count, left_out


def _flip_images(originals: Collection[Located], images: Path) -> None:
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding and encoding release the GIL
        done = pool.map(lambda original: _flip_image(*original, images), originals)
        for _ in tqdm(done, total=len(originals), desc="flip", unit="image", disable=None):
            pass


def _flip_image(path: Path, number: int, sample: Sample, images: Path) -> None:
    ImageCheck(images).check(path, number, sample)
    target = images / flip_path(path, number, sample.image)
    if target.exists():
        _check_copy(path, number, sample, target)
        return
    try:
        picture = open_picture(images / sample.image)
        with replacing(target) as part:
            ImageOps.mirror(picture).save(part, format=picture.format, **SAVED.get(picture.format, {}))
    except OSError as error:
        raise undecodable(path, number, sample.image, error) from None


def _check_copy(path: Path, number: int, sample: Sample, target: Path) -> None:
    """Check that an earlier run's copy is complete and has the picture's size; the picture may have been replaced."""
    try:
        size = open_picture(target).size
    except OSError as error:
        raise undecodable(path, number, str(target), error) from None
    if size != (sample.width, sample.height):
        expected = f"{sample.width}x{sample.height} px in the earlier mirrored copy {target} (remove it and rerun)"
        raise row_error(path, number, "image", expected, "{}x{}".format(*size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=Path, nargs="+", required=True, help="training or evaluation jsonl")
    parser.add_argument("--images", type=Path, required=True, help="the folder that image paths are relative to")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    count, left_out = flip_file(args.samples, args.images, args.out)
    print(f"{args.out}: {count:,} rows")
    for reason, number in left_out.most_common():
        print(f"left out {number:,}: {reason}")


if __name__ == "__main__":
    cli(main)
