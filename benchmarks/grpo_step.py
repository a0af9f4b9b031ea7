"""Seconds of a stage 2 step, by phase, on Qwen3-VL shapes with random weights, through the trainer that users run.

    python -m benchmarks.grpo_step --size 2b --engine vllm --variant released fast --out FILE

A variant is one or several names of `CHANGES`, joined by `+`; each changes the recipe. `released` has the memory and
engine settings of the release: everything offloaded, shards layer by layer, prompt and image computed for each answer,
chunked prefill off, prefix caching on. `fast` is `speed=fast`; other changes are parts of it. Answers have exactly
`--answer-tokens` tokens (the end of a turn is ignored), and images 640x480 px. Each variant starts the trainer anew,
which takes a minute or two. The first step, which compiles and captures graphs, is not counted. Phases are verl's
`timing_s/*`; ratios are to the first variant that ran.
"""

import argparse
import os
import sys
import time
from pathlib import Path

from omegaconf import OmegaConf

from benchmarks.common import SIZES, has_gpu, random_checkpoint, rl_parquet, work_folder, write_result
from benchmarks.results import current
from benchmarks.spread import spread, times_faster
from qwen3vl_rl.training import processes as process
from qwen3vl_rl.training.gpus import gpu_used_mib
from qwen3vl_rl.training.metrics import read_metrics
from qwen3vl_rl.training.run_folder import LOG, RECIPE_FILE

ACTOR, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
ENGINE = f"{ACTOR}.fsdp_config"


def gathering(wrapped: str, again: bool) -> list[str]:
    """Overrides for the FSDP units, and whether the actor gathers them again for the backward pass."""
    return [
        f"++{ACTOR}.fsdp_config.wrap_policy.transformer_layer_cls_to_wrap={wrapped}",
        f"++actor_rollout_ref.ref.fsdp_config.wrap_policy.transformer_layer_cls_to_wrap={wrapped}",
        f"{ACTOR}.fsdp_config.reshard_after_forward={str(again).lower()}",
    ]


BY_LAYER = gathering("[Qwen3VLTextDecoderLayer,Qwen3VLVisionBlock]", again=True)  # verl's default
CHANGES = {
    "released": [  # all set explicitly, because `size=tiny` has other defaults
        f"{ACTOR}.fsdp_config.param_offload=true",
        f"{ACTOR}.fsdp_config.optimizer_offload=true",
        "actor_rollout_ref.ref.fsdp_config.param_offload=true",
        f"{ROLLOUT}.free_cache_engine=true",
        f"{ENGINE}.share_prompts=false",
        f"{ENGINE}.no_shard=false",
        *BY_LAYER,
    ],
    "shipped": [],  # the recipe without a change
    "fast": ["speed=fast"],
    "resident": [  # nothing is offloaded; the rollout engine gets the memory that the training state leaves
        f"{ACTOR}.fsdp_config.param_offload=false",
        f"{ACTOR}.fsdp_config.optimizer_offload=false",
        "actor_rollout_ref.ref.fsdp_config.param_offload=false",
        f"{ROLLOUT}.gpu_memory_utilization=0.6",
    ],
    "chunked": [f"{ROLLOUT}.enable_chunked_prefill=true"],
    "no-prefix-caching": [f"{ROLLOUT}.enable_prefix_caching=false"],
    "on-policy": [  # one update per batch: the ratio is 1, so the old policy needs no pass
        "algorithm.rollout_correction.bypass_mode=true",
        "algorithm.rollout_correction.loss_type=on_policy",
    ],
    "prompt-per-answer": [f"{ENGINE}.share_prompts=false"],  # computed as verl does
    "image-per-answer": [  # prepared and sent as verl does
        f"{ROLLOUT}.agent.default_agent_loop=single_turn_agent",
        f"{ROLLOUT}.agent.agent_loop_manager_class=null",
    ],
    "no-shard": [f"{ENGINE}.no_shard=true"],
    "sharded": [f"{ENGINE}.no_shard=false"],  # one GPU, treated like several
    # Several GPUs: all layers are gathered together, once for forward and backward (`size=2b`), or one by one.
    "at-once": gathering("[Qwen3VLVisionModel]", again=False),
    "by-layer": BY_LAYER,
    "compile": [f"{ENGINE}.compile_blocks=true"],
    "no-checkpointing": ["actor_rollout_ref.model.enable_gradient_checkpointing=false"],
    "fused-adamw": [f"++{ACTOR}.optim.override_optimizer_config.fused=true"],
    "float16": [f"{ROLLOUT}.dtype=float16"],  # of rollouts, as released
    "awake": [f"{ROLLOUT}.free_cache_engine=false"],
    "padded": [
        "actor_rollout_ref.model.use_remove_padding=false",
        f"{ENGINE}.response_logits_only=false",
        f"{ENGINE}.share_prompts=false",
    ],
    "all-logits": [f"{ENGINE}.response_logits_only=false", f"{ENGINE}.share_prompts=false"],
    "lora": ["tuning=lora"],
}
SGLANG = "actor_rollout_ref.rollout.engine_kwargs.sglang"
ENGINES = {
    "vllm": [],
    # verl makes sglang use flashinfer, whose kernels have to be compiled; these backends need no compiler
    "sglang": [f"+{SGLANG}.attention_backend=triton", f"+{SGLANG}.sampling_backend=pytorch"],
}
PHASES = ("gen", "reward", "old_log_prob", "ref", "adv", "update_actor", "update_weights")
SETTINGS = ("size", "engine", "hardware", "gpus", "prompts", "samples_per_prompt", "answer_tokens", "steps", "set")
ERROR_LINES = 15
POLL_S = 1.0


