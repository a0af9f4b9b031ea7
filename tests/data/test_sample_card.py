"""The page shows the question, the boxes and the answer."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from qwen3vl_rl.data.sample_card import Example, reasoning_and_answer, render_page
from qwen3vl_rl.grounding import answer_text
from tests.chromium import find_chromium, visit_page


@pytest.fixture
def example(tmp_path):
    Image.new("RGB", (1200, 300), "white").save(tmp_path / "image.png")
    answer = f"left of <the> door\n</think>\n\n{answer_text((100, 200, 500, 600), 'cup')}"
    return Example(str(tmp_path / "image.png"), "Locate a <cup>", answer, (100, 200, 500, 700), 1200, 300)


def samples(page):
    """The data that the page's script draws."""
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_boxes_are_in_pixels_of_the_picture(example):
    page = render_page("validation at step 3", [example], "strict", 0.5)
    (sample,) = samples(page)
    assert (sample["width"], sample["height"]) == (1200, 300)
    assert sample["truth"] == pytest.approx([120, 60, 600, 210])
    assert sample["answer"]["box"] == pytest.approx([120, 60, 600, 180])
    assert sample["answer"]["iou"] == pytest.approx(0.8) and sample["answer"]["right"]
    assert page.count("data:image/jpeg;base64,") == 1


def test_question_and_answer_are_text_not_markup(example):
    page = render_page("<i>", [example], "strict", 0.5)
    (sample,) = samples(page)
    assert sample["question"] == "Locate a <cup>" and sample["answer"]["reasoning"] == "left of <the> door"
    assert not any(text in page for text in ("<i>", "<cup>", "<the>"))


def test_an_answer_without_a_box_counts_as_wrong(example):
    (sample,) = samples(render_page("step 3", [example._replace(answer="no idea")], "strict", 0.5))
    answer = sample["answer"]
    assert (answer["box"], answer["iou"], answer["right"], answer["answer"]) == (None, 0.0, False, "no idea")


def test_image_objects_are_accepted(example):
    shown = render_page("step 3", [example._replace(image=Image.open(example.image))], "strict", 0.5)
    assert shown == render_page("step 3", [example], "strict", 0.5)


def test_numpy_numbers_are_accepted(example):
    truth, width, height = tuple(np.array(example.truth_1000)), np.int64(1200), np.int64(300)
    shown = render_page("step 3", [example._replace(truth_1000=truth, width=width, height=height)], "strict", 0.5)
    assert shown == render_page("step 3", [example], "strict", 0.5)


def test_the_answer_follows_the_last_end_of_reasoning():
    assert reasoning_and_answer("a </think> b </think>\n c") == ("a </think> b", "c")
    assert reasoning_and_answer(" no end ") == ("", "no end")


@pytest.mark.skipif(find_chromium() is None, reason="needs chromium")
def test_a_browser_draws_the_cards(example, tmp_path):
    page = tmp_path / "3.html"
    page.write_text(
        render_page("step 3", [example, example._replace(answer="no idea")], "strict", 0.5), encoding="utf-8"
    )

    async def scenario(window):
        places = "['x', 'y', 'width', 'height'].map((name) => Number(rect.getAttribute(name)))"
        drawn = "[...document.querySelectorAll('rect:not(.halo)')].map((rect) => "
        assert await window.run(drawn + "rect.getAttribute('class'))") == ["truth", "prediction", "truth"]
        boxes = await window.run(drawn + places + ")")
        assert boxes[:2] == [pytest.approx([120, 60, 480, 150]), pytest.approx([120, 60, 480, 120])]
        assert await window.run("document.querySelector('svg').getAttribute('viewBox')") == "0 0 1200 300"
        texts = await window.run("[...document.querySelectorAll('section')].map((section) => section.innerText)")
        assert "Locate a <cup>" in texts[0] and "IoU 0.80" in texts[0] and "left of <the> door" in texts[0]
        assert "no box" in texts[1] and "no idea" in texts[1]

    visit_page(page.as_uri(), 1366, 768, scenario, tmp_path / "profile")
