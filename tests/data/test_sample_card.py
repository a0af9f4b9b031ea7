"""The page shows what was asked, where the boxes lie, and what was answered."""

import re

import pytest
from PIL import Image

from qwen3vl_rl.data.sample_card import Example, render_page
from qwen3vl_rl.grounding import answer_text


@pytest.fixture
def example(tmp_path):
    Image.new("RGB", (1200, 300), "white").save(tmp_path / "image.png")
    answer = f"left of <the> door\n</think>\n\n{answer_text((100, 200, 500, 600), 'cup')}"
    return Example(str(tmp_path / "image.png"), "Locate a <cup>", answer, (100, 200, 500, 700), 1200, 300)


def test_boxes_are_drawn_over_the_image_in_relative_coordinates(example):
    page = render_page("validation at step 3", [example], "strict")
    boxes = re.findall(r'<rect class="(\w+)" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"/>', page)
    assert [(name, *map(float, box)) for name, *box in boxes] == [
        ("truth", 100, 200, 400, 500),
        ("predicted", 100, 200, 400, 400),
    ]
    assert 'scale(1.2 0.3)"' in page
    assert "IoU 0.80" in page
    assert page.count("data:image/jpeg;base64,") == 1


def test_question_and_answer_are_text_not_markup(example):
    page = render_page("<i>", [example], "strict")
    assert "Locate a &lt;cup&gt;" in page and "left of &lt;the&gt; door" in page
    assert "<i>" not in page


def test_an_answer_without_a_box_says_so(example):
    page = render_page("step 3", [example._replace(answer="no idea")], "strict")
    assert "no box" in page
    assert 'class="predicted"' not in page


def test_the_image_itself_does_as_well(example):
    shown = render_page("step 3", [example._replace(image=Image.open(example.image))], "strict")
    assert shown == render_page("step 3", [example], "strict")
