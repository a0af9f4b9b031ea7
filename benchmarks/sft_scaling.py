"""How stage 1 scales over the GPUs of one host: the same updates on 1, 2, … GPUs, through the trainer that users run.

    python -m benchmarks.sft_scaling --size 2b --gpus 1 2 --out FILE

Every run trains the recipe of `sft/config` on the same batches of `--samples` samples, so losses can be compared step
by step. Models have Qwen3-VL shapes with random weights, and images COCO's sizes. One GPU holds plain parameters;
several shard them (FSDP2). The first `UNTIMED` steps, which compile, are not counted. Ratios are to the first run.
"""

import argparse
import sys
import time
from pathlib import Path

import transformers

from benchmarks.common import SIZES, has_gpu, random_checkpoint, work_folder, write_result
from benchmarks.grpo_step import run_trainer
from benchmarks.sft_throughput import build_parquet
from benchmarks.spread import spread, times_faster
from qwen3vl_rl.training.metrics import read_metrics

UNTIMED = 5


def recipe(size: str, gpus: int, samples: int, steps: int, checkpoint: Path, parquet: Path, folder: Path) -> list[str]:
    hardware = ["hardware=cpu"] if not has_gpu() else ["hardware=gpu1"] if gpus == 1 else ["hardware=node8"]
    return [
        f"size={size}",
        *hardware,
        f"trainer.n_gpus_per_node={gpus}",
        f"model.path={checkpoint}",
        f"data.train_files={parquet}",
        f"data.train_batch_size={samples}",
        f"trainer.total_training_steps={steps}",
        "trainer.total_epochs=1",
        "trainer.save_freq=-1",
        "checkpoint.save_contents=[extra]",  # verl always saves after the last step; weights would take a minute
        "trainer.test_freq=-1",
        "trainer.logger=[console,file]",
        f"trainer.default_local_dir={folder}",
    ]


def measure(overrides: list[str], folder: Path, timeout_s: float) -> dict:
    command = [sys.executable, "-m", "sft.train", *overrides]
    error, wall_s, peaks = run_trainer(command, folder.with_suffix(".screen"), timeout_s)
    rows = [row for _, row in sorted(read_metrics(folder).items())]
    found = {"wall_s": round(wall_s, 1), "error": error, "losses": [row["train/loss"] for row in rows]}
    if len(rows) <= UNTIMED:
        return found | {"error": error or f"no step after the first {UNTIMED}"}
    seconds = [row["perf/step_s"] for row in rows[UNTIMED:]]
    return found | {
        "steps": seconds,
        "step_s": spread(seconds),
        "loading_s": spread(row["timing_s/data"] for row in rows[UNTIMED:]),
        "tokens_per_s": spread(row["perf/tokens_per_s"] for row in rows[UNTIMED:]),
        "gpu_peak_gib": [round(mib / 1024, 1) for mib in peaks],
    }


def compare(runs: list[dict]) -> None:
    """Add to each run after the first how many times as fast its steps are as the first's, and the largest relative
    difference of their losses."""
    first = runs[0]
    for run in runs[1:]:
        if "steps" in first and "steps" in run:
            run[f"speed_relative_to_{first['gpus']}"] = times_faster(first["steps"], run["steps"])
            losses = zip(first["losses"], run["losses"], strict=True)
            run["loss_difference_max"] = max(abs(own / one - 1) for one, own in losses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="2b")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 2])
    parser.add_argument(
        "--samples", type=int, default=32, help="samples of an update, over all GPUs; the recipe has 16 per GPU"
    )
    parser.add_argument(
        "--steps", type=int, default=25, help=f"number of steps, of which the first {UNTIMED} are not counted"
    )
    parser.add_argument("--answer-tokens", type=int, default=110, help="approximate length of the reasoning")
    parser.add_argument("--timeout-s", type=float, default=300, help="limit for one run, including its start")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides for all runs")
    parser.add_argument("--work", type=Path, help="keep checkpoint, data and logs here, and reuse the checkpoint")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    with work_folder(args.work) as work:
        checkpoint = random_checkpoint(args.size, work, "cuda" if has_gpu() else "cpu")
        tokenizer = transformers.AutoProcessor.from_pretrained(checkpoint).tokenizer
        parquet = build_parquet(work, args.samples * args.steps, args.answer_tokens, tokenizer)
        runs: list[dict] = []
        for gpus in args.gpus:
            print(f"== {gpus} GPUs", flush=True)
            folder = work / f"scaling-{int(time.time())}-{gpus}"
            overrides = recipe(args.size, gpus, args.samples, args.steps, checkpoint, parquet, folder)
            runs.append({"gpus": gpus} | measure(overrides + args.set, folder, args.timeout_s))
            compare(runs)
            settings = {name: getattr(args, name) for name in ("size", "samples", "answer_tokens", "set")}
            write_result(args.out, "benchmarks.sft_scaling", settings | {"runs": runs})  # a run may be cut short
    for run in runs:
        print({name: value for name, value in run.items() if name not in ("steps", "losses")}, flush=True)


if __name__ == "__main__":
    main()
