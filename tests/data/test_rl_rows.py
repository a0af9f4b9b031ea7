"""The row check of the RL parquet, and its faster version by column."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qwen3vl_rl.data import rl_rows
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.grounding import NO_REFERENT

GOOD = {"reward_model": {"ground_truth": [1, 2, 3, 4]}, "extra_info": {"width": 9, "height": 9}}


def info(width: object, height: object = 9) -> dict:
    return {"extra_info": {"width": width, "height": height}}


def truth(value: object) -> dict:
    return {"reward_model": {"ground_truth": value}}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (info(None), "extra_info.width"),
        (info(9, 0), "extra_info.height"),
        (info(9, -1), "extra_info.height"),
        ({"extra_info": None}, "extra_info"),
        ({"reward_model": None}, "reward_model"),
        (truth(None), "reward_model.ground_truth"),
        (truth([]), "reward_model.ground_truth"),
        (truth([1, 2, 3]), "reward_model.ground_truth"),
        (truth([1, 2, 3, 4, 5]), "reward_model.ground_truth"),
        (truth([1, 2, 3, None]), "reward_model.ground_truth"),
        (truth([1, 2, 3, 1001]), "reward_model.ground_truth"),
        (truth([-1, 2, 3, 4]), "reward_model.ground_truth"),
        (truth([1200, 300, 1900, 900]), "reward_model.ground_truth"),
        (truth([0, 0, 0, 0]), "reward_model.ground_truth"),
        (truth([5, 5, 5, 5]), "reward_model.ground_truth"),
        (truth([3, 4, 1, 2]), "reward_model.ground_truth"),
        (truth([0, 0, 1, 1]), "reward_model.ground_truth"),
    ],
)
def test_row_check_and_column_check_raise_the_same_error(tmp_path, change, field):
    path = tmp_path / "rows.parquet"
    rows = [GOOD] * (rl_rows.CHECK_ROWS + 1) + [GOOD | change, GOOD]
    pq.write_table(pa.Table.from_pylist(rows), path)
    by_column, alone = pytest.raises(InputError), pytest.raises(InputError)
    with by_column as found:
        rl_rows.check_size_and_truth(path)
    with alone as expected:
        rl_rows.read_size_and_truth(path, rl_rows.CHECK_ROWS + 2, GOOD | change)
    assert str(found.value) == str(expected.value)
    assert f'row {rl_rows.CHECK_ROWS + 2}: field "{field}"' in str(found.value)


@pytest.mark.parametrize(
    ("row", "field"),
    [
        (GOOD | info(9.0), "extra_info.width"),
        (GOOD | {"extra_info": {"width": 9}}, "extra_info.height"),
        (GOOD | {"extra_info": "x"}, "extra_info"),
        (GOOD | truth("1234"), "reward_model.ground_truth"),
        (GOOD | truth([1.0, 2.0, 3.0, float("nan")]), "reward_model.ground_truth"),
        (GOOD | truth([True, False, True, True]), "reward_model.ground_truth"),
    ],
)
def test_wrong_column_types_are_named(tmp_path, row, field):
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "rows.parquet")
    with pytest.raises(InputError, match=f'row 1: field "{field}"'):
        rl_rows.check_size_and_truth(tmp_path / "rows.parquet")


def test_rows_without_a_referent_have_a_null_box(tmp_path):
    absent = GOOD | truth(None) | {"data_source": NO_REFERENT}
    pq.write_table(pa.Table.from_pylist([GOOD | {"data_source": "x"}, absent]), tmp_path / "rows.parquet")
    rl_rows.check_size_and_truth(tmp_path / "rows.parquet")
    assert rl_rows.read_size_and_truth(tmp_path, 1, absent)[2] is None
    pq.write_table(pa.Table.from_pylist([absent | truth([1, 2, 30, 40])]), tmp_path / "rows.parquet")
    with pytest.raises(InputError, match=r"ground_truth\": expected null, because data_source is no_referent, got"):
        rl_rows.check_size_and_truth(tmp_path / "rows.parquet")


def test_bad_visible_boxes_are_named(tmp_path):
    wrong = GOOD["extra_info"] | {"modal_xyxy_1000": [1, 2, 3]}
    pq.write_table(pa.Table.from_pylist([GOOD | {"extra_info": wrong}]), tmp_path / "rows.parquet")
    with pytest.raises(InputError, match=r"row 1: field \"extra_info.modal_xyxy_1000\": expected four numbers"):
        rl_rows.check_size_and_truth(tmp_path / "rows.parquet")


@pytest.mark.parametrize("value", [[1, 2, 3, 4], [0, 0, 1000, 1000], [0.5, 0.5, 9.6, 9.5], [0, 0, 1000.01, 500]])
def test_valid_rows_pass(tmp_path, value):
    pq.write_table(pa.Table.from_pylist([GOOD | truth(value)] * 3), tmp_path / "rows.parquet")
    rl_rows.check_size_and_truth(tmp_path / "rows.parquet")
