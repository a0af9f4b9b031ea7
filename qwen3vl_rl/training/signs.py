"""Signs in the metrics of stage 2 that a run learns nothing, or learns something unintended.

Each sign is reported once, with the section of `docs/troubleshooting.md` that says what to do. The limits are our
choice: in the quickstart's run, all means over `WINDOW` steps stayed within them.
"""

from collections.abc import Iterable, Iterator, Mapping
from statistics import fmean

WINDOW = 5  # steps that are averaged, because single steps are noisy
SHORTER = 0.6  # of the mean length at the start
HELP = "docs/troubleshooting.md#"
LIMITS = (  # section, metric, highest mean that passes, text for a higher one
    (
        "nothing-to-learn-from",
        "rollout/alike_groups",
        0.9,
        "for {:.0%} of the prompts, all answers are right or all are wrong",
    ),
    ("answers-are-cut-off", "rollout/cut_off", 0.1, "{:.0%} of the answers reach data.max_response_length"),
    ("far-from-the-start", "actor/kl_loss", 0.5, "the policy is {:.2f} nats per token away from the start"),
    (
        "engine-and-actor-differ",
        "training/rollout_probs_diff_mean",
        0.1,
        "the probabilities of engine and actor differ by {:.2f} on average",
    ),
)


class Signs:
    """Finds signs in the metrics of successive steps. `steps`: the earlier steps of a resumed run."""

    def __init__(self, steps: Iterable[Mapping[str, float]] = ()):
        self._steps: list[Mapping[str, float]] = []
        self._reported: set[str] = set()
        for metrics in steps:
            list(self.look(metrics))  # reported by an earlier start

    def look(self, metrics: Mapping[str, float]) -> Iterator[str]:
        """A line for each sign that appears for the first time."""
        if "response_length/mean" not in metrics:  # stage 1, or a validation
            return
        self._steps.append(metrics)
        if len(self._steps) < WINDOW:
            return
        for section, line in self._found():
            if section not in self._reported:
                self._reported.add(section)
                yield f"warning: {line}; see {HELP}{section}"

    def _found(self) -> Iterator[tuple[str, str]]:
        recent, first = self._steps[-WINDOW:], self._steps[:WINDOW]
        for section, metric, limit, text in LIMITS:
            value = mean(recent, metric)
            if value is not None and value > limit:
                yield section, text.format(value)
        now, before = mean(recent, "response_length/mean"), mean(first, "response_length/mean")
        if now < SHORTER * before:
            yield "answers-get-short", f"answers have {now:.0f} tokens, {before:.0f} at the start"


def section_of(warning: str) -> str:
    """The section that a line from `Signs.look` names."""
    return warning.rpartition("#")[2]


def mean(steps: Iterable[Mapping[str, float]], name: str) -> float | None:
    """The mean of a metric over the steps that have it; None if none has."""
    values = [metrics[name] for metrics in steps if name in metrics]
    return fmean(values) if values else None
