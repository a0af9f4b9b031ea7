"""How fast stage 1 trains: our recipe against the trainer of the release, on Qwen3-VL shapes with random weights.

    python -m benchmarks.sft_throughput --size 2b --out FILE                                # trainer and egm
    python -m benchmarks.sft_throughput --size 2b --group egm egm:no-compile --out FILE     # the effect of one change
    python -m benchmarks.sft_throughput --size 8b --bf16-state --group trainer --group egm --out FILE

A configuration is one of

- `egm`, the recipe of `sft/config` on one GPU, as `sft.train` runs it. `egm:CHANGE` applies a change of `CHANGES`, and
  `egm:CHANGE+CHANGE` several;
- `trainer`, transformers' Trainer on flattened batches with flash-attn 2, which the release used. Without that package
  the same kernels come from `torch.nn.attention.varlen`, called as often as transformers would call the package;
- `trainer:padded`, the same with padded batches and scaled-dot-product attention;
- `trainer:no-checkpointing`, the same without gradient checkpointing, like `egm` at 2B and 4B.

All of them hold weights and AdamW state in 32 bits (`--bf16-state`: in 16, without which 8B does not fit one GPU),
compute in bfloat16, freeze the vision encoder, and update on one GPU's share of the recipe's batch: 16 samples (the
trainer accumulates 2 x 8 for 4B and 8B). Batches are collated beforehand, so that loading images is not timed. The
configurations of a `--group` stay in memory together and take turns; ratios are to the first of the group, round by
round. Groups run one after the other.

`device_s` is the time in an update during which kernels run; if it is less than `step_s`, the host is the limit.
MFU counts the operations that the task needs, the same for all configurations: no recomputation, logits of answers
alone, and only a forward pass of the frozen encoder. It is a share of `--device-tflops`; the default is the dense
bfloat16 peak of an H200.
"""

import argparse
import gc
import os
import random
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from importlib import import_module
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import transformers
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from benchmarks.common import SIZES, random_checkpoint, shapes_traces, write_result
from benchmarks.hf_trainer import Trainer, flash_implementation, synchronize
from benchmarks.spread import spread
from qwen3vl_rl.data.parquet import write_rows
from qwen3vl_rl.models.checkpoint_files import read_config
from qwen3vl_rl.models.families import read_shape
from qwen3vl_rl.models.shapes import Shape
from qwen3vl_rl.training import cpu
from qwen3vl_rl.training.launch import external_modules
from qwen3vl_rl.training.recipe import verl_config
from sft.build_dataset import SFT_SCHEMA, sft_row

ROOT = Path(__file__).parents[1]
H200_TFLOPS = 989.5  # dense bfloat16, from NVIDIA's H200 data sheet
SAMPLES_PER_UPDATE = 16  # of one GPU: the recipe's 128 over 8 GPUs
MICRO_BATCH = {"tiny": 16, "internvl_tiny": 16, "2b": 16}  # samples at once in the released recipe; 8 at other sizes
IMAGE_SIZES_PX = [(640, 480), (480, 640), (640, 427), (500, 375), (427, 640), (640, 640)]  # common in COCO
FUSED_LOGITS = ["model.use_fused_kernels=true", "engine.response_logits_only=false"]  # verl's, which compute all tokens
CHANGES = {
    "no-compile": ["engine.compile_blocks=false"],
    "all-logits": ["engine.response_logits_only=false"],
    "checkpointing": ["model.enable_gradient_checkpointing=true"],
    "no-checkpointing": ["model.enable_gradient_checkpointing=false"],
    "foreach-adamw": ["optim.override_optimizer_config.fused=false"],
    "sharded": ["engine.no_shard=false", "engine.skip_dp_sync=false"],  # like several GPUs
    "no-reshard": ["engine.reshard_after_forward=false"],  # parameters are gathered once for forward and backward
    "one-unit": ["engine.wrap_policy.transformer_layer_cls_to_wrap=[Qwen3VLVisionModel]"],  # all layers at once
    "by-layer": [
        "engine.wrap_policy.transformer_layer_cls_to_wrap=[Qwen3VLTextDecoderLayer]",
        "engine.reshard_after_forward=true",
    ],
    "vision-by-block": [
        "engine.wrap_policy.transformer_layer_cls_to_wrap=[Qwen3VLTextDecoderLayer,Qwen3VLVisionBlock]"
    ],
    # verl applies the next three to all models of the process. Put each in its own group, after the groups without it.
    # `liger` needs `pip install liger-kernel`, `no-compile`, and its own command. Combine the other two with `sharded`,
    # which passes them 16-bit values; without shards they would compute in 32 bits.
    "liger": ["model.use_liger=true"],
    "triton-logits": [*FUSED_LOGITS, "model.fused_kernel_options.impl_backend=triton"],
    "chunked-logits": [*FUSED_LOGITS, "model.fused_kernel_options.impl_backend=torch"],
    "padded": ["model.use_remove_padding=false", "engine.response_logits_only=false"],
}


