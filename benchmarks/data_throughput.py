"""Rows per second and peak memory of the data tools, and of `datasets.map` opening an image per row.

    python -m benchmarks.data_throughput --referit DIR --out benchmarks/results/data_throughput.json

DIR holds ReferItGame's json files (120,081 expressions). Every measurement runs three times, each in a new process. The
fastest counts, because other work on the machine can only slow a run down. The second that Python takes to start and
import is not counted.
"""

import argparse
import json
import os
import resource
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
from PIL import Image

from qwen3vl_rl.data.jsonl import write_jsonl
from qwen3vl_rl.data.layouts import referit
from qwen3vl_rl.data.parquet import user_turn
from qwen3vl_rl.data.rl_rows import write_rl_parquet
from qwen3vl_rl.data.samples import ImageCheck, Sample, iter_samples, parse_sample
from qwen3vl_rl.data.tools.check import Expectations, check_file
from qwen3vl_rl.data.tools.convert import write_splits
from qwen3vl_rl.data.tools.mirror import CannotMirrorError, mirror
from qwen3vl_rl.grounding import px_to_1000

ROUNDS = 3
SYNTHETIC_ROWS = (50_000, 500_000, 1_000_000)
ROWS_PER_IMAGE = 7  # RefCOCO: 142,210 expressions for 19,994 images
IMAGES = 3000
WIDTH, HEIGHT = 640, 480
IMAGE_FOLDER = "coco/train2014"


def measure(work: Callable[..., int], *arguments: Path) -> dict[str, float]:
    """Rows per second of wall time and of CPU time, and peak memory in MiB. `work` returns its number of rows."""
    rounds = []
    for _ in range(ROUNDS):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            rounds.append(pool.submit(_measured, work, arguments).result())
    rows, wall_s, cpu_s, peak_mib = min(rounds, key=lambda found: found[1])
    return {
        "rows": rows,
        "rows_per_s": round(rows / wall_s),
        "rows_per_cpu_s": round(rows / cpu_s),
        "peak_mib": round(peak_mib),
    }


def _measured(work: Callable[..., int], arguments: tuple[Path, ...]) -> tuple[int, float, float, float]:
    pa.array([""])  # imports pandas, which is not to be timed
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    rows = work(*arguments)
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    return rows, wall_s, cpu_s, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def convert_referit(folder: Path, out: Path) -> int:
    return write_splits(out, referit.records(argparse.Namespace(folder=folder), None)).total()


def to_rl_parquet(out: Path, images: Path, *samples: Path) -> int:
    return write_rl_parquet(out, (sample for path in samples for sample in iter_samples(path)), "train", images)


def to_rl_parquet_with_images(out: Path, images: Path, samples: Path) -> int:
    check = ImageCheck(images)

    def checked() -> Iterator[Sample]:
        for number, sample in enumerate(iter_samples(samples), start=1):
            check.check(samples, number, sample)
            yield sample

    return write_rl_parquet(out, checked(), "train", images)


def to_rl_parquet_with_datasets(out: Path, images: Path, samples: Path) -> int:
    """The usual preparation script: `load_dataset`, `map` with an `Image.open` per row, `to_parquet`."""
    import datasets

    def row(raw: dict, index: int) -> dict:
        sample = parse_sample(samples, index + 1, raw)
        path = str(images / sample.image)
        with Image.open(path) as image:
            width, height = image.size
        turn = user_turn(sample)
        return {
            "data_source": "grounding",
            "prompt": [turn],
            "images": [path],
            "ability": "grounding",
            "reward_model": {"style": "rule", "ground_truth": list(px_to_1000(sample.xyxy_px, width, height))},
            "extra_info": {
                "split": "train",
                "index": index,
                "id": sample.id,
                "height": height,
                "width": width,
                "question": turn["content"],
            },
        }

    datasets.disable_progress_bars()
    raw = datasets.load_dataset("json", data_files=str(samples), cache_dir=str(out.parent / f"cache{os.getpid()}"))
    built = raw["train"].map(row, with_indices=True, remove_columns=raw["train"].column_names)
    built.to_parquet(str(out))
    return len(built)


