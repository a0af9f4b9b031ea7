"""Draw images/teaser.png: accuracy against latency, the paper's own figures.

    python images/draw_teaser.py

Latency per request and average Acc@0.5 over the eight RefCOCO splits, from
qwen3vl_rl/evaluation/scoring/published.yaml, which cites the source of each point.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from qwen3vl_rl.evaluation.reporting.figures import STYLES, plot_published


def main() -> None:
    figure, axes = plt.subplots(figsize=(8, 4.4), dpi=160)
    plot_published(axes)
    color, _ = STYLES["EGM"]
    arrow = {"arrowstyle": "->", "color": color, "connectionstyle": "arc3,rad=0.25"}
    axes.annotate("", (0.775, 91.5), (4.32, 90.7), arrowprops=arrow)
    axes.text(2.5, 92.15, "5.9x faster than 235B-Instruct", color=color, fontsize=9)
    axes.set_xscale("log")
    axes.set_xticks([0.1, 0.3, 1, 3, 10], ["100 ms", "300 ms", "1 s", "3 s", "10 s"])
    axes.minorticks_off()
    axes.set_ylim(81, 93)
    axes.set_xlabel("latency per request (log scale)")
    axes.set_ylabel("Acc@0.5, average of 8 RefCOCO splits (%)")
    axes.set_title("Longer beats bigger: a small model that reasons before it boxes", fontsize=11, loc="left")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    figure.tight_layout()
    figure.savefig(Path(__file__).with_name("teaser.png"))


if __name__ == "__main__":
    main()
