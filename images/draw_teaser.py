"""Draw images/teaser.png: accuracy against latency, the paper's own figures.

    python images/draw_teaser.py

Latency per request in ms and average Acc@0.5 over the eight RefCOCO splits, from the paper's accuracy-latency figure.
EGM-8B and 235B-Instruct are printed there; the others were read off its log axis, to about 3 %.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SERIES = {  # name: (colour, marker, {size: (latency_ms, accuracy)})
    "EGM": ("#c23b22", "o", {"2B": (287, 89.1), "4B": (489, 90.9), "8B": (737, 91.4)}),
    "Qwen3-VL Instruct": (
        "#4a6fa5",
        "s",
        {"2B": (173, 84.2), "4B": (246, 87.3), "8B": (410, 88.9), "235B": (4320, 90.5)},
    ),
    "Qwen3-VL Thinking": (
        "#7f8fa6",
        "^",
        {"2B": (745, 83.6), "4B": (1066, 87.2), "8B": (1253, 87.8), "32B": (7307, 88.6), "235B": (13900, 90.7)},
    ),
    "InternVL3": ("#b8a16a", "D", {"1B": (100, 81.6), "2B": (123, 86.7), "32B": (1546, 91.2), "78B": (1975, 91.4)}),
}


def main() -> None:
    figure, axes = plt.subplots(figsize=(8, 4.4), dpi=160)
    for name, (colour, marker, points) in SERIES.items():
        ours = name.startswith("EGM")
        axes.plot(
            *zip(*points.values(), strict=True),
            marker=marker,
            color=colour,
            label=name,
            lw=2 if ours else 1,
            ms=8 if ours else 6,
        )
        for size, (latency_ms, accuracy) in points.items():
            axes.annotate(
                size, (latency_ms, accuracy), (0, 8), textcoords="offset points", ha="center", fontsize=8, color=colour
            )
    arrow = {"arrowstyle": "->", "color": "#c23b22", "connectionstyle": "arc3,rad=0.25"}
    axes.annotate("", (775, 91.5), (4320, 90.7), arrowprops=arrow)
    axes.text(2500, 92.15, "5.9x faster than 235B-Instruct", color="#c23b22", fontsize=9)
    axes.set_xscale("log")
    axes.set_xticks([100, 300, 1000, 3000, 10000], ["100 ms", "300 ms", "1 s", "3 s", "10 s"])
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
