import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen3vl_rl.grounding import (
    box_1000_to_px,
    eval_iou,
    iou,
    order_corners,
    px_to_1000,
    reward_iou,
    xywh_to_xyxy,
    xyxy_to_xywh,
)

SIZES = st.integers(1, 4000)
COORDINATES = st.floats(-2000, 2000)
ANY_BOXES = st.tuples(COORDINATES, COORDINATES, COORDINATES, COORDINATES)
BOXES_1000 = st.tuples(*[st.integers(0, 1000)] * 4).map(order_corners)


@st.composite
def boxes_in_image(draw):
    """(xyxy_px with an area, width, height) with the box inside the image."""
    width, height = draw(st.integers(2, 4000)), draw(st.integers(2, 4000))
    x1, y1 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    x2, y2 = draw(st.integers(x1 + 1, width)), draw(st.integers(y1 + 1, height))
    return (x1, y1, x2, y2), width, height


@given(st.tuples(*[st.integers(-5000, 5000)] * 4))
def test_xywh_and_xyxy_are_inverse(box):
    assert xywh_to_xyxy(xyxy_to_xywh(box)) == box
    assert xyxy_to_xywh(xywh_to_xyxy(box)) == box


def test_xywh_and_xyxy_by_hand():
    assert xywh_to_xyxy((10, 20, 5, 6)) == (10, 20, 15, 26)
    assert xyxy_to_xywh((10, 20, 15, 26)) == (10, 20, 5, 6)


@given(ANY_BOXES)
def test_order_corners_orders_and_keeps_values(box):
    x1, y1, x2, y2 = order_corners(box)
    assert x1 <= x2 and y1 <= y2
    assert sorted((x1, x2)) == sorted(box[::2]) and sorted((y1, y2)) == sorted(box[1::2])
    assert order_corners((box[2], box[3], box[0], box[1])) == (x1, y1, x2, y2)


@pytest.mark.parametrize(
    ("box_1000", "size", "expected_px"),
    [
        ((0, 0, 1000, 1000), (640, 480), (0, 0, 639, 479)),  # 1000 is the image's edge, the last pixel is size - 1
        ((250, 500, 750, 900), (640, 480), (160, 240, 480, 432)),
        ((500, 500, 900, 900), (5, 7), (2, 4, 4, 6)),  # 2.5 -> 2 and 3.5 -> 4: Python rounds half to even
        ((-20, -1, 1020, 1300), (100, 100), (0, 0, 99, 99)),
        ((500, 500, 500, 500), (100, 100), (50, 50, 51, 51)),  # ends that become equal are widened by one pixel
        ((1000, 1000, 1000, 1000), (100, 100), (99, 99, 99, 99)),  # unless the image ends there
        ((300, 300, 600, 600), (1, 1), (0, 0, 0, 0)),
        ((300, 300, 600, 600), (1, 100), (0, 30, 0, 60)),
        ((800, 900, 200, 100), (10, 10), (8, 9, 2, 1)),  # swapped corners stay swapped
        ((1e308, -1e308, 1e308, 1e308), (1000, 1000), (999, 0, 999, 999)),
    ],
)
def test_scaling_to_pixels_by_hand(box_1000, size, expected_px):
    box_px = box_1000_to_px(box_1000, *size)
    assert box_px == expected_px
    assert all(type(value) is int for value in box_px)


@given(ANY_BOXES, SIZES, SIZES)
def test_scaling_to_pixels_follows_the_written_rule(box, width, height):
    def axis(low, high, size):
        low = min(max(round(low * size / 1000), 0), size - 1)
        high = min(max(round(high * size / 1000), 0), size - 1)
        if low == high and size > 1:
            high = min(low + 1, size - 1)
        return low, high

    (x1, x2), (y1, y2) = axis(box[0], box[2], width), axis(box[1], box[3], height)
    assert box_1000_to_px(box, width, height) == (x1, y1, x2, y2)