# --- model and data -------------------------------------------------------------------------------------------------


def build_parquet(folder: Path, samples: int, answer_tokens: int, tokenizer) -> Path:
    """RefShapes with images of COCO's sizes. The reasoning is repeated until an answer has about `answer_tokens`."""
    rng, rows, path = random.Random(0), [], folder / "sft.parquet"
    for sample, reasoning in shapes_traces(folder / "sft_images", samples, IMAGE_SIZES_PX):
        sentences = max(1, round(rng.gauss(1, 0.2) * answer_tokens / len(tokenizer.encode(reasoning))))
        rows.append(sft_row(sample, " ".join([reasoning] * sentences), folder / "sft_images"))
    write_rows(path, rows, SFT_SCHEMA)
    return path


def recipe(size: str, device: str, checkpoint: Path, parquet: Path, overrides: list[str]) -> DictConfig:
    hardware = "gpu1" if device == "cuda" else "cpu"
    choice = [f"size={size}", f"hardware={hardware}", f"model.path={checkpoint}", f"data.train_files={parquet}"]
    choice.append(f"hydra.searchpath=[file://{verl_config()}]")
    with initialize_config_dir(str(ROOT / "sft" / "config"), version_base=None):
        return compose("sft", [*choice, "optim.total_training_steps=1000", *overrides])


def needed_tflop(shape: Shape, batch: list[dict], image_token_id: int) -> float:
    """Floating-point operations, in 10^12, that one update on `batch` needs: three forward passes of what trains."""
    total = 0.0
    for sample in batch:
        seen = int((sample["input_ids"] == image_token_id).sum())
        total += 3 * shape.language_flops(len(sample["input_ids"]), logits=int(sample["loss_mask"].sum()))
        total += shape.vision.flops(seen) + 2 * shape.vision.merger_flops(seen)
    return total / 1e12


# --- configurations: `run(steps)` makes one update, then times `steps`; returns seconds and the first loss ------------


class Egm:
    """verl's training worker with our engine, called in the way of verl's SFT trainer."""

    def __init__(self, config: DictConfig, batches: list[list[dict]]):
        from verl.utils import tensordict_utils
        from verl.utils.config import omega_conf_to_dataclass
        from verl.utils.dataset.dataset_utils import SFTTensorCollator
        from verl.workers.engine_workers import TrainingWorker, TrainingWorkerConfig
        from verl.workers.utils.losses import sft_loss

        worker = TrainingWorkerConfig(
            model_type="language_model",
            model_config=omega_conf_to_dataclass(config.model),
            engine_config=omega_conf_to_dataclass(config.engine),
            optimizer_config=omega_conf_to_dataclass(config.optim),
            checkpoint_config=omega_conf_to_dataclass(config.checkpoint),
            profiler_config=omega_conf_to_dataclass(config.profiler),
        )
        self.worker = TrainingWorker(config=worker)
        self.worker.set_loss_fn(partial(sft_loss, config=None))
        self.worker.reset()
        self.tensordict = tensordict_utils
        self.batches = [SFTTensorCollator(config.data.pad_mode)(batch) for batch in batches]
        self.settings = {
            "use_remove_padding": config.model.use_remove_padding,
            "use_dynamic_bsz": config.data.use_dynamic_bsz,
            "max_token_len_per_gpu": config.data.max_token_len_per_gpu,
            "micro_batch_size_per_gpu": config.data.micro_batch_size_per_gpu,
            "temperature": 1.0,
            "global_batch_size": len(batches[0]),
            "pad_mode": config.data.pad_mode,
            "pad_token_id": worker.model_config.tokenizer.pad_token_id,
        }

    def run(self, steps: int) -> tuple[float, float]:
        first_loss, batches = self.step(self.batches[0]), cycle([*self.batches[1:], self.batches[0]])
        return seconds_of(lambda: self.step(next(batches)), steps), first_loss

    def step(self, batch: dict) -> float:
        from tensordict.tensorclass import NonTensorData

        data = self.tensordict.get_tensordict(tensor_dict=dict(batch), non_tensor_dict=self.settings)
        lengths = NonTensorData(data["input_ids"].offsets().diff().tolist())
        self.tensordict.assign_non_tensor(data, update_lr_scheduler=True, global_token_num=lengths)
        return self.tensordict.get(self.worker.train_batch(data=data), "metrics")["loss"]


