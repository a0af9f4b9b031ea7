"""Positions in the report's charts."""

from itertools import pairwise

import pytest

from qwen3vl_rl.evaluation.reporting.charts import (
    LABEL_PX,
    MAX_TICKS,
    PANEL_PX,
    PLOT_PX,
    accuracy_panels,
    shorten,
    spread_labels,
    ticks,
    token_chart,
)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 100), (88.1, 95.4), (98, 100), (0, 4096), (0, 1.05), (55, 57)])
def test_ticks_enclose_the_values_in_even_steps(low, high):
    found = ticks(low, high)
    assert found[0] <= low < high <= found[-1] and 2 <= len(found) <= MAX_TICKS
    assert len({b - a for a, b in pairwise(found)}) == 1


def test_labels_keep_their_distance_and_stay_in_the_drawing():
    placed = sorted(spread_labels([200.0, 198.0, 205.0, 30.0], bottom=208))
    assert placed[0] == 30.0 and placed[-1] <= 208
    assert min(b - a for a, b in pairwise(placed)) >= LABEL_PX


def test_a_panel_holds_what_the_summary_holds(results):
    panels = accuracy_panels(results)
    assert [panel.title for panel in panels] == [
        *("average", "refshapes_val", "refshapes_testA", "refshapes_testB"),
        "refshapes_amodal_val (not in the average)",
    ]
    assert len({tuple(panel.axis.ticks) for panel in panels}) == 1
    for point, result in zip(panels[0].points, results, strict=True):
        low, high = result.summary["average"]["acc_interval"]
        assert (point.name, point.acc) == (result.name, 100 * result.summary["average"]["acc"])
        assert (point.low, point.high) == (100 * low, 100 * high)
        assert PANEL_PX[0] <= panels[0].axis.at(point.low) <= panels[0].axis.at(point.high) <= PANEL_PX[1]
    assert panels[0].points[1].text.startswith("50.0 (")


def test_more_accuracy_is_higher_and_more_tokens_are_further_right(results, make_result):
    chart = token_chart(results)
    heights = [chart.acc.at(point.acc) for point in chart.points]
    assert heights == sorted(heights, reverse=True) and PLOT_PX[1] <= min(heights) <= max(heights) <= PLOT_PX[3]
    assert {chart.tokens.at(point.tokens) for point in chart.points} == {chart.tokens.at(30)}
    assert chart.tokens.at(31) > chart.tokens.at(30)


def test_a_model_without_intervals_and_tokens_is_drawn(make_result):
    result = make_result({"val": [True]})
    result.summary["splits"]["val"]["mean_tokens"] = 0
    assert result.summary["average"]["acc_interval"] is None
    (panel,), chart = accuracy_panels([result]), token_chart([result])
    assert (panel.title, panel.points[0].text, panel.points[0].low) == ("val", "100.0", 100.0)
    assert chart.tokens.at(0) == PLOT_PX[0]


def test_long_names_keep_their_beginning_and_their_end():
    assert shorten("EGM-8B", 16) == "EGM-8B"
    short = shorten("outputs/Qwen3-VL-2B-Instruct", 16)
    assert len(short) == 16 and short.startswith("outputs/") and short.endswith("nstruct")
