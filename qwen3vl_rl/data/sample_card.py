"""A page of answers, for the eye: each image with the true box (green) and the answered one (red), and the reasoning.

One HTML file that holds its images. Pure but for reading the images.
"""

import base64
from collections.abc import Sequence
from io import BytesIO
from typing import NamedTuple

from jinja2 import Environment, PackageLoader
from PIL import Image

from qwen3vl_rl.grounding import Box, parse_box_1000, reward_iou

MAX_SIDE_PX = 480  # larger images are embedded smaller


class Example(NamedTuple):
    image: str | Image.Image  # path, or the image itself where the parquet holds it
    question: str
    answer: str
    truth_1000: Box
    width: int  # of the image, in pixels
    height: int


class Shown(NamedTuple):
    """An example as the template takes it; boxes are xyxy on the 0..1000 scale."""

    question: str
    answer: str
    image_url: str
    width: int
    height: int
    truth: Box
    predicted: Box | None
    iou: float


def render_page(title: str, examples: Sequence[Example], parser: str) -> str:
    """The page as HTML. `parser`: a name of `grounding.PARSERS`."""
    environment = Environment(loader=PackageLoader("qwen3vl_rl", "data"), autoescape=True)
    shown = [_shown(example, parser) for example in examples]
    return environment.get_template("sample_card.html.j2").render(title=title, examples=shown)


def _shown(example: Example, parser: str) -> Shown:
    predicted = parse_box_1000(example.answer, parser)
    overlap = reward_iou(predicted, example.truth_1000, example.width, example.height) if predicted else 0.0
    return Shown(
        question=example.question,
        answer=example.answer,
        image_url=_image_url(example.image),
        width=example.width,
        height=example.height,
        truth=example.truth_1000,
        predicted=predicted,
        iou=overlap,
    )


def _image_url(image: str | Image.Image) -> str:
    buffer = BytesIO()
    picture = (Image.open(image) if isinstance(image, str) else image).convert("RGB")
    picture.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX))
    picture.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
