import pyarrow.parquet as pq
import pytest
from PIL import Image
from transformers import AutoProcessor

from benchmarks.common import IMAGE_PX, portable, rl_parquet, see_whole_images, shapes_samples
from qwen3vl_rl.models.families.qwen3_vl import QWEN3_VL

pytestmark = pytest.mark.slow


def test_benchmark_checkpoints_see_whole_images(tmp_path, starter):
    processor = AutoProcessor.from_pretrained(starter)
    processor.save_pretrained(tmp_path)
    see_whole_images(tmp_path / "processor_config.json")
    [sample] = shapes_samples(tmp_path / "images", 1)
    found = {}
    for name, folder in (("own", starter), ("whole", tmp_path)):
        images = AutoProcessor.from_pretrained(folder).image_processor
        grid = images(Image.open(tmp_path / "images" / sample.image), return_tensors="pt")["image_grid_thw"]
        found[name] = int(grid.prod()) // 4
    assert found["whole"] == QWEN3_VL.picture_tokens(*IMAGE_PX) == 300
    assert found["own"] < 64


def test_prompts_differ_in_length(tmp_path):
    rows = pq.read_table(rl_parquet(tmp_path, 16)).to_pylist()
    assert len({len(row["prompt"][0]["content"]) for row in rows}) > 1
    assert all(0 <= value <= 1000 for row in rows for value in row["reward_model"]["ground_truth"])


def test_results_hold_no_absolute_path():
    command = "python -m x --model=/mnt/disk/me/model --set data.train_files=/a/rows.parquet --out b/c.json 'k=[/x/y]'"
    told = {
        "command": command,
        "log": ['File "/usr/lib/python3/a.py", line 3', "see http://localhost:8000/v1", "5 GB/s"],
    }
    assert portable(told) == {
        "command": "python -m x --model=model --set data.train_files=rows.parquet --out b/c.json 'k=[y]'",
        "log": ['File "a.py", line 3', "see http://localhost:8000/v1", "5 GB/s"],
    }
    assert portable({"images": "file:///tmp/x/1.jpg", "numbers": (1, 2.5, None)}) == {
        "images": "1.jpg",
        "numbers": [1, 2.5, None],
    }
