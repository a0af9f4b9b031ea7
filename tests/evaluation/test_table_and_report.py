"""What a reader sees of finished runs: the table in a terminal and in Markdown, and the report."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from qwen3vl_rl.evaluation.report import EXAMPLES_PER_SPLIT, choose_examples, write_report
from qwen3vl_rl.evaluation.run import read_result
from qwen3vl_rl.evaluation.table import table_markdown, table_text
from qwen3vl_rl.grounding import InputError


@pytest.fixture
def results(finished_runs):
    return [read_result(folder) for folder in finished_runs]


def test_the_table_fits_a_terminal_and_holds_every_number(results):
    text = table_text(results)
    assert max(map(len, text.splitlines())) <= 100
    lines = {tuple(line.split()[:2]): line for line in text.splitlines() if line}
    assert "0.0" in lines["refshapes_val", "base"] and "0.25 s" in lines["refshapes_val", "base"]
    order = re.findall(r"^(refshapes_\w+|average) ", text, re.MULTILINE)
    splits = ["refshapes_val", "refshapes_testA", "refshapes_testB", "average", "refshapes_amodal_val"]
    assert order == splits * 2
    assert re.search(r"average .*\+50\.0 \(.*\+50\.0 \(.*\+100\.0 \(", text)
    assert "8 requests in flight" in text and "IoU > 0.5" in text
    assert "Resumed" in text  # these runs found all their rows written


def test_markdown_has_one_width_per_table(results):
    tables = [part for part in table_markdown(results).split("\n\n") if part.startswith("|")]
    assert [{line.count("|") for line in table.splitlines()} for table in tables] == [{10}, {5}]


def test_a_folder_without_a_finished_run_is_named(tmp_path):
    with pytest.raises(InputError, match=r"found no predictions\.jsonl"):
        read_result(tmp_path)


def test_examples_take_turns_through_the_outcomes(results):
    chosen = choose_examples(results)
    assert list(chosen) == ["refshapes_val", "refshapes_testA", "refshapes_testB", "refshapes_amodal_val"]
    for examples in chosen.values():
        images = [example.image for example in examples]
        assert 0 < len(images) == len(set(images)) <= EXAMPLES_PER_SPLIT
    against_half = choose_examples(results[:2])["refshapes_val"]
    assert {example.outcome for example in against_half} == {"learned", "still wrong"}


class _Page(HTMLParser):
    """Collects what a page embeds and links, and checks that its tags close."""

    def __init__(self, html: str):
        super().__init__()
        self.links, self.open = [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in ("href", "src", "xlink:href")]
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in ("href", "src", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_report_is_one_whole_page_that_loads_nothing(results, world, tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("".join(json.dumps({"step": i, "data": {"train/loss": 3 - i}}) + "\n" for i in range(3)))
    path = write_report(tmp_path / "report" / "index.html", results, world / "images", {"SFT": str(metrics)})
    html = path.read_text()
    page = _Page(html)
    assert page.open == []
    assert all(link.startswith(("data:image/", "#")) for link in page.links)
    assert "url(http" not in html and "<script" not in html
    assert "SFT: training loss" in html
    assert "<i>" not in html and "&lt;i&gt;" in html  # answers are shown as text
    pictures = [link for link in page.links if link.startswith("data:image/")]
    assert len(pictures) == html.count("<article")  # one copy a sample, however many models
    embedded = Image.open(io.BytesIO(base64.b64decode(pictures[0].partition(",")[2])))
    original = Image.open(world / "images" / choose_examples(results)["refshapes_val"][0].image)
    assert embedded.tobytes() == original.convert("RGB").tobytes()
    again = write_report(tmp_path / "again.html", results, world / "images", {"SFT": str(metrics)})
    assert again.read_text() == html


def test_curves_of_a_file_that_holds_none_are_refused(results, world, tmp_path):
    with pytest.raises(InputError, match="expected training metrics"):
        curves = {"SFT": str(world / "eval" / "refshapes_val.jsonl")}
        write_report(tmp_path / "index.html", results, world / "images", curves)
