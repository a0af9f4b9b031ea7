"""Groups of samples by words, length, size and hidden part."""

from dataclasses import replace

import pytest

from qwen3vl_rl.evaluation.scoring.groups import (
    GROUPINGS,
    OCCLUSIONS,
    box_size,
    expression_length,
    expression_types,
    occlusion,
)


@pytest.mark.parametrize(
    ("sent", "types"),
    [
        ("the man", ["plain"]),
        ("Red shirt", ["attribute"]),
        ("left guy", ["location"]),
        ("the cup next to the plate", ["relation"]),
        ("2nd one", ["ordinal"]),
        ("the third red cup from the left", ["attribute", "location", "ordinal"]),
        ("the woman left of the car", ["location", "relation"]),
        ("the bred", ["plain"]),  # only whole words count
    ],
)
def test_expressions_are_sorted_by_their_words(sent, types):
    assert expression_types(sent) == types


def test_lengths_count_words():
    lengths = [expression_length(" ".join(["word"] * count)) for count in (1, 3, 4, 7, 8, 40)]
    assert lengths == ["1 to 3 words"] * 2 + ["4 to 7 words"] * 2 + ["8 or more words"] * 2


def test_boxes_are_sorted_by_their_share_of_the_image(make_prediction):
    row = make_prediction(0, True)  # 1000 x 1000
    sizes = [box_size(replace(row, xyxy_px=(0, 0, side, side))) for side in (100, 223, 300, 447, 448, 1000)]
    assert sizes == ["below 5 % of the image"] * 2 + ["5 to 20 %"] * 2 + ["above 20 %"] * 2


def test_occlusion_is_what_the_visible_box_leaves_out(make_prediction):
    row = make_prediction(0, True)
    whole = (0, 0, 100, 100)
    hidden = [occlusion(replace(row, xyxy_px=whole, modal_xyxy_px=(0, 0, 100, y))) for y in (100, 90, 60, 59)]
    up_to_10, up_to_40, more = OCCLUSIONS
    assert hidden == [up_to_10, up_to_10, up_to_40, more]


def test_every_sample_is_in_groups_that_are_shown(make_prediction):
    row = make_prediction(0, True)
    for grouping in GROUPINGS.values():
        assert set(grouping.groups_of(row)) <= set(grouping.groups)
