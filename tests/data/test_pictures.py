"""Pictures are opened in RGB, and their data URLs can be opened again."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from qwen3vl_rl.data.pictures import THUMBNAIL_PX, encode, open_picture, picture_url, thumbnail_url, to_rgb


def noise(width, height):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def embedded(url):
    """(MIME type, picture) of a data URL."""
    kind, _, content = url.removeprefix("data:").partition(";base64,")
    return kind, Image.open(io.BytesIO(base64.b64decode(content)))


@pytest.mark.parametrize("mode", ["L", "P", "RGB"])
def test_a_picture_is_opened_in_rgb_and_keeps_its_format(mode, tmp_path):
    noise(30, 20).convert(mode).save(tmp_path / "a.png")
    picture = open_picture(tmp_path / "a.png")
    assert (picture.mode, picture.size, picture.format) == ("RGB", (30, 20), "PNG")
    assert picture.tobytes() == Image.open(tmp_path / "a.png").convert("RGB").tobytes()


def test_a_truncated_file_is_an_error(tmp_path):
    (tmp_path / "a.jpg").write_bytes(encode(noise(300, 200), "jpeg")[:-5000])
    with pytest.raises(OSError):
        open_picture(tmp_path / "a.jpg")


def test_small_drawings_are_embedded_losslessly():
    kind, picture = embedded(thumbnail_url(noise(30, 20)))
    assert kind == "image/png" and picture.tobytes() == noise(30, 20).tobytes()


def test_photographs_and_large_pictures_are_embedded_as_jpeg(tmp_path):
    noise(30, 20).save(tmp_path / "a.jpg")
    assert embedded(thumbnail_url(open_picture(tmp_path / "a.jpg")))[0] == "image/jpeg"
    large = noise(2 * THUMBNAIL_PX, THUMBNAIL_PX)
    kind, picture = embedded(thumbnail_url(large))
    assert (kind, picture.size) == ("image/jpeg", (THUMBNAIL_PX, THUMBNAIL_PX // 2))
    assert large.size == (2 * THUMBNAIL_PX, THUMBNAIL_PX)  # the caller's picture is unchanged
    assert to_rgb(large) is not large


@pytest.mark.parametrize(
    ("name", "kind"), [("a.png", "image/png"), ("a.jpg", "image/jpeg"), ("a.unknown", "image/jpeg")]
)
def test_plain_files_are_sent_unchanged(name, kind, tmp_path):
    (tmp_path / name).write_bytes(encode(noise(30, 20), "png"))
    url = picture_url(tmp_path / name, by_path=False)
    assert url.startswith(f"data:{kind};base64,")
    assert base64.b64decode(url.partition(",")[2]) == (tmp_path / name).read_bytes()
    assert picture_url(tmp_path / name, by_path=True) == (tmp_path / name).as_uri()
