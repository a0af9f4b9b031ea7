"""Reports 1, 5, 6, 7, 11 and 15: every stage sees the same pixels of a picture, or it is refused before any does."""

import asyncio
import base64
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image, PngImagePlugin
from transformers import AutoConfig, AutoProcessor
from verl.experimental.agent_loop.agent_loop import DictConfigWrap
from verl.utils.dataset.rl_dataset import RLHFDataset

from examples.starter.build import build_processor
from qwen3vl_rl import plan
from qwen3vl_rl.data.pictures import MAX_PIXELS, MAX_RATIO, open_picture, picture_size, picture_url, read_header, to_rgb
from qwen3vl_rl.data.samples import ImageCheck, Sample
from qwen3vl_rl.data.tools.check import Expectations, check_file
from qwen3vl_rl.data.tools.flip import flip_file
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.evaluation.reporting.browser import _Pictures
from qwen3vl_rl.grounding import render_prompt
from qwen3vl_rl.verl_ext.agent_loop import ImageOnceAgentLoop, with_pictures
from sft.dataset import ThinkingSFTDataset
from sft.trace_request import draw_target

pytestmark = pytest.mark.slow

SIZE = (96, 64)  # of the upright picture
# How a camera held like this stores an upright picture
STORED = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
TRUNCATED = ("png", "jpeg", "webp", "gif", "bmp", "tiff")
SPLIT = "refshapes_val"


def upright(size=SIZE) -> Image.Image:
    """A blue picture with a red box in its upper left quarter."""
    picture = Image.new("RGB", size, "blue")
    picture.paste("red", (0, 0, size[0] // 2, size[1] // 2))
    return picture


def save_turned(path: Path, orientation: int, picture: Image.Image | None = None, **options) -> Path:
    exif = Image.Exif()
    exif[0x112] = orientation
    picture = picture or upright()
    stored = picture.transpose(STORED[orientation]) if orientation in STORED else picture
    stored.save(path, exif=exif, **options)
    return path


def decoded(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


def write_sample(folder: Path, image: str, size=SIZE, **changes) -> Path:
    row = {"id": "1", "image": image, "sent": "the red box", "width": size[0], "height": size[1]}
    path = folder / "samples.jsonl"
    path.write_text(json.dumps(row | {"bbox": [0, 0, size[0] / 2, size[1] / 2]} | changes) + "\n")
    return path


def problems(folder: Path, samples: Path) -> list[str]:
    found = check_file(samples, Expectations(ImageCheck(folder), folder, set()), shown=10)
    return [str(problem) for problem in found.first]


def prompt(image: object) -> list[dict]:
    return [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "Where?"}]}]


def in_rollouts(image: object) -> Image.Image:
    """The picture that our agent loop hands to verl."""
    return with_pictures(prompt(image))[0]["content"][0]["image"]


@pytest.fixture(params=[3, 6, 8])
def turned(request, tmp_path) -> Path:
    (tmp_path / "coco").mkdir()
    return save_turned(tmp_path / "coco" / "a.jpg", request.param, quality=95)


def shows_the_box_in_place(picture: Image.Image) -> bool:
    """Red in the upper left quarter and nowhere else, at any size, as far as a JPEG keeps colours."""
    assert picture.width > picture.height
    red = np.asarray(picture.convert("RGB")).astype(int)[..., 0] > 128
    rows, columns = picture.height // 2, picture.width // 2
    return red[: rows - 1, : columns - 1].all() and not red[rows + 1 :].any() and not red[:, columns + 1 :].any()