def recipe(args: argparse.Namespace, checkpoint: Path, parquet: Path, variant: str, folder: Path) -> list[str]:
    command = [f"size={args.size}", f"hardware={args.hardware}", f"engine={args.engine}", *ENGINES[args.engine]]
    command += [
        f"trainer.n_gpus_per_node={args.gpus}",
        f"actor_rollout_ref.model.path={checkpoint}",
        f"data.train_files={parquet}",
        f"data.val_files={parquet}",
        f"data.train_batch_size={args.prompts}",
        f"{ACTOR}.ppo_mini_batch_size={args.prompts}",
        f"{ROLLOUT}.n={args.samples_per_prompt}",
        f"data.max_response_length={args.answer_tokens}",
        f"{ROLLOUT}.ignore_eos=true",
        f"{ROLLOUT}.max_num_seqs={min(1024, args.prompts * args.samples_per_prompt)}",
        f"trainer.total_training_steps={args.steps + 1}",
        f"trainer.default_local_dir={folder}",
        "trainer.val_before_train=false",
        "trainer.test_freq=-1",
        "trainer.save_freq=-1",
        "trainer.logger=[console,file]",
        "trainer.rollout_data_dir=null",
    ]
    return command + [change for word in current(variant).split("+") for change in CHANGES[word]] + args.set


def run_trainer(command: list[str], screen: Path, timeout_s: float) -> tuple[str | None, float, list[int]]:
    """Run `command` with its output in the file `screen`. Returns error, seconds, and peak MiB in use on each GPU."""
    peaks: list[int] = []
    start = time.monotonic()
    child = process.start(command, screen, {})
    try:
        while child.poll() is None and time.monotonic() < start + timeout_s:
            used = gpu_used_mib()
            peaks = [max(pair) for pair in zip(peaks, used, strict=True)] if peaks else used
            time.sleep(POLL_S)
        late = child.poll() is None
    finally:
        process.stop(child)
    text = screen.read_text(errors="replace")
    print(text, end="", flush=True)
    error = f"not finished after {timeout_s:.0f} s" if late else text[-500:] if child.returncode else None
    return error, time.monotonic() - start, peaks


