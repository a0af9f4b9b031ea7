"""Signs in the metrics of stage 2 that a run learns nothing, or something that was not meant.

Each is told once, with the section of `docs/troubleshooting.md` that says what to do. Thresholds are ours: of healthy
runs on RefShapes none comes near them.
"""

from collections.abc import Iterable, Iterator, Mapping
from statistics import fmean

WINDOW = 5  # steps: of a single one chance decides
ALIKE = 0.9  # of the prompts
CUT = 0.1  # of the answers
SHORTER = 0.6  # of the length at the start
KL = 0.5  # nats a token
DRIFT = 0.1  # of a token's probability
HELP = "docs/troubleshooting.md#"


class Signs:
    """Looks at the metrics of one step after the other. `steps`: those of a run that is resumed."""

    def __init__(self, steps: Iterable[Mapping[str, float]] = ()):
        self._steps: list[Mapping[str, float]] = []
        self._told: set[str] = set()
        for metrics in steps:
            list(self.look(metrics))  # told before

    def look(self, metrics: Mapping[str, float]) -> Iterator[str]:
        """A line for each sign that shows for the first time."""
        if "response_length/mean" not in metrics:  # a step of stage 1, or a validation
            return
        self._steps.append(metrics)
        if len(self._steps) < WINDOW:
            return
        for section, line in self._found():
            if section not in self._told:
                self._told.add(section)
                yield f"warning: {line}; see {HELP}{section}"

    def _found(self) -> Iterator[tuple[str, str]]:
        recent, first = self._steps[-WINDOW:], self._steps[:WINDOW]
        alike = mean(recent, "rollout/alike_groups")
        if alike is not None and alike > ALIKE:
            yield "nothing-to-learn-from", f"of {alike:.0%} of the prompts all answers are right, or all are wrong"
        cut = mean(recent, "rollout/cut_off")
        if cut is not None and cut > CUT:
            yield "answers-are-cut-off", f"{cut:.0%} of the answers reach data.max_response_length"
        now, before = mean(recent, "response_length/mean"), mean(first, "response_length/mean")
        if now < SHORTER * before:
            yield "answers-get-short", f"answers have {now:.0f} tokens, {before:.0f} at the start"
        kl = mean(recent, "actor/kl_loss")
        if kl is not None and kl > KL:
            yield "far-from-the-start", f"the policy is {kl:.2f} nats a token from where it began"
        drift = mean(recent, "training/rollout_probs_diff_mean")
        if drift is not None and drift > DRIFT:
            yield "engine-and-actor-differ", f"probabilities of engine and actor differ by {drift:.2f} on average"


def mean(steps: Iterable[Mapping[str, float]], name: str) -> float | None:
    """Of a metric over the steps that have it."""
    values = [metrics[name] for metrics in steps if name in metrics]
    return fmean(values) if values else None
