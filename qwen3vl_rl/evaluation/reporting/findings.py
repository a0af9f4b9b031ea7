"""The results in sentences: which model is best on average, and every paired difference that is clear.

A difference is clear if its 95 % interval excludes 0.
"""

from collections.abc import Sequence
from math import isclose

from qwen3vl_rl.evaluation.reporting.tables import Pair, percent, scores_at, summary_places
from qwen3vl_rl.evaluation.scoring.metrics import AVERAGE, Estimate, Interval
from qwen3vl_rl.evaluation.scoring.results import Result


def headline(results: Sequence[Result], pairs: Sequence[Pair]) -> str:
    """One sentence: the best model on average, and how clear its difference to the first model is.

    If the first model is the best, it is compared with the next best. `pairs`: from `compare_runs`.
    """
    place = summary_places(results)[0]
    accs = {result.name: scores_at(result, place)["acc"] for result in results}
    best = max(accs, key=accs.__getitem__)
    right = f"{percent(accs[best])} % right"
    if len(results) == 1:
        interval = scores_at(results[0], place)["acc_interval"]
        return f"{best} has {right} {_on(place)}{f' ({_interval(interval)})' if interval else ''}."
    if not pairs:
        return f"{best} has the highest accuracy {_on(place)}: {right}; the models answered different samples."
    level = [name for name, acc in accs.items() if isclose(acc, accs[best]) and name != best]
    equal = f" ({' and '.join(level)} {'has' if len(level) == 1 else 'have'} as many)" if level else ""
    return f"{best} is best {_on(place)} with {right}{equal}{_lead(best, accs, pairs)}."


def clear_differences(pairs: Sequence[Pair], places: Sequence[str]) -> list[str]:
    """One sentence for each difference that is clear, in the order of `places`."""
    return [
        _sentence(pair, pair.comparisons[place].difference, place)
        for place in places
        for pair in pairs
        if place in pair.comparisons and is_clear(pair.comparisons[place].difference)
    ]


def is_clear(difference: Estimate) -> bool:
    """Whether the interval excludes 0. Without an interval, a difference is not clear."""
    return difference.interval is not None and not difference.interval[0] <= 0 <= difference.interval[1]


def _lead(best: str, accs: dict[str, float], pairs: Sequence[Pair]) -> str:
    """The best model's difference to the first, or the first's to the next best. Empty if the two are equal."""
    first, *others = accs
    other = max(others, key=accs.__getitem__)
    if isclose(accs[other], accs[first]):
        return ""
    rival = first if best == other else f"{other}, the next best"
    pair = next(pair for pair in pairs if (pair.first, pair.second) == (first, other))
    difference = pair.comparisons[AVERAGE].difference
    points, interval = size(difference)
    clearly = "clearly" if is_clear(difference) else "but not clearly"
    return f", {clearly} better than {rival} (by {points} points{f', {_interval(interval)}' if interval else ''})"


def _sentence(pair: Pair, difference: Estimate, place: str) -> str:
    points, interval = size(difference)
    better = "better" if difference.value > 0 else "worse"
    return f"{pair.second} is {better} than {pair.first} by {points} points ({in_words(interval)}) {_on(place)}."


def size(difference: Estimate) -> tuple[str, Interval]:
    """The difference without its sign, in points, and its interval turned with it."""
    if difference.value >= 0 or difference.interval is None:
        return percent(abs(difference.value)), difference.interval
    low, high = difference.interval
    return percent(-difference.value), (-high, -low)


def _interval(interval: tuple[float, float]) -> str:
    return f"95 % interval {in_words(interval)}"


def in_words(interval: tuple[float, float]) -> str:
    """In points, without a sign: `9.7 to 18.0`."""
    return f"{percent(interval[0])} to {percent(interval[1])}"


def _on(place: str) -> str:
    return "on average" if place == AVERAGE else f"on {place}"
