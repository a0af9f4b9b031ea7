"""The chat request for a reasoning trace: the image with the target outlined, the expression and the box."""

from dataclasses import dataclass
from pathlib import Path

from PIL import ImageDraw

from qwen3vl_rl.data.pictures import data_url, encode, open_picture
from qwen3vl_rl.data.samples import Sample
from qwen3vl_rl.grounding import px_to_1000

PROMPTS = Path(__file__).parent / "prompts"
OUTLINE = (0, 255, 0)
JPEG_QUALITY = 90


@dataclass(frozen=True, slots=True)
class Teacher:
    """The model that writes traces, and its sampling settings. Prices are in dollars per million tokens."""

    model: str
    temperature: float
    max_tokens: int
    input_price: float
    output_price: float


def draw_target(sample: Sample, images: Path) -> bytes:
    """The image with the sample's box outlined, as JPEG. The line is outside of the box if there is room."""
    image = open_picture(images / sample.image)
    width_px = max(2, round(min(image.size) / 150))
    x1, y1, x2, y2 = sample.xyxy_px
    left, top = max(0, x1 - width_px), max(0, y1 - width_px)
    right, bottom = min(image.width, x2 + width_px) - 1, min(image.height, y2 + width_px) - 1
    ImageDraw.Draw(image).rectangle((left, top, right, bottom), outline=OUTLINE, width=width_px)
    return encode(image, "jpeg", quality=JPEG_QUALITY)


def render_request(sample: Sample) -> str:
    """The text of the request for a trace of `sample`."""
    template = (PROMPTS / ("vanilla.txt" if sample.modal_xyxy_px is None else "amodal.txt")).read_text()
    box = list(px_to_1000(sample.xyxy_px, sample.width, sample.height))
    return template.replace("{box}", str(box)).replace("{sent}", sample.sent)


def request_body(teacher: Teacher, sample: Sample, images: Path) -> dict:
    content = [
        {"type": "image_url", "image_url": {"url": data_url(draw_target(sample, images), "image/jpeg")}},
        {"type": "text", "text": render_request(sample)},
    ]
    return {
        "model": teacher.model,
        "messages": [{"role": "user", "content": content}],
        "temperature": teacher.temperature,
        "max_tokens": teacher.max_tokens,
    }
