"""Prompts of rollouts are what they were, made once, their images sent as an eighth of the bytes."""

import asyncio

import numpy as np
import pytest
import torch
from PIL import Image
from verl.experimental.agent_loop.agent_loop import DictConfigWrap
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop
from verl.utils.dataset.rl_dataset import RLHFDataset

from examples.starter.build import build_processor
from qwen3vl_rl import plan
from qwen3vl_rl.verl_ext import agent_loop as rollout_images
from qwen3vl_rl.verl_ext.agent_loop import ImageOnceAgentLoop, PreparedImages, Recent, restore_patches


@pytest.fixture
def image_processor():
    return build_processor().image_processor


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("size", [(160, 128), (640, 480), (333, 217)], ids=str)
def test_the_trainer_gets_the_floats_of_the_image_processor(image_processor, size):
    """Bit for bit, also where the processor resizes."""
    plain = image_processor(images=[noise(*size)], return_tensors="pt")
    sent = PreparedImages(image_processor)(images=[noise(*size)], return_tensors="pt")
    assert torch.equal(restore_patches(sent["pixel_values"], image_processor), plain["pixel_values"])
    assert torch.equal(sent["image_grid_thw"], plain["image_grid_thw"])
    assert sent["pixel_values"].nbytes * 8 == plain["pixel_values"].nbytes


def test_other_means_and_deviations(image_processor):
    image_processor.image_mean, image_processor.image_std = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]
    plain = image_processor(images=[noise(160, 128)], return_tensors="pt")
    sent = PreparedImages(image_processor)(images=[noise(160, 128)], return_tensors="pt")
    assert torch.equal(restore_patches(sent["pixel_values"], image_processor), plain["pixel_values"])


def test_an_image_is_prepared_once_and_others_are_not_confused(image_processor, monkeypatch):
    calls = []
    prepare = PreparedImages._prepare
    monkeypatch.setattr(PreparedImages, "_prepare", lambda *args: calls.append(1) or prepare(*args))
    prepared, image = PreparedImages(image_processor), noise(160, 128)
    first, again = (prepared(images=[image], return_tensors="pt") for _ in range(2))
    assert len(calls) == 1 and torch.equal(first["pixel_values"], again["pixel_values"])
    other = prepared(images=[noise(160, 128, seed=1)], return_tensors="pt")
    assert len(calls) == 2 and not torch.equal(first["pixel_values"], other["pixel_values"])
    smaller = prepared(images=[image], return_tensors="pt", max_pixels=80 * 64, min_pixels=1024)
    assert len(calls) == 3 and len(smaller["pixel_values"]) < len(first["pixel_values"])


def test_what_is_gone_is_not_taken_for_what_came_in_its_place():
    """A new object may have the address of one that is gone."""
    recent = Recent()
    assert [recent.get([[number]], lambda number=number: number) for number in range(50)] == list(range(50))


def test_no_more_are_kept_than_said(monkeypatch):
    monkeypatch.setattr(rollout_images, "KEPT", 2)
    recent, sources = Recent(), [[number] for number in range(4)]
    made = [recent.get([source], object) for source in sources]
    kept = [recent.get([source], lambda: None) for source in reversed(sources)]
    assert kept == [made[3], made[2], None, None]


@pytest.fixture
def build():
    """Agent loops of one worker, a new one for every answer, as verl builds them."""
    config, processor = plan.compose_recipe(["size=tiny", "hardware=cpu"]), build_processor()

    def loop(kind: type[SingleTurnAgentLoop]) -> SingleTurnAgentLoop:
        return kind(
            trainer_config=DictConfigWrap(config),
            server_manager=None,
            tokenizer=processor.tokenizer,
            processor=processor,
            dataset_cls=RLHFDataset,
            data_config=DictConfigWrap(config.data),
            hf_model_type="qwen3_vl",
        )

    return loop


def ask(folder) -> list[dict]:
    noise(160, 128).save(folder / "image.png")
    parts = [{"type": "image", "image": str(folder / "image.png")}, {"type": "text", "text": "Where is the red disc?"}]
    return [{"role": "user", "content": parts}]


async def make_prompt(loop: SingleTurnAgentLoop, messages: list[dict]) -> tuple[dict, list[int]]:
    media = await loop.process_multi_modal_info(list(messages))
    return media, await loop.ct_build_initial_tokens(list(messages), images=media["images"], mm_inputs_out={})


def test_the_answers_to_a_prompt_share_its_image_and_tokens(build, tmp_path, monkeypatch):
    decoded, messages = [], ask(tmp_path)
    decode = RLHFDataset._process_multi_modal_info
    count = classmethod(lambda _, *args, **options: decoded.append(1) or decode(*args, **options))
    monkeypatch.setattr(RLHFDataset, "_process_multi_modal_info", count)

    async def answers():
        verls = await make_prompt(build(SingleTurnAgentLoop), messages)
        ours = await asyncio.gather(*(make_prompt(build(ImageOnceAgentLoop), messages) for _ in range(4)))
        another = await make_prompt(build(ImageOnceAgentLoop), ask(tmp_path))  # equal, but another prompt
        return verls, ours, another

    (media, tokens), ours, another = asyncio.run(answers())
    assert len(decoded) == 3
    for own, own_tokens in (*ours, another):
        assert own_tokens == tokens
        assert own["images"][0].tobytes() == media["images"][0].tobytes()
    assert len({id(own["images"][0]) for own, _ in ours}) == 1
    ours[0][1].append(0)
    assert ours[1][1] == tokens  # an answer may change its own


def test_an_image_that_is_not_there_fails_every_answer(build, tmp_path):
    messages = ask(tmp_path)
    (tmp_path / "image.png").unlink()

    async def answers():
        loops = [build(ImageOnceAgentLoop) for _ in range(3)]
        return await asyncio.gather(*(make_prompt(loop, messages) for loop in loops), return_exceptions=True)

    assert [type(found) for found in asyncio.run(answers())] == [FileNotFoundError] * 3
