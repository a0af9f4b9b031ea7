"""What is compared for speed computes the same."""

import pytest
import torch
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration

from benchmarks.attention import compare, image_passes, text_passes
from benchmarks.sft_throughput import read_batches, recipe


@pytest.fixture(scope="module")
def batch(starter, training_data):
    config = recipe("tiny", "cpu", starter, training_data / "sft.parquet", [])
    return read_batches(config, AutoProcessor.from_pretrained(starter))[0][:3]


@pytest.mark.parametrize(
    ("passes", "names"),
    [(image_passes, ["one by one", "packed"]), (text_passes, ["padded", "masked", "packed"])],
    ids=["images", "text"],
)
def test_configurations_compute_the_same(passes, names, starter, batch):
    model = Qwen3VLForConditionalGeneration.from_pretrained(starter, dtype=torch.float32)
    found = compare(passes(model, batch), rounds=1, seconds=0.01)
    assert [row["name"] for row in found] == names
    assert all(row["difference"] < 1e-4 and row["step_s"]["median"] > 0 for row in found)
    assert all(f"speed_relative_to_{names[0]}" in row for row in found[1:])
