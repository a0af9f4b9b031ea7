"""Describe a file: counts, box sizes, expression lengths, and a sheet of samples with their boxes drawn.

python -m qwen3vl_rl.data.tools.describe FILE… [--sheet sheet.png --images DIR]

For a file of reasoning traces, it prints their lengths and, if they have a style, the share of each style.
"""

import argparse
import random
import textwrap
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from qwen3vl_rl.data.entries import Entry, read_entries
from qwen3vl_rl.data.files import replacing
from qwen3vl_rl.data.jsonl import iter_lines, parse_line
from qwen3vl_rl.data.pictures import open_picture
from qwen3vl_rl.data.samples import ImageCheck, undecodable
from qwen3vl_rl.errors import InputError, cli, row_error

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# limits of COCO's object sizes, applied to the area of the box in px
SMALL_PX2, MEDIUM_PX2 = 32**2, 96**2
TILE_PX, CAPTION_PX, COLUMNS = 320, 54, 4
FONT_PX, CAPTION_CHARACTERS, CAPTION_LINES = 14, 42, 3


@dataclass
class Description:
    """Statistics of one file. `kept`: rows drawn uniformly from the whole file, with their 1-based numbers."""

    rows: int = 0
    no_referent: int = 0
    images: set[int] = field(default_factory=set)
    area_percent: array = field(default_factory=lambda: array("f"))  # of the image area
    area_px2: array = field(default_factory=lambda: array("f"))
    words: array = field(default_factory=lambda: array("f"))
    kept: list[tuple[int, Entry]] = field(default_factory=list)

    def add(self, entry: Entry) -> None:
        self.rows += 1
        self.images.add(hash(entry.image))
        self.words.append(len(entry.sent.split()))
        if entry.xyxy_1000 is None:
            self.no_referent += 1
            return
        x1, y1, x2, y2 = entry.xyxy_1000
        share = (x2 - x1) * (y2 - y1) / 1e6
        self.area_percent.append(100 * share)
        if entry.size:
            self.area_px2.append(share * entry.size[0] * entry.size[1])

    def lines(self) -> Iterator[str]:
        """The description as text."""
        yield f"{self.rows:,} rows, {len(self.images):,} images, {self.no_referent:,} rows without a referent"
        yield _quantile_head()
        yield _quantile_line("words", self.words)
        yield _quantile_line("box area, % of the image", self.area_percent)
        if self.area_px2:
            areas = np.asarray(self.area_px2)
            small, large = (areas < SMALL_PX2).mean(), (areas >= MEDIUM_PX2).mean()
            yield f"small {small:.1%}, medium {1 - small - large:.1%}, large {large:.1%} (COCO's sizes, of the box)"


def describe_file(path: Path, keep: int, seed: int = 0) -> Description:
    """Describe one file and draw `keep` of its rows. Raises InputError for the first bad row."""
    description, rng = Description(), random.Random(seed)
    for number, entry in tqdm(read_entries(path), desc=path.name, unit="row", disable=None):
        if isinstance(entry, InputError):
            raise entry
        description.add(entry)
        if len(description.kept) < keep:
            description.kept.append((number, entry))
        elif (place := rng.randrange(description.rows)) < keep:
            description.kept[place] = (number, entry)
    if not description.rows:
        raise InputError(f"{path}: expected at least one row, found none")
    return description


def are_traces(path: Path) -> bool:
    """Whether the first row of a file is a reasoning trace without its sample."""
    if path.suffix != ".jsonl":
        return False
    first = next((parse_line(path, number, line) for number, line in iter_lines(path)), {})
    return "reasoning" in first and not {"conversations", "sent", "image"} & first.keys()


def describe_traces(path: Path) -> Iterator[str]:
    """The description of a file of traces as text. Raises InputError for the first row without a trace."""
    words, styles = array("f"), Counter()
    for number, line in iter_lines(path):
        row = parse_line(path, number, line)
        if not isinstance(row.get("reasoning"), str):
            raise row_error(path, number, "reasoning", "a string", row.get("reasoning"))
        words.append(len(row["reasoning"].split()))
        styles[row.get("style")] += 1
    yield f"{len(words):,} reasoning traces"
    yield _quantile_head()
    yield _quantile_line("words", words)
    if styles.keys() != {None}:
        shares = (f"{style or 'no style'} {count / len(words):.1%}" for style, count in styles.most_common())
        yield f"styles: {', '.join(shares)}"


def draw_sheet(located: list[tuple[Path, int, Entry]], folder: Path) -> Image.Image:
    """Draw samples in a grid, with the box in green and the expression below. Raises InputError for a bad image."""
    rows = -(-len(located) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * TILE_PX, rows * (TILE_PX + CAPTION_PX)), "white")
    images = ImageCheck(folder)
    for place, (path, number, entry) in enumerate(located):
        images.check_image(path, number, entry.image, None)
        try:
            tile = _tile(folder / entry.image, entry)
        except OSError as error:
            raise undecodable(path, number, entry.image, error) from None
        row, column = divmod(place, COLUMNS)
        sheet.paste(tile, (column * TILE_PX, row * (TILE_PX + CAPTION_PX)))
    return sheet


def _tile(image_path: Path, entry: Entry) -> Image.Image:
    tile = Image.new("RGB", (TILE_PX, TILE_PX + CAPTION_PX), "white")
    image = open_picture(image_path)
    image = image.resize([max(1, round(side * (TILE_PX - 8) / max(image.size))) for side in image.size])
    draw = ImageDraw.Draw(image)
    if entry.xyxy_1000:
        draw.rectangle(
            [v * side / 1000 for v, side in zip(entry.xyxy_1000, image.size * 2, strict=True)], None, "lime", 3
        )
    tile.paste(image, (4, 4))
    caption = "\n".join(textwrap.wrap(entry.sent, CAPTION_CHARACTERS)[:CAPTION_LINES])
    font = ImageFont.load_default(FONT_PX)
    ImageDraw.Draw(tile).multiline_text((4, image.height + 6), caption, fill="black", font=font, spacing=2)
    return tile


def _quantile_head() -> str:
    return f"{'':26}" + "".join(f"{f'{q:.0%}':>8}" for q in QUANTILES) + f"{'mean':>8}"


def _quantile_line(name: str, values: array) -> str:
    if not values:
        return f"{name:<26}{'none':>8}"
    numbers = [*np.quantile(np.asarray(values), QUANTILES), np.mean(values)]
    return f"{name:<26}" + "".join(f"{number:>8.1f}" for number in numbers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--sheet", type=Path, help="PNG file to draw samples of every file to")
    parser.add_argument("--images", type=Path, help="the folder that relative image paths start from")
    parser.add_argument("--samples", type=int, default=12, help="number of samples to draw per file")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.sheet and not args.images:
        raise InputError("--sheet: expected together with --images DIR")
    located = []
    for path in args.files:
        if are_traces(path):
            print(f"{path}:", *describe_traces(path), sep="\n  ")
            continue
        description = describe_file(path, args.samples, args.seed)
        print(f"{path}:", *description.lines(), sep="\n  ")
        located += [(path, number, entry) for number, entry in description.kept]
    if args.sheet and not located:
        raise InputError(f"--sheet: expected a file of samples, found only traces in {', '.join(map(str, args.files))}")
    if args.sheet:
        sheet = draw_sheet(located, args.images)
        with replacing(args.sheet) as part:
            sheet.save(part, format="PNG")
        print(f"{args.sheet}: {len(located)} samples")


if __name__ == "__main__":
    cli(main)
