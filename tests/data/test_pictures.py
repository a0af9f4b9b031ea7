"""Pictures are opened in RGB, and their data URLs can be opened again."""

import base64
import io
import re
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pytest
from PIL import ExifTags, Image

from qwen3vl_rl.data.pictures import (
    THUMBNAIL_PX,
    PictureError,
    data_url,
    encode,
    fetch_picture,
    open_picture,
    picture_url,
    thumbnail_url,
    to_rgb,
)


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


@pytest.fixture
def site(tmp_path):
    """The address of a server of the files in `tmp_path`."""
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_picture_at_a_url_is_opened_like_a_file(site, tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    noise(30, 20).save(tmp_path / "a.png", exif=exif)
    for url in (f"{site}/a.png", data_url((tmp_path / "a.png").read_bytes(), "image/png")):
        found = fetch_picture(url)
        assert found.size == (20, 30) and found.tobytes() == open_picture(tmp_path / "a.png").tobytes()


def test_a_url_without_a_picture_is_an_error_that_names_it(site, tmp_path):
    (tmp_path / "a.png").write_bytes(encode(noise(30, 20), "png")[:500])
    for url in (f"{site}/a.png", f"{site}/none.png", "data:image/png;base64,abc", "http://127.0.0.1:1/a.png"):
        with pytest.raises(PictureError, match=f"expected a picture at {re.escape(url)} \\("):
            fetch_picture(url)


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
