"""Figures of accuracy against latency and tokens."""

import matplotlib.pyplot as plt
import pytest

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.evaluation.reporting.figures import STYLES, Measured, _ours, draw
from qwen3vl_rl.evaluation.scoring import published


def test_more_curves_than_colours_are_all_drawn():
    _, axes = plt.subplots()
    _ours(axes, [Measured(f"model {i}", "free", 10.0, 1.0, 0.5, None) for i in range(9)], lambda point: point.tokens)
    assert len(axes.containers) == 9
    plt.close()


@pytest.mark.parametrize("name", ["figure.xyz", "figure", ".png"])
def test_a_figure_of_no_known_kind_is_named(name, tmp_path):
    with pytest.raises(InputError, match=r"expected a name that ends in one of .*png"):
        draw(tmp_path / name, [], with_published=True)
    assert not any(tmp_path.iterdir())


def test_every_published_family_has_a_style():
    assert {point.family for point in published.points()} == set(STYLES)
