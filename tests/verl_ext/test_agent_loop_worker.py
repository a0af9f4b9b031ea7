"""The reward of an answer is the same as with verl's worker, from fewer columns."""

import asyncio
import pickle
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput

from examples.starter.build import build_processor
from qwen3vl_rl.models.families.qwen3_vl import QWEN3_VL
from qwen3vl_rl.models.prepared_images import Recent
from qwen3vl_rl.verl_ext.agent_loop_worker import GroupWorker, VerlWorker
from qwen3vl_rl.verl_ext.reward_manager import GroundingRewardManager

pytestmark = pytest.mark.slow
SAMPLE = {
    "data_source": "shapes",
    "raw_prompt": [{"role": "user", "content": [{"type": "text", "text": "Where is the red disc?"}]}],
    "reward_model": {"ground_truth": [10, 20, 30, 40]},
    "extra_info": {"width": 160, "height": 128},
    "session_id": 3,
}


@pytest.fixture
def rewarder(monkeypatch):
    """A reward worker without Ray. Its input is pickled with the serialization that the launcher selects."""
    monkeypatch.setenv("VERL_DATAPROTO_SERIALIZATION_METHOD", "numpy")
    seen = []

    def score(data_source, solution_str, ground_truth, extra_info):
        seen.append((data_source, solution_str, ground_truth, dict(extra_info)))
        return {"score": 0.5, "iou": 0.75}

    async def compute_score(data):
        manager = GroundingRewardManager(OmegaConf.create({}), build_processor().tokenizer, score)
        return await manager.run_single(pickle.loads(pickle.dumps(data)))

    return SimpleNamespace(compute_score=SimpleNamespace(remote=compute_score), seen=seen)


def scored(worker_class: type, rewarder, text: str = "It is [10, 20, 30, 40].") -> AgentLoopOutput:
    worker = object.__new__(worker_class)
    worker.reward_loop_worker_handles, worker.processor, worker.mm_processor_kwargs = [rewarder], None, {}
    tokenizer = build_processor().tokenizer
    prompt, answer = (tokenizer.encode(words) for words in ("Where is the red disc?", text))
    output = AgentLoopOutput(
        prompt_ids=prompt,
        response_ids=answer,
        response_mask=[1] * len(answer),
        metrics=AgentLoopMetrics(),
        extra_fields={"global_steps": 3},
    )
    fields = {name: dict(value) if isinstance(value, dict) else value for name, value in SAMPLE.items()}
    asyncio.run(worker._compute_score([output], fields))
    return output


def test_a_reward_function_gets_the_same_arguments_as_in_verl(rewarder):
    ours, verls = scored(GroupWorker, rewarder), scored(VerlWorker, rewarder)
    assert ours.reward_score == verls.reward_score == 0.5
    assert (
        ours.extra_fields
        == verls.extra_fields
        == {
            "global_steps": 3,
            "reward_extra_info": {"score": 0.5, "iou": 0.75},
        }
    )
    assert ours.metrics.compute_score > 0
    assert rewarder.seen[0] == rewarder.seen[1]
    _, text, truth, extra = rewarder.seen[0]
    assert (text, truth, extra["width"]) == ("It is [10, 20, 30, 40].", [10, 20, 30, 40], 160)
    assert extra["length_tokens"] == len(ours.response_ids)


def test_an_empty_answer_is_scored_too(rewarder):
    assert scored(GroupWorker, rewarder, "").reward_score == 0.5
    _, text, _, extra = rewarder.seen[0]
    assert (text, extra["length_tokens"]) == ("", 0)


def test_a_family_may_make_the_image_inputs_itself_once_for_all_answers(monkeypatch):
    worker, made = object.__new__(GroupWorker), []
    worker._image_inputs, worker.hf_model_type, worker.processor = Recent(), "qwen3_vl", object()

    def image_inputs(processor, images, options):
        made.append((processor, images, options))
        return {"pixel_values": torch.ones(1)}

    monkeypatch.setattr(QWEN3_VL.prompts, "image_inputs", image_inputs)
    images, limits = [Image.new("RGB", (4, 4))], {"max_pixels": 1024}
    for answer in ([5], [6, 7]):
        output = AgentLoopOutput(
            prompt_ids=[1],
            response_ids=answer,
            response_mask=[1] * len(answer),
            metrics=AgentLoopMetrics(),
            multi_modal_data={"images": images},
            mm_processor_kwargs=limits,
        )
        assert worker._compute_multi_modal_inputs(output, torch.tensor([[1, *answer]])) == {
            "pixel_values": torch.ones(1)
        }
    assert made == [(worker.processor, images, limits)]