def measure(args: argparse.Namespace, checkpoint: Path, parquet: Path, variant: str, folder: Path) -> dict:
    overrides = recipe(args, checkpoint, parquet, variant, folder)
    command = [sys.executable, "-m", "qwen3vl_rl.train", *overrides]
    error, wall_s, peaks = run_trainer(command, folder.with_suffix(".screen"), args.timeout_s)
    rows = sorted(read_metrics(folder).items())
    steps = [row for number, row in rows if number > 1 and "timing_s/step" in row]
    result = {"variant": variant, "wall_s": round(wall_s, 1), "error": error}
    if error:
        log = folder / LOG
        result["log"] = log.read_text(errors="replace").splitlines()[-ERROR_LINES:] if log.exists() else []
    if not steps:
        return result | {"error": error or "no step after the first"}

    def values(key: str) -> dict[str, float] | None:
        found = [row[key] for row in steps if key in row]
        return spread(found) if found else None

    phases = {phase: values(f"timing_s/{phase}") for phase in PHASES}
    metrics = {
        "step_s": "timing_s/step",
        "tokens_per_step": "perf/total_num_tokens",
        "prompt_tokens": "prompt_length/mean",
        "answer_tokens": "response_length/mean",
        "mfu_update": "perf/mfu/actor",
        "actor_peak_gib": "actor/perf/max_memory_allocated_gb",
        "rollout_probs_diff_max": "training/rollout_probs_diff_max",
    }
    result |= {name: values(key) for name, key in metrics.items()}
    seconds = [row["timing_s/step"] for row in steps]
    result["share_prompts"] = OmegaConf.load(folder / RECIPE_FILE).actor_rollout_ref.actor.fsdp_config.share_prompts
    return result | {
        "steps": seconds,
        "phases_s": {phase: found for phase, found in phases.items() if found},
        "tokens_per_s": result["tokens_per_step"]["median"] / result["step_s"]["median"],
        "gpu_peak_gib": [round(mib / 1024, 1) for mib in peaks],
    }


def ratios(results: list[dict]) -> None:
    """Add to each result how many times as fast its steps are as those of the first that ran."""
    ran = [result for result in results if "steps" in result]
    for result in ran[1:]:
        result[f"speed_relative_to_{ran[0]['variant']}"] = times_faster(ran[0]["steps"], result["steps"])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="2b")
    parser.add_argument("--engine", choices=ENGINES, default="vllm")
    parser.add_argument("--gpus", type=int, choices=(1, 2, 4, 8), default=1)
    parser.add_argument("--variant", nargs="+", default=["released", "fast"])
    parser.add_argument("--prompts", type=int, default=16, help="prompts per step")
    parser.add_argument("--samples-per-prompt", type=int, default=16)
    parser.add_argument("--answer-tokens", type=int, default=100)
    parser.add_argument("--steps", type=int, default=3, help="counted steps, after a first one that is not")
    parser.add_argument("--timeout-s", type=float, default=420, help="limit for one variant, including its start")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides for all variants")
    parser.add_argument("--work", type=Path, help="keep checkpoint, data and logs here, and reuse the first two")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    for variant in args.variant:
        if unknown := set(variant.split("+")) - CHANGES.keys():
            parser.error(f"--variant {variant}: expected names of {', '.join(CHANGES)}, got {unknown.pop()}")
    args.hardware = "cpu" if not has_gpu() else f"gpu{args.gpus}" if args.gpus <= 2 else "node8"
    return args


def main() -> None:
    args = parse()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with work_folder(args.work) as work:
        checkpoint = random_checkpoint(args.size, work, "cuda" if has_gpu() else "cpu")
        parquet = rl_parquet(work, args.prompts * (args.steps + 1))
        settings = {name: getattr(args, name) for name in SETTINGS}
        results: list[dict] = []
        for variant in args.variant:
            print(f"== {variant}", flush=True)
            folder = work / f"run-{int(time.time())}-{variant}"
            results.append(measure(args, checkpoint, parquet, variant, folder))
            ratios(results)
            written = {"settings": settings, "variants": results}
            write_result(args.out, "benchmarks.grpo_step", written)  # after each variant, as a run may be cut short
    for result in results:
        print(summary(result), flush=True)


def summary(result: dict) -> str:
    if "steps" not in result:
        return f"{result['variant']}: {result['error']}"
    phases = "  ".join(f"{name} {found['median']:.2f}" for name, found in result["phases_s"].items())
    text = f"{result['variant']}: {result['step_s']['median']:.2f} s a step ({phases})"
    text += f", {result['tokens_per_s']:.0f} tokens/s, GPU {result['gpu_peak_gib']} GiB"
    for key, found in result.items():
        if key.startswith("speed_relative_to_"):
            text += f", {found['median']:.2f} [{found['min']:.2f}, {found['max']:.2f}] times {key[18:]}"
    return text


if __name__ == "__main__":
    main()
