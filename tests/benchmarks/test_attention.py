"""All configurations that are compared for speed compute the same outputs."""

import pytest
import torch
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration

from benchmarks.attention import compare, differences, image_passes, text_passes
from benchmarks.hf_trainer import with_floats
from benchmarks.sft_throughput import read_batches, recipe
from qwen3vl_rl.models.families.qwen3_vl import QWEN3_VL

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def batch(starter, training_data):
    config = recipe("tiny", "cpu", starter, training_data / "sft.parquet", [])
    processor = AutoProcessor.from_pretrained(starter)
    return with_floats(read_batches(config, processor)[0][:3], QWEN3_VL.prompts, processor.image_processor)


@pytest.fixture(scope="module")
def model(starter):
    return Qwen3VLForConditionalGeneration.from_pretrained(starter, dtype=torch.float32)


@pytest.mark.parametrize("passes", [image_passes, text_passes], ids=["images", "text"])
def test_configurations_compute_the_same(passes, model, batch):
    assert all(difference < 1e-4 for difference in differences(passes(model, batch)))


def test_each_is_timed_against_the_first(model, batch):
    first, packed = compare(image_passes(model, batch), rounds=1, seconds=0.01)
    assert (first["name"], packed["name"]) == ("one by one", "packed")
    assert first["step_s"]["median"] > 0 and packed["speed_relative_to_one by one"]["median"] > 0
