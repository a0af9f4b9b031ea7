"""What the model that writes traces is shown and told."""

import io

import numpy as np
import pytest
from PIL import Image

from qwen3vl_rl.data.samples import Sample
from sft.trace_request import OUTLINE, Teacher, draw_target, render_request, request_body


def make_sample(box=(100.0, 60.0, 300.0, 260.0), modal=None) -> Sample:
    return Sample("7", "a.png", 640, 480, "the {box} on the left", box, modal)


@pytest.mark.parametrize("box", [(100.0, 60.0, 300.0, 260.0), (0.0, 0.0, 640.0, 480.0), (630.0, 470.0, 640.0, 480.0)])
def test_the_target_is_outlined_and_its_inside_left_alone(box, tmp_path):
    Image.new("RGB", (640, 480), "gray").save(tmp_path / "a.png")
    drawn = np.asarray(Image.open(io.BytesIO(draw_target(make_sample(box), tmp_path)))).astype(int)
    assert drawn.shape == (480, 640, 3)
    green = np.abs(drawn - OUTLINE).sum(axis=2) < 120
    rows, columns = np.nonzero(green)
    x1, y1, x2, y2 = (round(v) for v in box)
    reach = 5  # of the line, and of what JPEG blurs
    assert abs(columns.min() - x1) <= reach and abs(rows.min() - y1) <= reach
    assert abs(columns.max() - x2) <= reach and abs(rows.max() - y2) <= reach
    inside = green[y1 + reach : y2 - reach, x1 + reach : x2 - reach]
    assert not inside.any()


def test_a_grey_image_becomes_a_colour_image(tmp_path):
    Image.new("L", (640, 480)).save(tmp_path / "a.png")
    assert Image.open(io.BytesIO(draw_target(make_sample(), tmp_path))).mode == "RGB"


@pytest.mark.parametrize("modal", [None, (100.0, 60.0, 200.0, 260.0)])
def test_the_request_names_expression_and_box_in_1000(modal):
    text = render_request(make_sample(modal=modal))
    assert '"the {box} on the left"' in text  # braces in an expression are its own
    assert "[156, 125, 469, 542]" in text
    assert ("amodal" in text) == (modal is not None)


def test_the_body_holds_the_picture_and_the_sampling(tmp_path):
    Image.new("RGB", (640, 480), "gray").save(tmp_path / "a.png")
    body = request_body(Teacher("m", 0.7, 800, 0.0, 0.0), make_sample(), tmp_path)
    picture, text = body["messages"][0]["content"]
    assert picture["image_url"]["url"].startswith("data:image/jpeg;base64,/9j/")
    assert text["text"] == render_request(make_sample())
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0.7, 800)
