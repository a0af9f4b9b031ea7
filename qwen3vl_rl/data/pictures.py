"""Open pictures identically in all stages, encode them, and embed them in requests and pages as data URLs."""

import base64
import io
import mimetypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO
from urllib.request import urlopen

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

THUMBNAIL_PX = 512  # larger pictures are shrunk to this side
THUMBNAIL_QUALITY = 80

FETCH_TIMEOUT_S = 60
SHOWN_CHARACTERS = 100  # of a URL, in messages
MAX_PIXELS = 178_956_970  # Pillow rejects larger pictures
MAX_RATIO = 200  # Qwen's image processor rejects longer pictures

_ENDS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}  # found in the last bytes of a complete file
_END_BYTES = 64
_LATE_BYTES = 65_536  # last bytes of a PNG, where an orientation may follow the pixels
_LATE = (b"eXIf", b"exif", b"xmp")
_TURNED_BY = {"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"}  # keys of Pillow's `info` with orientations
_GREY_16 = {"I;16": "<u2", "I;16L": "<u2", "I;16B": ">u2"}
_MODES = {"1", "L", "P", "RGB", "CMYK", "YCbCr", "LA", "La", "PA", "RGBA", "RGBa", "RGBX", *_GREY_16}
_PLAIN = {"L", "RGB"}  # modes that every program decodes to the same pixels
_SIDEWAYS = {5, 6, 7, 8}  # EXIF orientations that swap width and height
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class PictureError(OSError):
    """A file that is not a usable picture. `expected`: what it should have been."""

    def __init__(self, expected: str):
        super().__init__(f"expected {expected}")
        self.expected = expected


@dataclass(frozen=True, slots=True)
class Header:
    """Properties of a picture that are known without decoding it.

    `size`: (width, height) in px as `open_picture` returns it; `stored`: the same before the EXIF orientation is
    applied. `orientation`: EXIF's number, 0 if there is none. `is_whole`: True if the file is certainly not truncated.
    `is_plain`: every program decodes the file to the same pixels.
    """

    size: tuple[int, int]
    stored: tuple[int, int]
    orientation: int
    is_whole: bool
    is_plain: bool


def open_picture(path: Path | str) -> Image.Image:
    """Decode a file to an RGB picture that keeps the file's `format`. See `to_rgb`.

    The file is opened here because Pillow 13 memory-maps files passed by name, and then garbles uncompressed TIFFs
    with a sideways orientation.
    """
    with _refusing(), open(path, "rb") as file, _opened(file) as opened:
        return to_rgb(opened)


def fetch_picture(url: str) -> Image.Image:
    """`open_picture` for an http, https or data URL. Raises PictureError, which names the URL."""
    try:
        with urlopen(url, timeout=FETCH_TIMEOUT_S) as answer, _opened(io.BytesIO(answer.read())) as opened:
            return to_rgb(opened)
    except (OSError, ValueError, HTTPException) as error:
        raise PictureError(f"a picture at {url[:SHOWN_CHARACTERS]} ({error})") from None


def to_rgb(opened: Image.Image) -> Image.Image:
    """Return a decoded RGB copy, which is the same in every stage and keeps its `format`.

    The EXIF orientation is applied, 16 bits are reduced to 8, and transparent pixels are drawn on white.
    Raises PictureError, an OSError, if the picture is broken or exceeds MAX_PIXELS or MAX_RATIO.
    """
    with _refusing():
        opened.load()
        _check(opened)
        turned = _turn(opened, _orientation(opened))
        picture = _flatten(turned)
    picture.format = opened.format
    picture.info = {}  # otherwise the orientation would be applied again
    return picture


def read_header(path: Path | str) -> Header:
    """Read a picture's properties from the header and the end of its file. Raises PictureError or FileNotFoundError."""
    with _refusing(), open(path, "rb") as file, _opened(file) as opened:
        tail = _tail(file, _LATE_BYTES if opened.format == "PNG" else _END_BYTES)
        is_whole = opened.format in _ENDS and _ENDS[opened.format] in tail[-_END_BYTES:]
        orientation, stored = _orientation(opened, tail), opened.size
        is_plain = opened.mode in _PLAIN and not orientation and not opened.has_transparency_data
        is_plain &= opened.format != "TIFF"  # Pillow may garble it, see `open_picture`
    size = stored[::-1] if orientation in _SIDEWAYS else stored
    return Header(size, stored, orientation, is_whole, is_plain)


def turned(xyxy: np.ndarray, orientation: int) -> np.ndarray:
    """Transform boxes [n, 4], xyxy in 0..1, from the stored picture to the picture with its orientation applied."""
    x1, y1, x2, y2 = xyxy.T
    corners = {
        2: (1 - x2, y1, 1 - x1, y2),
        3: (1 - x2, 1 - y2, 1 - x1, 1 - y1),
        4: (x1, 1 - y2, x2, 1 - y1),
        5: (y1, x1, y2, x2),
        6: (1 - y2, x1, 1 - y1, x2),
        7: (1 - y2, 1 - x2, 1 - y1, 1 - x1),
        8: (y1, 1 - x2, y2, 1 - x1),
    }
    return np.stack(corners[orientation], axis=1) if orientation else xyxy


