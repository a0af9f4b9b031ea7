"""The planner's report: memory, what to change if a run does not fit, and time."""

from collections.abc import Mapping

from qwen3vl_rl.training.gpus import Gpu
from qwen3vl_rl.training.memory import (
    checkpoint_gib,
    host_memory_gib,
    problems,
    rollout_memory_gib,
    update_memory_gib,
)
from qwen3vl_rl.training.planner.constants import Constants
from qwen3vl_rl.training.planner.remedies import remedies
from qwen3vl_rl.training.planner.timing import checkpoint_s, step_seconds, validation_s
from qwen3vl_rl.training.workload import Run

PHASES = {  # verl's names
    "gen": "generation and rewards",
    "old_log_prob": "forward pass of the policy before the update",
    "ref": "forward pass of the reference policy",
    "update_actor": "forward, backward and optimizer",
    "update_weights": "weight transfer to the rollout engine",
    "other": "everything else",
}
FITTED_ON = "2B and 8B, one to four H100s and H200s, 8 to 64 prompts per step (docs/performance.md)"


def report(run: Run, gpu: Gpu, constants: Constants, sources: Mapping[str, str]) -> str:
    gpus = f"{run.gpus} x {gpu.name} of {gpu.memory_gib:.0f} GiB"
    lines = [f"{run.shape.parameters / 1e9:.2f} billion parameters; GPUs: {gpus}"]
    for title, parts in (
        ("update", update_memory_gib(run, gpu.memory_gib, constants)),
        ("generation", rollout_memory_gib(run, gpu.memory_gib, constants)),
    ):
        lines.append(f"\nmemory per GPU, {title}: {sum(parts.values()):.0f} GiB")
        lines += [f"  {size:7.1f}  {name}" for name, size in parts.items() if size]
    if host_gib := host_memory_gib(run):
        lines.append(f"\nhost memory per node: {host_gib:.0f} GiB for offloaded state, in addition to everything else")
    disk = f"{checkpoint_gib(run):.0f} GiB per checkpoint; the latest and the best stay while the next one is written"
    lines.append(f"\ndisk: {disk}")
    found = problems(run, gpu.memory_gib, constants)
    lines.append("\nit fits" if not found else f"\nit does not fit: {'; '.join(found)}")
    if found and (changes := remedies(run, gpu.memory_gib, constants)):
        lines += ["each of these lines alone makes it fit (it replaces overrides of the same keys):"]
        lines += [f"  {overrides}" for overrides in changes]
    elif found:
        lines.append("none of the changes that were tried makes it fit")
    phases = step_seconds(run, gpu, constants)
    step_s, steps = sum(phases.values()), run.train_rows // run.prompts
    validate_s, save_s = validation_s(run, gpu, constants), checkpoint_s(run, constants)
    between_s = run.validations * validate_s + run.checkpoints * save_s
    lines.append(
        f"\none step, {run.prompts} prompts of {run.prompt_tokens} tokens x {run.answers_per_prompt} answers of "
        f"{run.answer_tokens} tokens: {step_s:.0f} s"
    )
    lines += [f"  {seconds:7.1f}  {name:15} {PHASES[name]}" for name, seconds in phases.items()]
    lines.append(
        f"\none epoch of {run.train_rows} samples: {steps} steps, {steps * step_s / 3600:.1f} h; "
        f"{run.epochs} epochs: {run.steps * step_s / 3600:.1f} h"
    )
    lines += [
        f"validations and checkpoints: {between_s / 3600:.1f} h in addition",
        f"  {validate_s:7.1f}  x {run.validations} (trainer.test_freq={run.test_freq}, {run.val_rows} questions each)",
        f"  {save_s:7.1f}  x {run.checkpoints} (trainer.save_freq={run.save_freq})",
    ]
    assumed = [name for name, source in sources.items() if source.startswith("assumed")]
    lines.append(f"assumed: {', '.join(assumed)}; the other constants are measured on {FITTED_ON}")
    if run.filters_groups:
        lines.append("answers to prompts that the filter discards are not counted")
    if run.rollout_engine == "sglang":
        lines.append(
            f"sglang's generation takes {constants.sglang_generation:.1f} times as long as vLLM's, measured on 2B only"
        )
    if run.shape.hidden_size not in constants.update_utilisation:
        lines.append("the GPU utilisation of a model of this width is interpolated")
    return "\n".join(lines)