def test_a_turned_picture_shows_its_box_in_sft_data(turned, starter, tmp_path):
    messages = [{"role": "user", "content": "<image>" + render_prompt("qwen3", "x")}]
    row = {"messages": [*messages, {"role": "assistant", "content": "x"}], "images": [str(turned)]}
    pd.DataFrame([row]).to_parquet(tmp_path / "rows.parquet")
    processor = AutoProcessor.from_pretrained(starter)
    processor.config = AutoConfig.from_pretrained(starter)
    config = OmegaConf.create({"pad_mode": "no_padding", "max_length": 8192})
    dataset = ThinkingSFTDataset(str(tmp_path / "rows.parquet"), processor.tokenizer, config, processor)
    (image,) = (dataset._build_messages(row)[0]["content"][0]["image"],)
    assert shows_the_box_in_place(image)
    _, rows, columns = dataset[0]["multi_modal_inputs"]["image_grid_thw"][0].tolist()
    assert columns > rows


def test_a_turned_picture_shows_its_box_in_rollouts(turned):
    config, processor = plan.compose_recipe(["size=tiny", "hardware=cpu"]), build_processor()

    async def decode() -> dict:
        loop = ImageOnceAgentLoop(
            trainer_config=DictConfigWrap(config),
            server_manager=None,
            tokenizer=processor.tokenizer,
            processor=processor,
            dataset_cls=RLHFDataset,
            data_config=DictConfigWrap(config.data),
            hf_model_type="qwen3_vl",
        )
        return await loop.process_multi_modal_info(prompt(str(turned)))

    (image,) = asyncio.run(decode())["images"]
    assert shows_the_box_in_place(image)


def test_a_turned_picture_shows_its_box_to_the_engine_and_in_the_report(turned, tmp_path):
    for by_path in (True, False):
        asked = decoded(picture_url(turned, by_path))
        assert asked.tobytes() == open_picture(turned).tobytes() and not asked.getexif()
    report = _Pictures(tmp_path)
    assert report.add("coco/a.jpg") and shows_the_box_in_place(decoded(report.urls["coco/a.jpg"]))
    sample = Sample("1", "coco/a.jpg", *SIZE, "the red box", (0, 0, SIZE[0] / 2, SIZE[1] / 2))
    assert Image.open(io.BytesIO(draw_target(sample, tmp_path))).size == SIZE


def test_a_turned_picture_is_flipped_as_it_is_seen(turned, tmp_path):
    flip_file([write_sample(tmp_path, "coco/a.jpg")], tmp_path, tmp_path / "out.jsonl")
    flipped = Image.open(tmp_path / "coco_flip" / "a.jpg")
    assert not flipped.getexif() and shows_the_box_in_place(flipped.transpose(Image.Transpose.FLIP_LEFT_RIGHT))


def test_a_size_that_fits_the_unturned_picture_alone_is_named_as_such(tmp_path):
    save_turned(tmp_path / "a.jpg", 6)
    assert problems(tmp_path, write_sample(tmp_path, "a.jpg")) == []
    (problem,) = problems(tmp_path, write_sample(tmp_path, "a.jpg", SIZE[::-1]))
    expected = "expected the image's size 96x64 after its EXIF orientation is applied (the row has the size before)"
    assert expected in problem


@pytest.mark.parametrize("kind", ["png", "webp", "tiff", "jpeg"])
def test_every_format_is_turned_once(kind, tmp_path):
    path = save_turned(tmp_path / f"a.{kind}", 6)
    picture = open_picture(path)
    assert read_header(path).size == picture_size(path.read_bytes()) == picture.size == SIZE
    assert shows_the_box_in_place(picture) and shows_the_box_in_place(to_rgb(picture))
    assert shows_the_box_in_place(in_rollouts(Image.open(path)))  # as verl holds pictures that stand in a parquet


def test_an_orientation_behind_the_pixels_of_a_png_counts(tmp_path):
    exif, content = Image.Exif(), io.BytesIO()
    exif[0x112] = 6
    upright().transpose(STORED[6]).save(content, "png")
    chunk = io.BytesIO()
    PngImagePlugin.putchunk(chunk, b"eXIf", exif.tobytes()[6:])
    whole = content.getvalue()
    end = whole.rindex(b"IEND") - 4
    (tmp_path / "a.png").write_bytes(whole[:end] + chunk.getvalue() + whole[end:])
    assert read_header(tmp_path / "a.png").size == open_picture(tmp_path / "a.png").size == SIZE