# --- measuring ------------------------------------------------------------------------------------------------------


def seconds_of(step: Callable[[], object], steps: int) -> float:
    """Seconds of `steps` calls, until the device has finished them."""
    synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    synchronize()
    return time.perf_counter() - start


def allocated_gib() -> float:
    return torch.cuda.memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0


class Measurement:
    """One configuration: built, warmed up, then run round by round. An error stops it and is recorded."""

    def __init__(self, name: str, build: Callable[[], Egm | Trainer]):
        self.name, self.error, self.step_s, self.peak_gib, self.device_s = name, None, [], 0.0, None
        before, start = allocated_gib(), time.perf_counter()
        self.attempt(lambda: self.warm_up(build))
        self.own_gib = allocated_gib() - before
        self.setup_s = time.perf_counter() - start
        state = self.error or f"step {self.warm_s:.3f} s, first loss {self.first_loss:.4f}"
        print(f"{name}: set up in {self.setup_s:.0f} s: {state}", flush=True)

    def warm_up(self, build) -> None:
        self.runner = build()
        _, self.first_loss = self.runner.run(0)
        self.runner.run(3)
        self.warm_s = self.runner.run(3)[0] / 3

    def round(self, seconds: float) -> None:
        """Time updates for about `seconds`."""
        steps = max(2, int(seconds / self.warm_s))
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        before = allocated_gib()
        self.step_s.append(self.runner.run(steps)[0] / steps)
        if torch.cuda.is_available():
            self.peak_gib = max(self.peak_gib, torch.cuda.max_memory_allocated() / 2**30 - before + self.own_gib)

    def profile(self) -> None:
        """Measure the seconds of an update in which the GPU computes; for the rest of it the GPU waits for the host."""
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
            self.runner.run(2)
        kernels_us = sum(event.self_device_time_total for event in profiler.key_averages())
        self.device_s = kernels_us / 3 / 1e6  # of three updates: `run` makes one before the two that it times

    def attempt(self, work: Callable[[], None]) -> None:
        if self.error is None:
            try:
                work()
            except Exception as error:
                traceback.print_exc()
                self.error = f"{type(error).__name__}: {error}"[:500]

    def times(self, first: "Measurement") -> dict:
        """What was measured, and the speed relative to the first of the group."""
        found = {"name": self.name, "setup_s": round(self.setup_s, 1)} | ({"error": self.error} if self.error else {})
        if not self.step_s:
            return found
        step_s = statistics.median(self.step_s)
        found |= {
            "step_s": {"median": round(step_s, 5), "rounds": [round(s, 5) for s in self.step_s]},
            "device_s": self.device_s and round(self.device_s, 5),
            "peak_memory_gib": round(self.peak_gib, 1),
        }
        if first is not self and first.step_s:
            ratios = [one / own for one, own in zip(first.step_s, self.step_s, strict=True)]
            found["speed_relative_to_" + first.name] = {name: round(ratio, 3) for name, ratio in spread(ratios).items()}
        return found

    def result(self, per_update: dict[str, float], tflops: float, first: "Measurement") -> dict:
        found = self.times(first)
        if not self.step_s:
            return found
        step_s = statistics.median(self.step_s)
        return found | {
            "first_loss": round(self.first_loss, 5),
            "samples_per_s": round(SAMPLES_PER_UPDATE / step_s, 2),
            "tokens_per_s": round(per_update["tokens"] / step_s, 1),
            "mfu": round(per_update["tflop"] / step_s / tflops, 4),
        }


def measure_group(names: list[str], build, rounds: int, seconds: float) -> list[Measurement]:
    group = [Measurement(name, partial(build, name)) for name in names]
    for _ in range(rounds):
        for measurement in group:
            measurement.attempt(partial(measurement.round, seconds))
    for measurement in group:
        if torch.cuda.is_available() and not measurement.error:
            measurement.attempt(measurement.profile)
        with suppress(AttributeError):
            del measurement.runner
    gc.collect()
    torch.cuda.empty_cache()
    return group


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, required=True)
    parser.add_argument("--group", nargs="+", action="append", metavar="NAME", help="default: trainer egm")
    parser.add_argument("--answer-tokens", type=int, default=110, help="approximate length of the reasoning")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="duration of one round of one configuration")
    parser.add_argument("--bf16-state", action="store_true", help="weights and AdamW state in bfloat16")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides for every `egm`")
    parser.add_argument("--device-tflops", type=float, default=H200_TFLOPS)
    parser.add_argument("--work", type=Path, help="keep the checkpoint and data here, and reuse them")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def main() -> None:
    args = parse()
    groups = args.group or [["trainer", "egm"]]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        cpu.activate()
    os.environ[cpu.EXTERNAL_MODULES] = external_modules()  # verl loads our engine, as in a run
    with TemporaryDirectory() as folder:
        work = args.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        for result in measure(args, groups, device, work):
            write_result(args.out, "benchmarks.sft_throughput", result)  # after each group, as a run may be cut short
        report(result)


