"""The longer-or-bigger figure is drawn from collected results, and other files are rejected."""

import json

import pytest

from images.draw_longer_vs_bigger import Results, draw
from qwen3vl_rl.errors import InputError


def model(parameters: int, acc: float, **changes) -> dict:
    found = {"acc": acc, "interval": [acc - 0.02, acc + 0.02]}
    splits = dict.fromkeys(("refshapes_asked", "refshapes_simple"), found)
    kinds = {kind: found | {"samples": 10} for kind in ("attribute", "relation")}
    return {
        "parameters": parameters, "language_parameters": parameters, "tokens": 50, "splits": splits, "average": found,
        "kinds": kinds,
    } | changes  # fmt: skip


@pytest.fixture
def figure(tmp_path):
    models = {
        "b/base": model(20_000_000, 0.7),
        "a/base": model(5_000_000, 0.5),
        "ablations/rl-efficient_50": model(5_000_000, 0.7),
    }
    models |= {f"a/direct-{seed}": model(5_000_000, 0.6 + seed / 50) for seed in range(3)}
    models |= {f"a/rl-{seed}": model(5_000_000, 0.8 + seed / 25, tokens=100) for seed in range(3)}
    models["b/direct-0"] = model(20_000_000, 0.7)
    cut = {"tokens": 40, "average": {"acc": 0.8, "interval": [0.8, 0.8]}}
    budgets = {"rl-a-0": {"free": cut, "budget-128": cut | {"tokens": 42}, "budget-0": cut | {"tokens": 20}}}
    curve = {"step": [2, 4], "acc": [0.7, 0.8], "tokens": [80, 110]}
    content = {"models": models, "learning": {"rl-a-0": curve, "study_rl-35-0": curve}, "budgets": budgets}
    (tmp_path / "results.json").write_text(json.dumps(content))
    results = Results(tmp_path / "results.json")
    assert results.rungs == ["a", "b"] and len(results.pairs("a")) == 3 and not results.pairs("b")
    return draw(results)


def test_a_line_joins_direct_answers_and_an_arrow_leads_to_rl(figure):
    axis = figure.axes[0]
    (line,) = (line for line in axis.lines if line.get_linestyle() == ":")
    assert line.get_xydata().ravel().tolist() == pytest.approx([0.5, 62, 2, 70])
    (arrow,) = (text for text in axis.texts if not text.get_text())
    assert (*arrow.xyann, *arrow.xy) == pytest.approx((0.5, 62, 1, 84))


def test_gains_are_paired_by_seed(figure):
    axis = figure.axes[1]
    assert [bar.get_height() for bar in axis.patches] == pytest.approx([22, 22])  # 20, 22 and 24 points
    assert [bar.get_x() + bar.get_width() / 2 for bar in axis.patches] == pytest.approx([0, 1])
    low, high = axis.containers[0].lines[2][0].get_segments()[0][:, 1]
    assert (low, high) == pytest.approx((20, 24))


def test_budgets_are_drawn_in_order_at_their_mean_tokens(figure):
    line = figure.axes[3].containers[-1].lines[0]
    assert line.get_xydata().ravel().tolist() == pytest.approx([20, 80, 42, 80, 40, 80])


def test_learning_curves_of_the_ladder_have_accuracy_and_tokens(figure):
    accuracy, tokens = figure.axes[2], figure.axes[4]
    assert [axis.lines[0].get_xydata().ravel().tolist() for axis in (accuracy, tokens)] == [
        [2, 70, 4, 80],
        [2, 80, 4, 110],
    ]
    assert len(accuracy.lines) == len(tokens.lines) == 1


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        "[]",
        "no json",
        '{"models": null}',
        '{"models": ["a/base"]}',
        '{"models": {}}',
        '{"models": {"a/base": {}}}',
        json.dumps({"models": {"a/base": model(1, 0.5)}}),
        json.dumps({"models": {"a/base": model(1, 0.5, kinds=None)}}),
        json.dumps({"models": {"oracle-a/base": model(1, 0.5)}}),
    ],
)
def test_other_files_are_rejected(tmp_path, content):
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"results\.json: expected"):
        Results(path)
