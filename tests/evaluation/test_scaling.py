"""Test-time scaling: which ways a model is run, and what is drawn of them."""

import shutil

import matplotlib.pyplot as plt
import pytest
from PIL import Image

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.evaluation.reporting.tradeoff import STYLES, Measured, _ours
from qwen3vl_rl.evaluation.scaling import draw_results, is_on_refcoco, measure, read_scaling, scaling_table, variants
from qwen3vl_rl.evaluation.scoring import published
from qwen3vl_rl.evaluation.serving.settings import load_settings


@pytest.fixture
def scaled(finished_runs, tmp_path):
    """A folder of one model's finished variants."""
    out = tmp_path / "scaling"
    (out / "tiny").mkdir(parents=True)
    for run, name in zip(finished_runs, ("answers-4", "budget-16", "free"), strict=True):
        run.rename(out / "tiny" / name)
    return out


def test_variants_change_the_budget_or_the_number_of_answers():
    ways = variants(load_settings(), budgets=[0, 64], answers=[4])
    assert list(ways) == ["free", "budget-0", "budget-64", "answers-4"]
    assert ways["free"] == load_settings()
    assert ways["budget-0"] == load_settings(reasoning_tokens=0)
    assert ways["answers-4"] == load_settings(answers=4, temperature=0.7, top_p=0.9, top_k=50)
    own = load_settings(temperature=1.0)
    assert variants(own, [], [2])["answers-2"] == load_settings(temperature=1.0, answers=2)


def test_a_budget_that_leaves_no_answer_is_refused():
    with pytest.raises(InputError, match="reasoning_tokens"):
        variants(load_settings(max_tokens=64), budgets=[64], answers=[])


def test_points_hold_what_the_runs_measured(scaled):
    results = read_scaling(scaled)
    assert [result.name for result in results["tiny"]] == ["free", "answers-4", "budget-16"]
    points = {(point.curve, point.label): point for point in measure(results)}
    assert set(points) == {("tiny", "free"), ("tiny", "16"), ("tiny, several answers", "4")}
    free = points["tiny", "free"]
    assert (free.acc, free.tokens, free.latency_s) == (1.0, 30.0, 0.25)
    assert scaling_table(results).rows[0][:3] == ("tiny", "free", "100.0")


def test_published_points_stand_beside_refcoco_alone(scaled):
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


def test_a_variant_with_samples_to_go_is_left_out(scaled):
    rows = scaled / "tiny" / "free" / "predictions.jsonl"
    rows.write_text("".join(rows.read_text().splitlines(keepends=True)[:-1]))
    assert [result.name for result in read_scaling(scaled)["tiny"]] == ["answers-4", "budget-16"]


def test_more_curves_than_colours_are_all_drawn():
    _, axes = plt.subplots()
    _ours(axes, [Measured(f"model {i}", "free", 10.0, 1.0, 0.5, None) for i in range(9)], lambda point: point.tokens)
    assert len(axes.containers) == 9
    plt.close()


def test_a_folder_without_results_is_named(tmp_path):
    with pytest.raises(InputError, match="found none"):
        draw_results(tmp_path / "figure.png", [tmp_path])


@pytest.mark.parametrize("name", ["figure.xyz", "figure", ".png"])
def test_a_figure_of_no_known_kind_is_named(name, tmp_path):
    with pytest.raises(InputError, match=r"expected a name that ends in one of .*png"):
        draw_results(tmp_path / name, [])
    assert not any(tmp_path.iterdir())


def test_every_published_family_has_a_style_and_every_row_its_nine_numbers():
    assert {point.family for point in published.points()} == set(STYLES)
    assert {len(accs) for accs in published.table().values()} == {len(published.splits()) + 1}
    for accs in published.table().values():
        assert sum(accs[:-1]) / 8 == pytest.approx(accs[-1], abs=0.051)