def test_exif_that_cannot_be_read_turns_nothing(tmp_path):
    upright().save(tmp_path / "a.jpg", exif=b"Exif\0\0nonsense")
    assert open_picture(tmp_path / "a.jpg").size == read_header(tmp_path / "a.jpg").size == SIZE


def test_16_bits_are_scaled_to_8(tmp_path):
    values = np.linspace(0, 65535, 96 * 64).astype(np.uint16).reshape(64, 96)
    for name in ("a.png", "a.tiff"):
        Image.fromarray(values).save(tmp_path / name)
        for picture in (open_picture(tmp_path / name), in_rollouts(str(tmp_path / name))):
            assert (np.asarray(picture) == (values >> 8)[..., None]).all()
        assert decoded(picture_url(tmp_path / name, True)).tobytes() == open_picture(tmp_path / name).tobytes()


def test_big_endian_16_bits_are_scaled_to_8(tmp_path):
    values = np.linspace(0, 65535, 96 * 64).astype(">u2").reshape(64, 96)
    picture = Image.frombytes("I;16B", SIZE, values.tobytes())
    assert (np.asarray(to_rgb(picture)) == (values >> 8)[..., None]).all()


def test_the_first_picture_of_an_animation_counts_in_all_stages(tmp_path):
    frames = [Image.new("RGB", SIZE, color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    for picture in (open_picture(tmp_path / "a.gif"), in_rollouts(str(tmp_path / "a.gif"))):
        assert picture.getpixel((1, 1))[0] > 200
    assert decoded(picture_url(tmp_path / "a.gif", True)).getpixel((1, 1))[0] > 200


@pytest.mark.parametrize("kind", ["F", "I"])
def test_values_of_no_known_scale_are_refused(kind, tmp_path):
    Image.new(kind, SIZE).save(tmp_path / "a.tiff")
    (problem,) = problems(tmp_path, write_sample(tmp_path, "a.tiff"))
    assert f"expected 8 or 16 bits per channel, not Pillow's mode {kind}" in problem
    with pytest.raises(OSError, match="8 or 16 bits"):
        open_picture(tmp_path / "a.tiff")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(mode, tmp_path):
    layer = Image.new("RGBA", SIZE, (0, 0, 0, 0))
    layer.paste((0, 0, 0, 255), (0, 0, 48, 32))
    layer.convert(mode).save(tmp_path / "a.png")
    for picture in (open_picture(tmp_path / "a.png"), in_rollouts(str(tmp_path / "a.png"))):
        assert picture.getpixel((90, 60)) == (255, 255, 255) and picture.getpixel((1, 1)) == (0, 0, 0)
    assert decoded(picture_url(tmp_path / "a.png", True)).tobytes() == open_picture(tmp_path / "a.png").tobytes()


@pytest.mark.parametrize("kind", TRUNCATED)
def test_a_picture_that_breaks_off_is_found_in_every_format(kind, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / f"a.{kind}")
    content = (tmp_path / f"a.{kind}").read_bytes()
    (tmp_path / f"a.{kind}").write_bytes(content[: len(content) // 2])
    (problem,) = problems(tmp_path, write_sample(tmp_path, f"a.{kind}"))
    assert 'row 1: field "image": expected' in problem


def test_a_picture_too_long_for_qwen_is_refused_by_its_row(tmp_path):
    (problem,) = problems(tmp_path, write_sample(tmp_path, "none.png", (2100, 10)))
    assert f"expected a long side of at most {MAX_RATIO} times the short side (Qwen's limit), got '2100x10'" in problem
    Image.new("RGB", (2000, 10)).save(tmp_path / "a.png")
    assert problems(tmp_path, write_sample(tmp_path, "a.png", (2000, 10))) == []
    Image.new("RGB", (10, 2001)).save(tmp_path / "b.png")
    with pytest.raises(OSError, match=r"Qwen's limit\), not 10x2001"):
        open_picture(tmp_path / "b.png")


def test_a_picture_too_large_for_pillow_is_refused_with_the_limit(tmp_path):
    Image.new("1", (14000, 14000)).save(tmp_path / "a.png")
    expected = f"expected at most {MAX_PIXELS:,} pixels (Pillow's limit)"
    (problem,) = problems(tmp_path, write_sample(tmp_path, "a.png"))  # the row says 96x64
    assert expected in problem
    (problem,) = problems(tmp_path, write_sample(tmp_path, "a.png", (14000, 14000)))
    assert expected in problem


MODES = ("1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16", "F", "I")


@st.composite
def files(draw) -> tuple[str, bytes, tuple[int, int]]:
    """(suffix, content, size of the upright picture)."""
    kind, mode = draw(st.sampled_from(TRUNCATED)), draw(st.sampled_from(MODES))
    size = draw(st.sampled_from([(1, 1), (1, 201), (3, 1), (40, 30), (65, 17)]))
    noise = np.random.default_rng(draw(st.integers(0, 9))).integers(0, 65536, (size[1], size[0], 4), dtype=np.uint16)
    if mode in ("I;16", "F", "I"):
        grey = noise[..., 0]
        picture = Image.fromarray(grey if mode == "I;16" else grey.astype(np.float32 if mode == "F" else np.int32))
    else:
        picture = Image.fromarray((noise >> 8).astype(np.uint8)).convert("RGB" if mode == "CMYK" else "RGBA")
        picture = picture.convert(mode)
    exif, buffer = Image.Exif(), io.BytesIO()
    orientation = draw(st.integers(0, 9))
    exif[0x112] = orientation
    try:
        picture.save(buffer, kind, **{} if kind in ("gif", "bmp") else {"exif": exif})
    except (OSError, KeyError, ValueError):  # the format has no such mode
        picture.convert("RGB").save(buffer, kind)
    content = buffer.getvalue()
    kept = draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    sideways = orientation in (5, 6, 7, 8) and kind not in ("gif", "bmp")
    return kind, content[:kept], size[::-1] if sideways else size


@pytest.mark.slow
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(files())
def test_check_refuses_a_picture_or_all_stages_see_the_same(tmp_path, file):
    kind, content, size = file
    path = tmp_path / f"a.{kind}"
    path.write_bytes(content)
    sample = Sample("1", path.name, *size, "x", (0, 0, 1, 1))
    try:
        ImageCheck(tmp_path).check(path, 1, sample)
    except InputError as refused:
        assert "row 1" in str(refused)
        return
    seen = open_picture(path)
    assert (seen.mode, seen.size) == ("RGB", size) and picture_size(content) == size
    embedded = Image.open(io.BytesIO(content))
    assert in_rollouts(str(path)).tobytes() == in_rollouts(embedded).tobytes() == seen.tobytes()
    url = picture_url(path, by_path=True)
    served = Image.open(io.BytesIO(content)) if url.startswith("file:") else decoded(url)
    assert served.convert("RGB").tobytes() == seen.tobytes() and served.size == size


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_an_uncompressed_tiff_that_is_turned_sideways_is_not_garbled(tmp_path, orientation):
    """A silent fault of Pillow 13, which maps files that it is given by name."""
    exif = Image.Exif()
    exif[0x112] = orientation
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(pixels).save(tmp_path / "a.tiff", exif=exif)
    upright = {5: pixels.T, 6: np.rot90(pixels, -1), 7: np.rot90(pixels, 2).T, 8: np.rot90(pixels)}[orientation]
    assert np.array_equal(np.asarray(open_picture(tmp_path / "a.tiff"))[..., 0], upright)
    assert not read_header(tmp_path / "a.tiff").is_plain  # an engine that opens it by name would garble it
