"""Boxes match the pixels, and scenes are deterministic by seed."""

import random

import numpy as np
import pytest

from qwen3vl_rl.data.refshapes.scenes import COLOURS, HEIGHT, SHAPES, SIDES_PX, WIDTH, sample_scene, stencil
from qwen3vl_rl.grounding import iou


def test_visible_boxes_are_the_pixels_that_show(drawn):
    for referral in drawn[:300]:
        for i, shape in enumerate(referral.scene.shapes):
            rows, columns = np.nonzero(referral.scene.index == i + 1)
            assert shape.visible_px == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            x1, y1, x2, y2 = shape.amodal_px
            assert 0 <= x1 < x2 <= WIDTH and 0 <= y1 < y2 <= HEIGHT
            assert shape.hidden_by is not None or shape.visible_px == shape.amodal_px
            assert iou(shape.visible_px, shape.amodal_px) > 0


def test_rendered_colours_are_the_named_ones(drawn):
    scene = drawn[0].scene
    image = scene.render()
    for i, shape in enumerate(scene.shapes):
        assert {tuple(int(v) for v in pixel) for pixel in image[scene.index == i + 1]} == {COLOURS[shape.colour]}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("side_px", [bound for bounds in SIDES_PX.values() for bound in bounds])
def test_stencils_fill_their_extent(shape, side_px):
    mask = stencil(shape, side_px)
    assert mask.any(0).all() and mask.any(1).all()
    assert 0.9 * side_px - 1 <= max(mask.shape) <= side_px


def test_scenes_depend_only_on_the_seed():
    first, second = (sample_scene(random.Random(5)) for _ in range(2))
    assert first.shapes == second.shapes and (first.index == second.index).all()
