"""Box checks in px and in 0..1000, by row and by column."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from qwen3vl_rl.data.boxes import BoxError, check_box_1000, check_box_px, surely_boxes_1000
from qwen3vl_rl.data.pictures import refused_size
from qwen3vl_rl.grounding import px_to_1000, scale_to_px

FILE = Path("f.jsonl")
SIZES = st.integers(1, 5000)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([0.05, 0.033, 0.3, 0.2], "looks normalised to 0..1"),
        ([0, 0, 1, 1], "looks normalised to 0..1"),
        ([0, 0, 1.9, 1.4], "looks normalised to 0..1"),  # [0, 0, 1, 1] after rounding
        ([10, 20, 10.4, 80], "an area after rounding"),
        ([0, 0, 0, 0], "inside the 2000x1000 image"),
        ([10, 20, 10, 80], "inside the 2000x1000 image"),
        ([1, 2, 3, float("nan")], "inside the 2000x1000 image"),
        ("1234", "inside the 2000x1000 image"),
        (None, "inside the 2000x1000 image"),
    ],
)
def test_bad_boxes_in_px_are_rejected(value, message):
    with pytest.raises(BoxError, match=rf'f\.jsonl: row 3: field "bbox": expected .*{message}'):
        check_box_px(FILE, 3, "bbox", value, 2000, 1000)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1200, 300, 1900, 900], "four numbers in 0..1000"),  # px
        ([0.05, 0.033, 0.3, 0.2], "looks normalised to 0..1"),
        ([0, 0, 1, 1], "looks normalised to 0..1"),
        ([0, 0, 0, 0], "an area after rounding"),
        ([5, 5, 5.4, 9], "an area after rounding"),
        ([9, 9, 5, 5], "an area after rounding"),
        ([1, 2, 3, float("nan")], "four numbers in 0..1000"),
        ([1, 2, 3, None], "four numbers in 0..1000"),
        (["1", "2", "3", "4"], "four numbers in 0..1000"),
        ("1234", "four numbers in 0..1000"),
        ([True, False, True, True], "four numbers in 0..1000"),
        (None, "four numbers in 0..1000"),
    ],
)
def test_bad_boxes_in_0_to_1000_are_rejected(value, message):
    with pytest.raises(BoxError, match=rf"expected .*{message}"):
        check_box_1000(FILE, 3, "reward_model.ground_truth", value, 2000, 1000)


def passes(check, *arguments) -> bool:
    try:
        check(FILE, 1, "box", *arguments)
    except BoxError:
        return False
    return True


SHARES = st.one_of(st.floats(0, 1), st.floats(0, 0.003))


@given(st.tuples(SHARES, SHARES, SHARES, SHARES), SIZES, SIZES)
@example((0, 0, 0.001, 0.001), 2000, 2000)
@example((0, 0, 0.0015, 0.0015), 2000, 2000)
@example((0, 0, 0.0011939755726072048, 0.125), 838, 5)
def test_boxes_accepted_in_px_are_accepted_after_rounding(shares, width, height):
    x1, y1, x2, y2 = scale_to_px([1000 * share for share in shares], width, height)
    box = [min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)]
    assume(not refused_size(width, height) and passes(check_box_px, box, width, height))
    xyxy_px = check_box_px(FILE, 1, "box", box, width, height)
    rounded = list(px_to_1000(xyxy_px, width, height))
    assert check_box_1000(FILE, 1, "box", rounded, width, height) == tuple(rounded)
    assert passes(check_box_px, scale_to_px(rounded, width, height), width, height)


@given(st.lists(st.one_of(st.floats(), st.integers(-1, 1001).map(float)), min_size=4, max_size=4))
def test_column_check_agrees_with_row_check(box):
    is_sure = surely_boxes_1000(np.array([box]), np.array([[2000, 1000]]))[0]
    is_large = all(box[k + 2] - box[k] > 4 for k in (0, 1))
    passed = passes(check_box_1000, box, 2000, 1000)
    assert passed if is_sure else not (passed and is_large)


@pytest.mark.parametrize("xyxy_px", [(99.5, 0, 100, 50), (0, 98.7, 50, 100), (99.4, 0, 99.6, 50)])
def test_boxes_without_a_whole_pixel_are_rejected(xyxy_px):
    """Reward and evaluation round answers to pixels inside the image, so every answer to such a box would score 0."""
    with pytest.raises(BoxError, match="whole px"):
        check_box_px(FILE, 1, "bbox", xyxy_px, 100, 100)
    with pytest.raises(BoxError, match="whole px"):
        check_box_1000(FILE, 1, "bbox", [10 * v for v in xyxy_px], 100, 100)