def picture_size(content: bytes) -> tuple[int, int]:
    """(width, height) in px of an encoded picture, with its orientation applied. Raises PictureError."""
    with _opened(io.BytesIO(content)) as opened:
        return opened.size[::-1] if _orientation(opened, content[-_LATE_BYTES:]) in _SIDEWAYS else opened.size


def refused_size(width: int, height: int) -> str | None:
    """The limit that a picture of this size in px violates; None if it violates none."""
    if width * height > MAX_PIXELS:
        return f"at most {MAX_PIXELS:,} pixels (Pillow's limit)"
    if max(width, height) > MAX_RATIO * min(width, height):
        return f"a long side of at most {MAX_RATIO} times the short side (Qwen's limit)"
    return None


@contextmanager
def _opened(source: BinaryIO) -> Iterator[Image.Image]:
    with _refusing(), Image.open(source) as opened:
        _check(opened)
        yield opened


@contextmanager
def _refusing() -> Iterator[None]:
    """Convert Pillow's errors to PictureError. Which exceptions its decoders raise for broken files is undocumented."""
    try:
        yield
    except (PictureError, FileNotFoundError):
        raise
    except Image.DecompressionBombError:
        raise PictureError(f"at most {MAX_PIXELS:,} pixels (Pillow's limit)") from None
    except (UnidentifiedImageError, IsADirectoryError):
        raise PictureError("a readable image") from None
    except Exception as error:
        raise PictureError(f"a readable image ({error})") from None


def _check(opened: Image.Image) -> None:
    if opened.mode not in _MODES:
        raise PictureError(f"8 or 16 bits per channel, not Pillow's mode {opened.mode}")
    if expected := refused_size(*opened.size):
        raise PictureError(f"{expected}, not {opened.width}x{opened.height}")


def _orientation(opened: Image.Image, tail: bytes = b"") -> int:
    """The EXIF orientation, 0 if there is none. Also 0 for a TIFF, which Pillow turns itself.

    `tail`: the last bytes of a PNG that is not decoded yet. Pillow reads metadata after the pixels only when decoding.
    """
    if opened.format == "TIFF":
        return 0
    if opened.format == "PNG" and any(word in tail for word in _LATE):
        opened.load()
    if not _TURNED_BY & opened.info.keys():
        return 0
    try:
        found = opened.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # unreadable EXIF counts as no orientation
        return 0
    return found if found in _TURNS else 0


def _turn(opened: Image.Image, orientation: int) -> Image.Image:
    return opened.transpose(_TURNS[orientation]) if orientation else opened


def _flatten(picture: Image.Image) -> Image.Image:
    if picture.mode in _GREY_16:
        return Image.fromarray(_to_8_bits(picture)).convert("RGB")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _to_8_bits(picture: Image.Image) -> np.ndarray:
    """Keep the high byte, as Pillow does for 16-bit colours."""
    values = np.frombuffer(picture.tobytes(), _GREY_16[picture.mode]).reshape(picture.height, picture.width)
    high = (values >> 8).astype(np.uint8)
    transparent = picture.info.get("transparency")
    return high if transparent is None else np.where(values == transparent, np.uint8(255), high)


def _tail(file: BinaryIO, count: int) -> bytes:
    """The last `count` bytes of a file, whose position is restored."""
    place, end = file.tell(), file.seek(0, io.SEEK_END)
    file.seek(max(0, end - count))
    tail = file.read()
    file.seek(place)
    return tail


def encode(picture: Image.Image, kind: str, **options: object) -> bytes:
    """The picture encoded as `kind` ("jpeg", "png")."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def data_url(content: bytes, mime_type: str) -> str:
    return f"data:{mime_type};base64,{base64.b64encode(content).decode('ascii')}"


def picture_url(path: Path, by_path: bool) -> str:
    """A URL through which an engine sees the same pixels as `open_picture`.

    It is the file's `file://` address with `by_path`, else a data URL of the unchanged file. A picture that engines
    may decode differently (`is_plain` False) is sent as a data URL of its decoded pixels.
    """
    if not read_header(path).is_plain:
        return data_url(encode(open_picture(path), "png", compress_level=1), "image/png")
    if by_path:
        return path.as_uri()
    return data_url(path.read_bytes(), mimetypes.guess_type(path.name)[0] or "image/jpeg")


def thumbnail_url(picture: Image.Image) -> str:
    """A data URL of a picture for a page. Photographs become JPEG, because PNG needs ten times the bytes."""
    is_photo = picture.format == "JPEG" or max(picture.size) > THUMBNAIL_PX
    small = picture.copy()
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    if is_photo:
        return data_url(encode(small, "jpeg", quality=THUMBNAIL_QUALITY), "image/jpeg")
    return data_url(encode(small, "png", optimize=True), "image/png")