def check(samples: Path) -> int:
    return check_file(samples, Expectations(None, None, set()), shown=10).rows


def mirror_expressions(samples: Path) -> int:
    count = 0
    for sample in iter_samples(samples):
        count += 1
        try:
            mirror(sample.sent)
        except CannotMirrorError:
            continue
    return count


def write_synthetic(path: Path, rows: int, images: int) -> Path:
    """Write evaluation rows like RefCOCO's over `images` images, with `ROWS_PER_IMAGE` rows each."""
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 300, (rows, 2)).tolist()

    def row(index: int) -> dict:
        x, y = corners[index]
        return {
            "id": f"synthetic_{index}",
            "image": f"{IMAGE_FOLDER}/COCO_train2014_{index // ROWS_PER_IMAGE % images:012d}.jpg",
            "width": WIDTH,
            "height": HEIGHT,
            "sent": f"the person number {index % 977} on the left of the table",
            "bbox": [x + 0.25, y + 0.5, x + 120.75, y + 150.25],
        }

    write_jsonl(path, map(row, range(rows)))
    return path


def write_images(folder: Path) -> None:
    """Write JPEG files with COCO's dimensions and about its file size."""
    rng = np.random.default_rng(0)
    (folder / IMAGE_FOLDER).mkdir(parents=True)
    for number in range(IMAGES):
        blocks = rng.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
        image = Image.fromarray(blocks).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        image.save(folder / IMAGE_FOLDER / f"COCO_train2014_{number:012d}.jpg", quality=90)


def run_all(referit_folder: Path, folder: Path) -> dict[str, dict]:
    """All measurements by name. Files are written to `folder`."""
    out = folder / "rl.parquet"
    results = {"referitgame to samples": measure(convert_referit, referit_folder, folder)}
    splits = sorted(folder.rglob("referit_*.jsonl"))
    results["referitgame to RL parquet, no image opened"] = measure(to_rl_parquet, out, folder, *splits)
    for rows in SYNTHETIC_ROWS:
        samples = write_synthetic(folder / "synthetic.jsonl", rows, images=20_000)
        results[f"{rows:,} synthetic rows to RL parquet, no image opened"] = measure(
            to_rl_parquet, out, folder, samples
        )
        if rows == 500_000:
            results[f"{rows:,} synthetic rows checked, no image opened"] = measure(check, samples)
    results["referitgame test expressions mirrored"] = measure(mirror_expressions, folder / "eval/referit_test.jsonl")
    write_images(folder)
    samples = write_synthetic(folder / "pictured.jsonl", IMAGES * ROWS_PER_IMAGE, IMAGES)
    for name, work in (
        ("with every image's header read once", to_rl_parquet_with_images),
        ("with datasets.map and PIL.Image.open per row", to_rl_parquet_with_datasets),
        ("no image opened", to_rl_parquet),
    ):
        results[f"{IMAGES * ROWS_PER_IMAGE:,} rows on {IMAGES:,} images, {name}"] = measure(work, out, folder, samples)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--referit", type=Path, required=True, help="the folder of ReferItGame's json files")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        results = run_all(args.referit, Path(folder))
    headers, mapped = (
        next(found["rows_per_s"] for name, found in results.items() if part in name)
        for part in ("header read once", "datasets.map")
    )
    report = {"results": results, "header check against datasets.map": round(headers / mapped, 1)}
    print(json.dumps(report, indent=2))
    if args.out:
        # Imported here because it imports torch, whose memory would count in every measurement.
        from benchmarks.common import write_result

        write_result(args.out, "benchmarks.data_throughput", report)


if __name__ == "__main__":
    main()
