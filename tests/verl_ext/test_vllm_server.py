"""A request gives all answers to a prompt, each with its own tokens, log-probabilities and end."""

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
# Runs in its own process: verl finds vLLM's CPU build only where `cpu.activate` was called before all imports.
SPLIT = """
import json
from qwen3vl_rl.training import cpu
cpu.activate()
from vllm.outputs import CompletionOutput, RequestOutput
from qwen3vl_rl.verl_ext.vllm_server import split
outputs = [CompletionOutput(number, "", [5, number], None, None) for number in range(2)]
singles = split(RequestOutput("name", None, [1], None, outputs, True))
print(json.dumps([[single.request_id, [output.token_ids for output in single.outputs]] for single in singles]))
"""
# For each number of tiles, the tokens of a prompt in vLLM and in our rollouts, and the tiles of the trainer.
TILES = """
import json
import sys
from qwen3vl_rl.training import cpu
cpu.activate()
from PIL import Image
from transformers import AutoProcessor
from vllm.config import ModelConfig
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.processing import ProcessorInputs
from vllm.multimodal.processing.context import TimingContext
from qwen3vl_rl.models.families.internvl.prompts import engine_prompt, image_inputs
vllms = MULTIMODAL_REGISTRY.create_processor(ModelConfig(model=sys.argv[1], dtype="float32"))
ours, image, found = AutoProcessor.from_pretrained(sys.argv[1]), Image.new("RGB", (160, 128)), []
for options in ({}, {"max_patches": 12}, {"max_patches": 2, "min_patches": 2}):
    ids = list(ours(text=["<IMG_CONTEXT>\\nWhere?"], images=[image], **options)["input_ids"][0])
    media = vllms.info.parse_mm_data({"image": [image]})
    asked = ProcessorInputs(engine_prompt(ids, ours), media, hf_processor_mm_kwargs=options)
    same = list(vllms.apply(asked, TimingContext(enabled=False))["prompt_token_ids"]) == ids
    found.append([same, len(image_inputs(ours, [image], options)["pixel_values"])])
print(json.dumps(found))
"""


def run_alone(code: str, environment: dict[str, str], *arguments: str) -> list:
    """The JSON in the last line that `code` prints."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.long
def test_a_result_is_split_into_its_answers(user_environment):
    assert run_alone(SPLIT, user_environment) == [["name", [[5, 0]]], ["name", [[5, 1]]]]


@pytest.mark.long
def test_the_engine_and_the_trainer_cut_as_many_tiles_as_the_recipe_says(user_environment, internvl):
    """`data.mm_processor_kwargs` travels with every request."""
    assert run_alone(TILES, user_environment, str(internvl)) == [[True, 1], [True, 13], [True, 3]]


def test_the_answers_to_a_prompt_differ_in_a_run(rl_run):
    answers = defaultdict(list)
    for line in (rl_run / "rollouts" / "1.jsonl").read_text().splitlines():
        row = json.loads(line)
        answers[row["input"]].append(row["output"])
    assert sum(map(len, answers.values())) == 16
    assert all(len(set(own)) > 1 for own in answers.values())
