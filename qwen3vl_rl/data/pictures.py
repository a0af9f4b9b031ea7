"""Pictures: opened, encoded, and put into requests and pages as data URLs."""

import base64
import io
import mimetypes
from pathlib import Path

from PIL import Image

THUMBNAIL_PX = 512  # larger pictures are embedded smaller
THUMBNAIL_QUALITY = 80


def open_picture(path: Path | str) -> Image.Image:
    """The picture of a file in RGB, decoded in full; its `format` is the file's. Raises OSError where it is broken."""
    with Image.open(path) as opened:
        return to_rgb(opened)


def to_rgb(opened: Image.Image) -> Image.Image:
    """A copy in RGB, decoded in full; its `format` is kept."""
    picture = opened.convert("RGB")
    picture.format = opened.format
    return picture


def encode(picture: Image.Image, kind: str, **options: object) -> bytes:
    """The picture as a file of `kind` ("jpeg", "png")."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def data_url(content: bytes, mime_type: str) -> str:
    return f"data:{mime_type};base64,{base64.b64encode(content).decode('ascii')}"


def file_url(path: Path) -> str:
    """A picture's file as it is, not decoded, as a data URL."""
    return data_url(path.read_bytes(), mimetypes.guess_type(path.name)[0] or "image/jpeg")


def thumbnail_url(picture: Image.Image) -> str:
    """A picture for a page, as a data URL: photographs as JPEG, for which PNG takes ten times the bytes."""
    is_photo = picture.format == "JPEG" or max(picture.size) > THUMBNAIL_PX
    small = picture.copy()
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    if is_photo:
        return data_url(encode(small, "jpeg", quality=THUMBNAIL_QUALITY), "image/jpeg")
    return data_url(encode(small, "png", optimize=True), "image/png")
