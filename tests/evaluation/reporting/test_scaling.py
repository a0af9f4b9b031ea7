"""Test-time scaling: its table and its points in the figure."""

import shutil

import pytest
from PIL import Image

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.evaluation.reporting.scaling import draw_results, is_on_refcoco, measure, scaling_table
from qwen3vl_rl.evaluation.scoring import published
from qwen3vl_rl.evaluation.scoring.results import read_scaling


def test_points_hold_what_the_runs_measured(scaled):
    results = read_scaling(scaled)
    assert [result.name for result in results["tiny"]] == ["free", "answers-4", "budget-16"]
    points = {(point.curve, point.label): point for point in measure(results)}
    assert set(points) == {("tiny", "free"), ("tiny", "16"), ("tiny, several answers", "4")}
    free = points["tiny", "free"]
    assert (free.acc, free.tokens, free.latency_s) == (1.0, 30.0, 0.25)
    assert scaling_table(results).rows[0][:3] == ("tiny", "free", "100.0")


def test_published_points_are_comparable_to_complete_refcoco_results_only(scaled):
    results = read_scaling(scaled)
    assert not is_on_refcoco(results)
    for result in results["tiny"]:
        result.summary["average"]["of"] = [*published.splits()]
        result.summary["splits"] = {name: {"samples": split.samples} for name, split in published.splits().items()}
    assert is_on_refcoco(results)
    results["tiny"][0].summary["splits"]["refcoco_val"]["samples"] -= 1
    assert not is_on_refcoco(results), "a part of a split is not what was published"


def test_the_figure_is_drawn_with_and_without_results(scaled, tmp_path):
    draw_results(tmp_path / "published.png", [])
    draw_results(tmp_path / "ours.png", [scaled])
    widths = [Image.open(tmp_path / name).size[0] for name in ("published.png", "ours.png")]
    assert widths[1] == 1.5 * widths[0]  # a second panel


def test_other_folders_are_left_alone_and_a_model_given_twice_is_named(scaled, tmp_path):
    shutil.copytree(scaled / "tiny" / "free", scaled / "tiny" / "free-old")
    assert [result.name for result in read_scaling(scaled)["tiny"]] == ["free", "answers-4", "budget-16"]
    with pytest.raises(InputError, match="found tiny again"):
        draw_results(tmp_path / "figure.png", [scaled, scaled])


def test_a_folder_without_results_is_named(tmp_path):
    with pytest.raises(InputError, match="found none"):
        draw_results(tmp_path / "figure.png", [tmp_path])
