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
        "parameters": parameters, "splits": splits, "average": found, "kinds": kinds,
    } | changes  # fmt: skip


@pytest.fixture
def figure(tmp_path):
    models = {
        "b/base": model(20_000_000, 0.7),
        "a/base": model(5_000_000, 0.5),
        "oracle-a/direct": model(5_000_000, 0.8),
    }
    models |= {f"a/direct-{seed}": model(5_000_000, 0.6 + seed / 50) for seed in range(3)}
    models |= {f"a/rl-{seed}": model(5_000_000, 0.8 + seed / 25) for seed in range(3)}
    models["b/direct-0"] = model(20_000_000, 0.7)
    latency = {"a/direct-0": 0.06, "a/rl-0": 0.084, "b/direct-0": 0.07}
    latency = {name: {"alone_s": seconds} for name, seconds in latency.items()}
    cut = {"tokens": 40, "average": {"acc": 0.8, "interval": [0.8, 0.8]}}
    budgets = {"rl-a-0": {"free": cut, "budget-128": cut | {"tokens": 42}, "budget-0": cut | {"tokens": 20}}}
    content = {"models": models, "latency": latency, "budgets": budgets}
    (tmp_path / "results.json").write_text(json.dumps(content))
    results = Results(tmp_path / "results.json")
    assert results.rungs == ["a", "b"] and len(results.pairs("a")) == 3 and not results.pairs("b")
    return draw(results)


def test_a_line_joins_direct_answers_and_an_arrow_leads_to_rl(figure):
    axis = figure.axes[0]
    (line,) = (line for line in axis.lines if line.get_linestyle() == ":")
    assert line.get_xydata().ravel().tolist() == pytest.approx([60, 62, 70, 70])
    (arrow,) = (text for text in axis.texts if not text.get_text())
    assert (*arrow.xyann, *arrow.xy) == pytest.approx((60, 62, 84, 84))


def test_gains_are_paired_by_seed(figure):
    axis = figure.axes[1]
    assert [bar.get_height() for bar in axis.patches] == pytest.approx([22, 22])  # 20, 22 and 24 points
    assert [bar.get_x() + bar.get_width() / 2 for bar in axis.patches] == pytest.approx([0, 1])
    low, high = axis.containers[0].lines[2][0].get_segments()[0][:, 1]
    assert (low, high) == pytest.approx((20, 24))


def test_budgets_are_drawn_in_order_at_their_mean_tokens(figure):
    (line,) = figure.axes[3].containers[0].lines[:1]
    assert line.get_xydata().ravel().tolist() == pytest.approx([20, 80, 42, 80, 40, 80])


def test_the_oracle_panel_shows_both_wordings(figure):
    assert {text.get_text() for text in figure.axes[2].get_legend().get_texts()} == {"asked, direct", "simple, direct"}


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        "[]",
        "no json",
        '{"models": {}}',
        '{"latency": {}, "models": null}',
        '{"latency": {}, "models": ["a/base"]}',
        '{"latency": {}, "models": {}}',
        '{"latency": {}, "models": {"a/base": {}}}',
        json.dumps({"latency": {}, "models": {"a/base": model(1, 0.5)}}),
        json.dumps({"latency": {}, "models": {"a/base": model(1, 0.5, kinds=None)}}),
        json.dumps({"latency": {}, "models": {"oracle-a/base": model(1, 0.5)}}),
    ],
)
def test_other_files_are_rejected(tmp_path, content):
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"results\.json: expected"):
        Results(path)
