"""The teaser shows the published numbers, and says that its scene and answers are an illustration."""

import itertools
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from images import draw_teaser
from images.draw_teaser import SIZE_PX, draw, enlarge, illustrated, sides
from qwen3vl_rl.evaluation.scoring import published


@pytest.fixture(scope="module")
def figure():
    figure = draw()
    figure.canvas.draw()
    yield figure
    plt.close(figure)


@pytest.fixture(scope="module")
def texts(figure):
    return [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]


def test_the_numbers_are_the_published_ones(texts):
    shown = [text.get_text() for text in texts]
    latency_ms = {(point.family, point.size): point.latency_ms for point in published.points()}
    large_ms, small_ms = latency_ms["Qwen3-VL-Instruct", "235B"], latency_ms["EGM", "8B"]
    assert (large_ms, small_ms) == (4320, 737)
    assert f"{large_ms:,} ms" in shown and f"{small_ms} ms, {large_ms / small_ms:.1f} times faster" in shown
    for side in sides():
        assert f"{published.table()[side.name][-1]} %" in shown
        assert side.point.size in shown and side.point.size in side.name
    assert {"42", "101"} <= set(shown)


def test_one_expression_and_both_answers_are_shown_and_called_an_illustration(texts):
    shown = "\n".join(text.get_text() for text in texts)
    assert "“the second star from the left”" in shown and "illustration" in shown and "2601.13633" in shown
    assert shown.count("[294, 516, 444, 703]") == 2
    assert "Stars from left to right:\norange, purple, blue.\nThe second one is purple." in shown


def test_no_text_overlaps_another_or_leaves_the_figure(figure, texts):
    boxes = {text: text.get_window_extent() for text in texts}
    width, height = figure.canvas.get_width_height()
    assert width / height == pytest.approx(SIZE_PX[0] / SIZE_PX[1])
    for box in boxes.values():
        assert box.x0 > 0 and box.y0 > 0 and box.x1 < width and box.y1 < height
    overlapping = [
        (a.get_text(), b.get_text()) for a, b in itertools.combinations(texts, 2) if boxes[a].overlaps(boxes[b])
    ]
    assert not overlapping


def test_the_enlarged_scene_is_the_scene():
    scene = illustrated().scene
    assert np.mean(np.any(enlarge(scene, 4)[2::4, 2::4] != scene.render(), axis=-1)) < 0.01


def test_the_command_writes_the_figure(monkeypatch, tmp_path):
    out = tmp_path / "teaser.png"
    monkeypatch.setattr(sys, "argv", ["draw_teaser", "--out", str(out)])
    draw_teaser.main()
    with Image.open(out) as image:
        assert image.size == (2 * SIZE_PX[0], 2 * SIZE_PX[1])
