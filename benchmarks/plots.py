"""Draw images/costs.png from results/: python -m benchmarks.plots

The figure shows latency by length of the answer, and the phases of a step of GRPO.
"""

from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.results import BASE, FOLDER, read_result
from qwen3vl_rl.data.files import replacing

IMAGE = Path(__file__).parents[1] / "images" / "costs.png"
SERVED = {  # result file: label, colour, line style; all on one kind of GPU
    "serving_2b_vllm": ("2B, vLLM", "C0", "-"),
    "serving_2b_sglang": ("2B, sglang", "C0", "--"),
    "serving_8b_vllm": ("8B, vLLM", "C1", "-"),
    "serving_8b_sglang": ("8B, sglang", "C1", "--"),
}
PAPER = {"EGM-8B (paper)": (101, 737)}  # tokens, ms; the paper's table of latencies, device not named
STEPS = {  # variant: label
    "released": "released",
    f"{BASE}+no-shard+image-per-answer": "fast, uncompiled,\nprompts as verl makes them",
    f"{BASE}+no-shard+encode-each": "fast, uncompiled,\nimages encoded for each answer",
    f"{BASE}+no-shard": "fast, uncompiled",
    f"{BASE}+no-shard+compile": "fast",
}
PHASES = {
    "gen": "generation",
    "old_log_prob": "old policy",
    "ref": "reference",
    "update_actor": "update",
    "update_weights": "weights to the engine",
}


def draw_latency(axis: plt.Axes, folder: Path) -> None:
    for name, (label, colour, style) in SERVED.items():
        rows = read_result(folder / f"{name}.json")["latency"]
        points = [(row["answer_tokens"], 1000 * row["latency_s"]["median"]) for row in rows]
        axis.plot(*zip(*points, strict=True), color=colour, linestyle=style, marker="o", markersize=3, label=label)
    for label, (tokens, latency_ms) in PAPER.items():
        axis.plot(tokens, latency_ms, color="black", marker="*", linestyle="", label=label)
    axis.set(title="one request, 640x480 px", xlabel="answer tokens", ylabel="latency, ms", ylim=(0, None))
    axis.legend(frameon=False)


def draw_steps(axis: plt.Axes, variants: Mapping[str, dict]) -> None:
    """Draw a bar for each variant, divided into the phases of its step."""
    for place, (name, label) in enumerate(STEPS.items()):
        row, left = variants[name], 0.0
        for number, phase in enumerate(PHASES):
            seconds = row["phases_s"].get(phase, {"median": 0.0})["median"]
            axis.barh(label, seconds, left=left, color=f"C{number}", label=PHASES[phase] if place == 0 else None)
            left += seconds
        rest = max(0.0, row["step_s"]["median"] - left)  # medians of phases do not add up to the median of the steps
        axis.barh(label, rest, left=left, color="lightgrey", label="other" if place == 0 else None)
        axis.text(row["step_s"]["median"] + 0.3, label, f"{row['step_s']['median']:.1f} s", va="center")
    axis.set(title="a step of GRPO at 2B, 16 prompts x 16 answers of 100 tokens", xlabel="seconds", xlim=(0, 33))
    axis.invert_yaxis()
    axis.legend(frameon=False, loc="lower right")


def draw(folder: Path) -> plt.Figure:
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4), layout="constrained", width_ratios=(2, 3))
    draw_latency(left, folder)
    rows = read_result(folder / "grpo_2b_vllm.json")["variants"]
    draw_steps(right, {row["variant"]: row for row in rows})
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    with replacing(IMAGE) as draft:
        draw(FOLDER).savefig(draft, format="png", dpi=130)


if __name__ == "__main__":
    main()
