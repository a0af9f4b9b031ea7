"""Sample cards in HTML: a picture with the true and the answered boxes, what was asked, the reasoning and the answer.

`sample_card.js` and `sample_card.css` draw a card from JSON. Two pages embed them: the evaluation's report, and the
pages of validation answers that stage 2 writes (`render_page`). Each is one HTML file that holds its pictures.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

from jinja2 import Environment, PackageLoader
from PIL import Image

from qwen3vl_rl.data.pictures import open_picture, thumbnail_url, to_rgb
from qwen3vl_rl.grounding import Box, declines, parse_box_1000, reward_iou, scale_to_px


@dataclass(frozen=True, slots=True)
class CardAnswer:
    """What a card shows of one answer; `box` is xyxy in pixels.

    `iou` None: the expression has no referent. Tokens and latency are None if they are unknown.
    """

    box: Box | None
    iou: float | None
    right: bool
    reasoning: str
    answer: str
    tokens: int | None = None
    latency_s: float | None = None
    cut: bool = False
    error: str | None = None


class Example(NamedTuple):
    """One validation answer; `question` is the whole prompt."""

    image: str | Image.Image  # path, or the image itself where the parquet holds it
    question: str
    answer: str
    truth_1000: Box | None  # None: nothing fits the expression
    width: int  # of the image, in pixels
    height: int


def reasoning_and_answer(text: str) -> tuple[str, str]:
    """The text before the last `</think>`, and the text after it. Without one, all of the text is the answer."""
    reasoning, _, answer = text.rpartition("</think>")
    return reasoning.strip(), answer.strip()


def render_page(title: str, examples: Sequence[Example], parser: str, threshold: float) -> str:
    """The page as HTML: true boxes green, answered ones red. `parser`: a name of `grounding.PARSERS`; `threshold`: the
    IoU from which an answer is right, as the reward's `acc` has it."""
    environment = Environment(loader=PackageLoader("qwen3vl_rl", "data"), autoescape=True)
    samples = [_sample_fields(example, parser, threshold) for example in examples]
    return environment.get_template("sample_card.html.j2").render(title=title, samples=samples)


def _sample_fields(example: Example, parser: str, threshold: float) -> dict:
    """Converts all numbers to plain ones, because verl may keep numpy's with an answer."""
    picture = open_picture(example.image) if isinstance(example.image, str) else to_rgb(example.image)
    return {
        "question": example.question,
        "picture": thumbnail_url(picture),
        "width": int(example.width),
        "height": int(example.height),
        "truth": example.truth_1000 and _to_px(example.truth_1000, example),
        "answer": asdict(_card_answer(example, parser, threshold)),
    }


def _card_answer(example: Example, parser: str, threshold: float) -> CardAnswer:
    box_1000, truth_1000 = parse_box_1000(example.answer, parser), example.truth_1000
    reasoning, answer = reasoning_and_answer(example.answer)
    box = _to_px(box_1000, example) if box_1000 else None
    if truth_1000 is None:
        return CardAnswer(box=box, iou=None, right=declines(example.answer), reasoning=reasoning, answer=answer)
    iou = float(reward_iou(box_1000, truth_1000, example.width, example.height)) if box_1000 else 0.0
    return CardAnswer(box=box, iou=iou, right=box is not None and iou >= threshold, reasoning=reasoning, answer=answer)


def _to_px(xyxy_1000: Box, example: Example) -> Box:
    """Unrounded, for drawing."""
    x1, y1, x2, y2 = map(float, xyxy_1000)
    return scale_to_px((x1, y1, x2, y2), int(example.width), int(example.height))
