"""Rollout prompts are the same as in verl, and prepared once for all answers."""

import asyncio
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import ExifTags, Image
from verl.experimental.agent_loop.agent_loop import DictConfigWrap
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop
from verl.utils.dataset.rl_dataset import RLHFDataset
from verl.workers.rollout.replica import TokenOutput

from examples.starter.build import build_processor
from qwen3vl_rl import plan
from qwen3vl_rl.data.pictures import data_url, encode
from qwen3vl_rl.verl_ext.agent_loop import ANSWERS, ImageOnceAgentLoop, SharedRequest

pytestmark = pytest.mark.slow
RELEASED = "data.image_patch_size=14"
PIXELS = {"min_pixels": 65_536, "max_pixels": 16_777_216}  # of Qwen3-VL's processor; the starter's limits are lower


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def build():
    """Builds agent loops of one worker, one per answer, as verl does."""
    processor = build_processor()

    def loop(kind: type[SingleTurnAgentLoop], *overrides: str) -> SingleTurnAgentLoop:
        config = plan.compose_recipe(["size=tiny", "hardware=cpu", *overrides])
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
    assert ours[1][1] == tokens  # an answer may change its own copy


def test_a_missing_image_fails_every_answer(build, tmp_path):
    messages = ask(tmp_path)
    (tmp_path / "image.png").unlink()

    async def answers():
        loops = [build(ImageOnceAgentLoop) for _ in range(3)]
        return await asyncio.gather(*(make_prompt(loop, messages) for loop in loops), return_exceptions=True)

    assert [type(found) for found in asyncio.run(answers())] == [FileNotFoundError] * 3


def token_grids(loop: SingleTurnAgentLoop, sizes: list[tuple[int, int]]) -> list[list[int]]:
    """Grids (height, width) in patches that the rollout engine gets for images of these sizes in px."""

    async def decode(size: tuple[int, int]) -> Image.Image:
        message = {"role": "user", "content": [{"type": "image", "image": Image.new("RGB", size)}]}
        return (await loop.process_multi_modal_info([message]))["images"][0]

    images = [asyncio.run(decode(size)) for size in sizes]
    return [loop.processor.image_processor([image], **PIXELS)["image_grid_thw"][0].tolist()[1:] for image in images]


@pytest.mark.parametrize(
    ("overrides", "grids"), [([], [[24, 32], [30, 40]]), ([RELEASED], [[22, 32], [30, 40]])], ids=["ours", "released"]
)
def test_rollouts_follow_the_grid_of_the_filter(build, overrides, grids):
    assert token_grids(build(ImageOnceAgentLoop, *overrides), [(500, 375), (640, 480)]) == grids


@pytest.mark.skipif("EGM_REAL_DATA" not in os.environ, reason="EGM_REAL_DATA is not set")
def test_coco_images_whose_grid_differs_from_the_release_are_counted(build):
    files = (Path(os.environ["EGM_REAL_DATA"]) / "refcocos_val2017").glob("*.json")
    rows = [row for file in files for row in json.loads(file.read_text())]
    size_of = {Path(row["image"]).name: (row["width"], row["height"]) for row in rows}
    sizes = sorted(set(size_of.values()))
    ours, released = (token_grids(build(ImageOnceAgentLoop, *words), sizes) for words in ([], [RELEASED]))
    others = {size for size, one, other in zip(sizes, ours, released, strict=True) if one != other}
    assert (len(size_of), sum(size in others for size in size_of.values())) == (460, 41)


class Client:
    """Replaces verl's client, which sends requests to a server: records them and answers as `GroupServer` does."""

    def __init__(self, error: Exception | None = None):
        self.asked, self._error = [], error

    async def generate(self, request_id: str, *, sampling_params: dict, **prompt) -> TokenOutput:
        self.asked.append(sampling_params)
        await asyncio.sleep(0)
        if self._error:
            raise self._error
        answers = [TokenOutput(token_ids=[number]) for number in range(sampling_params["n"])]
        return answers[0].model_copy(update={"extra_fields": {"global_steps": 3, ANSWERS: answers}})


def share(client: Client, answers: int) -> list:
    async def ask() -> list:
        request = SharedRequest(client)
        request.answers_wanted = answers
        asking = (request.generate(str(number), sampling_params={"top_k": 50}) for number in range(answers))
        return await asyncio.gather(*asking, return_exceptions=True)

    return asyncio.run(ask())


def test_one_request_gives_every_answer_its_share():
    client = Client()
    found = share(client, 4)
    assert client.asked == [{"top_k": 50, "n": 4}]
    assert sorted(answer.token_ids for answer in found) == [[0], [1], [2], [3]]
    assert [answer.extra_fields for answer in found] == [{"global_steps": 3}] * 4
    found[0].extra_fields["reward"] = 1
    assert "reward" not in found[1].extra_fields


def test_a_failed_request_fails_every_answer():
    assert [type(error) for error in share(Client(OSError("the engine died")), 3)] == [OSError] * 3


def test_a_family_may_take_pictures_as_they_are(build):
    loop = build(ImageOnceAgentLoop)
    loop._family = SimpleNamespace(resizes_first=False)
    image = noise(500, 375)
    messages = [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "Where?"}]}]
    media = asyncio.run(loop.process_multi_modal_info([{"role": "system", "content": "Locate."}, *messages]))
    assert [found.tobytes() for found in media["images"]] == [image.tobytes()]
    assert asyncio.run(loop.process_multi_modal_info([{"role": "user", "content": "Without a picture"}])) == {}


@pytest.mark.parametrize("resizes_first", [True, False])
@pytest.mark.parametrize("key", ["image", "image_url"])
def test_remote_pictures_are_opened_as_files_are(build, key, resizes_first):
    loop, image = build(ImageOnceAgentLoop), noise(128, 160)
    loop._family = SimpleNamespace(resizes_first=resizes_first)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    url = data_url(encode(image, "png", exif=exif), "image/png")
    message = {"role": "user", "content": [{"type": "image", key: url}, {"type": "text", "text": "Where?"}]}
    (found,) = asyncio.run(loop.process_multi_modal_info([message]))["images"]
    assert found.tobytes() == image.transpose(Image.Transpose.ROTATE_270).tobytes()