def measure(args: argparse.Namespace, groups: list[list[str]], device: str, work: Path) -> Iterator[dict]:
    """Yield after each group what was measured so far."""
    start = time.perf_counter()
    model = random_checkpoint(args.size, work, device)
    processor = transformers.AutoProcessor.from_pretrained(model)
    parquet = build_parquet(work, 4 * SAMPLES_PER_UPDATE, args.answer_tokens, processor.tokenizer)
    overrides = [*args.set, *(["engine.model_dtype=bf16"] if args.bf16_state else [])]
    compose_recipe = partial(recipe, args.size, device, model, parquet)
    config = compose_recipe(overrides)
    batches = read_batches(config, processor)
    print(f"checkpoint and data: {time.perf_counter() - start:.0f} s", flush=True)

    def build(name: str) -> Egm | Trainer:
        kind, _, change = name.partition(":")
        if kind == "trainer":
            os.environ.pop("LOCAL_RANK", None)  # with it, the trainer would wrap its model for several GPUs
            return Trainer(config, batches, change, MICRO_BATCH.get(args.size, 8), args.bf16_state, device)
        # Port 0 is any free port; no other process connects to it.
        os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
        changes = [override for word in filter(None, change.split("+")) for override in CHANGES[word]]
        changed = compose_recipe([*overrides, *changes])
        return Egm(changed, batches)

    shape, image_token_id = read_shape(model), read_config(model)["image_token_id"]
    per_update = {
        "tokens": statistics.mean(sum(len(s["input_ids"]) for s in batch) for batch in batches),
        "loss_tokens": statistics.mean(sum(int(s["loss_mask"].sum()) for s in batch) for batch in batches),
        "tflop": statistics.mean(needed_tflop(shape, batch, image_token_id) for batch in batches),
    }
    # Imported before the first `Egm`: verl keeps the exceptions of failed imports, whose frames would otherwise hold a
    # reference to that model, and with it the GPU's memory.
    import_module("verl.workers.engine_workers")
    results: list[list[dict]] = []
    for names in groups:
        group = measure_group(names, build, args.rounds, args.seconds)
        results.append([m.result(per_update, args.device_tflops, group[0]) for m in group])
        yield {
            "size": args.size,
            "per_update": {"samples": SAMPLES_PER_UPDATE, **per_update},
            "state": "bfloat16" if args.bf16_state else "float32",
            "device_tflops": args.device_tflops,
            "trainer_attention": "flash-attn 2" if flash_implementation() != "sdpa" else "torch.nn.attention.varlen",
            "groups": results,
            "seconds": round(time.perf_counter() - start, 1),
        }


def read_batches(config: DictConfig, processor) -> list[list[dict]]:
    from sft.dataset import ThinkingSFTDataset

    processor.config = transformers.AutoConfig.from_pretrained(config.model.path)  # as verl does
    rows = ThinkingSFTDataset(config.data.train_files, processor.tokenizer, config.data, processor)
    samples = [rows[i] for i in range(len(rows))]
    return [samples[i : i + SAMPLES_PER_UPDATE] for i in range(0, len(samples), SAMPLES_PER_UPDATE)]


def report(result: dict) -> None:
    print(f"{result['size']}, {result['per_update']['tokens']:.0f} tokens per update, "
          f"{result['seconds']:.0f} s in total")  # fmt: skip
    for row in (row for group in result["groups"] for row in group):
        if "samples_per_s" not in row:
            print(f"  {row['name']:<22} {row['error']}")
            continue
        ratio = "".join(
            f"  {s['median']:.2f} [{s['min']:.2f}, {s['max']:.2f}] of {key.removeprefix('speed_relative_to_')}"
            for key, s in row.items()
            if key.startswith("speed")
        )
        speed = f"{row['samples_per_s']:8.1f} samples/s {row['tokens_per_s']:9.0f} tokens/s  MFU {row['mfu']:6.1%}"
        device = f"GPU {row['device_s'] or 0:.3f} of {row['step_s']['median']:.3f} s, {row['peak_memory_gib']:5.1f} GiB"
        print(f"  {row['name']:<22} {speed}  {device}{ratio}")


if __name__ == "__main__":
    main()