@given(boxes_in_image())
def test_pixels_survive_the_round_trip(case):
    box_px, width, height = case
    back = box_1000_to_px(px_to_1000(box_px, width, height), width, height)
    for before, after, size in zip(box_px, back, (width, height, width, height), strict=True):
        # Each rounding loses up to half a unit (thousandth, pixel), and clamping or widening up to a pixel.
        assert abs(before - after) <= size / 2000 + 0.5 + 1


@given(BOXES_1000, st.integers(2000, 4000), st.integers(2000, 4000))
def test_thousandths_survive_the_round_trip_through_a_large_image(box_1000, width, height):
    back = px_to_1000(box_1000_to_px(box_1000, width, height), width, height)
    assert all(abs(before - after) <= 1 for before, after in zip(box_1000, back, strict=True))


@given(ANY_BOXES, SIZES, SIZES)
def test_px_to_1000_gives_integers_in_range(box_px, width, height):
    box_1000 = px_to_1000(box_px, width, height)
    assert all(type(value) is int and 0 <= value <= 1000 for value in box_1000)


def test_px_to_1000_by_hand():
    assert px_to_1000((160, 240, 480, 432), 640, 480) == (250, 500, 750, 900)
    assert px_to_1000((-3, 0, 700, 480), 640, 480) == (0, 0, 1000, 1000)


@given(ANY_BOXES, ANY_BOXES)
def test_iou_is_symmetric_and_in_range(a, b):
    assert iou(a, b) == iou(b, a)
    assert 0 <= iou(a, b) <= 1


@given(boxes_in_image())
def test_iou_of_a_box_with_itself_is_1(case):
    assert iou(case[0], case[0]) == 1


@given(boxes_in_image(), st.integers(-50, 50), st.integers(-50, 50))
def test_iou_counts_pixels(case, dx, dy):
    """Compare with sets of pixels: shared pixels divided by covered pixels."""
    x1, y1, x2, y2 = (value % 40 for value in case[0])
    a = order_corners((x1, y1, x2, y2))
    b = order_corners((x1 + dx, y1 + dy, x2 + dy, y2 + dx))
    pixels_a, pixels_b = ({(x, y) for x in range(c[0], c[2]) for y in range(c[1], c[3])} for c in (a, b))
    covered = pixels_a | pixels_b
    assert iou(a, b) == (len(pixels_a & pixels_b) / len(covered) if covered else 0)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 0, 2, 2), (1, 1, 3, 3), 1 / 7),
        ((0, 0, 2, 2), (2, 0, 4, 2), 0),  # shared edges do not overlap
        ((0, 0, 10, 10), (0, 0, 5, 10), 0.5),
        ((5, 5, 5, 5), (5, 5, 5, 5), 0),
        ((10, 10, 0, 0), (0, 0, 10, 10), 0),  # swapped corners overlap nothing
        ((float("nan"), 0, 1, 1), (0, 0, 1, 1), 0),
    ],
)
def test_iou_by_hand(a, b, expected):
    assert iou(a, b) == expected


def test_reward_rounds_the_truth_and_the_evaluation_does_not():
    pred_1000, truth_1000, truth_px = (100, 100, 500, 500), (101, 101, 501, 501), (10.1, 10.1, 50.1, 50.1)
    assert reward_iou(pred_1000, truth_1000, 100, 100) == 1
    assert eval_iou(pred_1000, truth_px, 100, 100) == iou((10, 10, 50, 50), truth_px) < 1


@given(boxes_in_image(), BOXES_1000)
def test_reward_and_evaluation_iou_agree_on_a_truth_of_whole_thousandths(case, pred_1000):
    """The two conventions agree if rounding and clamping do not change the true box."""
    _, width, height = case
    truth_1000 = px_to_1000(case[0], width, height)
    truth_px = box_1000_to_px(truth_1000, width, height)
    assert reward_iou(pred_1000, truth_1000, width, height) == eval_iou(pred_1000, truth_px, width, height)
