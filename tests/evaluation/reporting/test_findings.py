"""The headline and the sentences about clear differences."""

import pytest

from qwen3vl_rl.evaluation.reporting.findings import clear_differences, headline
from qwen3vl_rl.evaluation.reporting.tables import Pair, compare_runs, summary_places
from qwen3vl_rl.evaluation.scoring.metrics import AVERAGE, Comparison, Estimate

NEARLY_ALL, HALF, FEW = [True] * 19 + [False], [True, False] * 10, [True] * 2 + [False] * 18


def pair(value, interval, place=AVERAGE):
    return Pair("sft", "rl", {place: Comparison(Estimate(value, interval), 0, 0, 1.0)})


def headline_of(*results):
    return headline(results, compare_runs(results))


def equal_splits(make_result, **models):
    """One result per model, with the same right answers on two splits."""
    return [make_result({"val": rights, "test": rights}, name) for name, rights in models.items()]


@pytest.mark.parametrize(
    ("value", "interval", "sentence"),
    [
        (0.138, (0.097, 0.18), "rl is better than sft by 13.8 points (9.7 to 18.0) on average."),
        (-0.053, (-0.118, -0.008), "rl is worse than sft by 5.3 points (0.8 to 11.8) on average."),
        (0.01, (0.0001, 0.02), "rl is better than sft by 1.0 points (0.0 to 2.0) on average."),
        (0.01, (0.0, 0.02), None),
        (0.01, (-0.01, 0.03), None),
        (-0.01, (-0.03, 0.01), None),
        (0.9, None, None),
    ],
)
def test_a_difference_has_a_sentence_if_its_interval_excludes_0(value, interval, sentence):
    assert clear_differences([pair(value, interval)], [AVERAGE]) == ([sentence] if sentence else [])


def test_every_clear_difference_between_runs_has_a_sentence_and_no_other_has(make_result):
    better = [True, *HALF[1:-1], True]
    accuracies = {"base": HALF, "sft": better, "rl": NEARLY_ALL}
    results = [make_result({"val": rights, "test": HALF}, name) for name, rights in accuracies.items()]
    pairs, places = compare_runs(results), summary_places(results)
    assert places == [AVERAGE, "val", "test"]
    differences = {
        f"{pair.second} is better than {pair.first} by {100 * found.value:.1f} points "
        f"({100 * found.interval[0]:.1f} to {100 * found.interval[1]:.1f}) "
        f"{'on average' if place == AVERAGE else f'on {place}'}.": found.interval[0] > 0
        for place in places
        for pair in pairs
        for found in [pair.comparisons[place].difference]
    }
    clear = [sentence for sentence, is_clear in differences.items() if is_clear]
    assert clear_differences(pairs, places) == clear
    assert 0 < len(clear) < len(differences) == 9


def test_the_headline_names_the_best_model_and_its_difference_to_the_first(make_result):
    base, sft, rl = equal_splits(make_result, base=FEW, sft=NEARLY_ALL, rl=HALF)
    line = headline_of(base, sft, rl)
    assert line.startswith("sft is best on average with 95.0 % right, clearly better than base (by 85.0 points, 95 % ")
    difference = compare_runs([base, sft])[0].comparisons[AVERAGE].difference
    low, high = (f"{100 * end:.1f}" for end in difference.interval)
    assert line.endswith(f"interval {low} to {high}).")


def test_a_first_model_that_is_the_best_is_compared_with_the_next_best(make_result):
    line = headline_of(*equal_splits(make_result, base=NEARLY_ALL, sft=FEW, rl=HALF))
    assert line.startswith("base is best on average with 95.0 % right, clearly better than rl, the next best (by 45.0 ")


def test_a_headline_does_not_call_a_small_difference_clear(make_result):
    better = [True, *HALF[1:-1], True]
    line = headline_of(make_result({"a": HALF, "b": HALF}, "base"), make_result({"a": better, "b": HALF}, "rl"))
    assert line.startswith("rl is best on average with 52.5 % right, but not clearly better than base (by 2.5 points, ")


def test_equal_models_are_called_equal(make_result):
    models = [make_result({"a": HALF, "b": HALF}, name) for name in ("base", "sft", "rl")]
    assert headline_of(*models) == "base is best on average with 50.0 % right (sft and rl have as many)."
    assert headline_of(*models[:2]) == "base is best on average with 50.0 % right (sft has as many)."


def test_one_model_and_models_over_other_samples_are_not_compared(make_result):
    base, other = make_result({"a": HALF, "b": HALF}, "base"), make_result({"c": NEARLY_ALL, "d": HALF}, "rl")
    assert headline_of(base).startswith("base has 50.0 % right on average (95 % interval ")
    assert headline_of(base, other) == (
        "rl has the highest accuracy on average: 72.5 % right; the models answered different samples."
    )


def test_an_average_over_one_split_goes_by_the_name_of_the_split(make_result):
    base, rl = make_result({"val": FEW}, "base"), make_result({"val": NEARLY_ALL}, "rl")
    assert headline_of(base, rl).startswith("rl is best on val with 95.0 % right")
    assert len(clear_differences(compare_runs([base, rl]), summary_places([base, rl]))) == 1
