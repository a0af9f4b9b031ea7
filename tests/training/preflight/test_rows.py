import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.training.preflight import rows


def test_rows_are_counted_and_their_images_must_be_there(config, tmp_path, write_rows):
    assert rows.check_rows(config, "data.train_files") == 8
    write_rows(tmp_path / "more.parquet", [str(tmp_path / "image.png"), str(tmp_path / "gone.png")])
    config.data.train_files = [config.data.train_files, str(tmp_path / "more.parquet")]
    with pytest.raises(InputError, match=r'more\.parquet: row 2: field "images": expected an image that exists'):
        rows.check_rows(config, "data.train_files")


@pytest.mark.parametrize(
    ("content", "message"), [(b"text", "expected parquet written by qwen3vl_rl"), (None, "found no column images")]
)
def test_other_files_are_refused(tmp_path, content, message):
    if content:
        (tmp_path / "file").write_bytes(content)
    else:
        pq.write_table(pa.table({"prompt": ["x"]}), tmp_path / "file")
    with pytest.raises(InputError, match=message):
        rows.check_file(tmp_path / "file")


def test_steps_must_come_from_the_rows(config):
    rows.check_steps(config, rows=8)
    config.trainer.total_training_steps = 6
    rows.check_steps(config, rows=8)
    config.trainer.total_training_steps = 7
    with pytest.raises(InputError, match=r"end after 6 steps; trainer\.total_epochs=4 gives enough"):
        rows.check_steps(config, rows=8)
    with pytest.raises(InputError, match="expected at most the 3 rows"):
        rows.check_steps(config, rows=3)


@pytest.mark.slow
def test_rows_without_what_the_reward_reads_are_named(recipe, tmp_path):
    good = {"reward_model": {"ground_truth": [1, 2, 3, 4]}, "extra_info": {"width": 9, "height": 9}}
    for change, field in (
        ({"extra_info": {"width": None, "height": 9}}, "extra_info.width"),
        ({"reward_model": {"ground_truth": [1]}}, "reward_model.ground_truth"),
    ):
        pq.write_table(pa.Table.from_pylist([good, good | change]), tmp_path / "rows.parquet")
        config = recipe(f"data.train_files={tmp_path}/rows.parquet")
        with pytest.raises(InputError, match=f'row 2: field "{field}"'):
            rows.check_reward_columns(config, "data.train_files")


def test_rows_that_nothing_fits_need_the_strict_parser(tmp_path):
    row = {
        "data_source": "no_referent",
        "reward_model": {"ground_truth": None},
        "extra_info": {"width": 640, "height": 480},
    }
    path = tmp_path / "rl.parquet"
    pq.write_table(pa.Table.from_pylist([row]), path)

    def check(parser: str) -> None:
        function = {"path": rows.OUR_REWARD, "reward_kwargs": {"parser": parser}}
        reward = {"parser": "house", "custom_reward_function": function}  # as written, under its former name
        rows.check_reward_columns(OmegaConf.create({"reward": reward, "data": {"files": str(path)}}), "data.files")

    check("strict")
    with pytest.raises(InputError, match=r"reward\.parser: expected strict for row 1 of .*released_reward"):
        check("released_reward")
