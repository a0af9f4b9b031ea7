"""The content of the report, and its order."""

import base64
import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from PIL import Image

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.evaluation.reporting.findings import clear_differences, headline
from qwen3vl_rl.evaluation.reporting.report import read_curves, write_report
from qwen3vl_rl.evaluation.reporting.tables import DASH, compare_runs, summary_places

pytestmark = pytest.mark.slow


class _Page(HTMLParser):
    """Collects what a page embeds and links, and checks that its tags close."""

    def __init__(self, html: str):
        super().__init__()
        self.links, self.open = [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in ("href", "src", "xlink:href")]
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in ("href", "src", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_report_is_one_whole_page_that_loads_nothing(results, world, tmp_path):
    metrics = tmp_path / "metrics-000.jsonl"
    metrics.write_text("".join(json.dumps({"step": i, "data": {"train/loss": 3 - i}}) + "\n" for i in range(3)))
    curves = read_curves({"SFT": str(metrics)})
    path = write_report(tmp_path / "report" / "report.html", results, world / "images", curves)
    html = path.read_text()
    page = _Page(html)
    assert page.open == []
    assert all(link.startswith(("data:image/", "#")) for link in page.links)
    assert "url(http" not in html and "SFT: training loss" in html
    assert "<i>" not in html.partition("</style>")[2].partition('id="data"')[2]  # answers stay text
    data = json.loads(re.search(r'id="data">(.*?)</script>', html, re.DOTALL)[1])
    assert len(data["samples"]) == data["total"] == 24
    sample = data["samples"][0]
    embedded = Image.open(io.BytesIO(base64.b64decode(data["pictures"][sample["image"]].partition(",")[2])))
    assert embedded.tobytes() == Image.open(world / "images" / sample["image"]).convert("RGB").tobytes()
    assert write_report(tmp_path / "again.html", results, world / "images", curves).read_text() == html


def test_the_report_opens_with_the_result(results, world, tmp_path):
    html = write_report(tmp_path / "report.html", results, world / "images", {}).read_text()
    pairs = compare_runs(results)
    line, sentences = headline(results, pairs), clear_differences(pairs, summary_places(results))
    assert line.startswith("rl is best on average with 100.0 % right, clearly better than base") and sentences
    parts = [f"<h1>{line.replace(' %', chr(0xA0) + '%')}</h1>", "<figcaption>average</figcaption>"]
    parts += ["<figcaption>refshapes_val</figcaption>", "tokens per answer</figcaption>"]
    parts += [f"<li>{sentence}</li>" for sentence in sentences]
    parts += ["One model right, another wrong: 24 of 24 samples</h2>", 'id="differing-cards"']
    parts += [f"<h2>{title}" for title in ("Acc@0.5 in percent", "Paired difference", "Details", "Latency")]
    parts += ['id="filters"', 'id="cards"']
    places = [html.find(part) for part in parts]
    assert -1 not in places and places == sorted(places)
    assert all(html.count(part) == 1 for part in parts)
    assert html.count("<li>") == len(sentences)


def test_every_drawing_has_a_text(results, world, tmp_path):
    html = write_report(tmp_path / "report.html", results, world / "images", {}).read_text()
    drawings = re.findall(r'(<div role="img" aria-label="[^"]+">)?(<svg[^>]*>)', html.partition("<dialog")[0])
    assert len(drawings) == 5 + 1 + 3
    assert all(parent or 'role="img" aria-label="' in svg for parent, svg in drawings)
    assert f'aria-label="average: base 0.0 (0.0{DASH}0.0); sft 50.0 (' in html
    assert f"rl 100.0 (100.0{DASH}100.0) with 30 tokens" in html


def test_one_run_has_a_result_and_nothing_to_compare(results, world, tmp_path):
    html = write_report(tmp_path / "report.html", results[1:2], world / "images", {}).read_text()
    assert "<h1>sft has 50.0" in html
    assert "Clear differences" not in html and 'id="differing' not in html


def test_runs_without_a_clear_difference_say_so(results, world, tmp_path):
    same = [results[1], replace(results[1], name="again")]
    html = write_report(tmp_path / "report.html", same, world / "images", {}).read_text()
    assert "no paired difference has a 95 % interval that excludes 0" in html
    assert 'id="differing' not in html


def test_the_command_line_writes_a_report_of_finished_runs(finished_runs, world, tmp_path):
    page = tmp_path / "joint.html"
    command = [sys.executable, "-m", "qwen3vl_rl.evaluation.report", *finished_runs[:2]]
    command += ["--images", world / "images", "--out", page]
    subprocess.run(list(map(str, command)), check=True)
    assert "sft" in page.read_text(encoding="utf-8")


def test_curves_hold_all_starts_of_a_run(tmp_path):
    for start, steps in enumerate(([1, 2, 3], [3, 4])):
        rows = [json.dumps({"step": step, "data": {"train/loss": 10 * start + step}}) + "\n" for step in steps]
        (tmp_path / f"metrics-00{start}.jsonl").write_text("".join(rows))
    curves = read_curves({"SFT": str(tmp_path / "metrics-001.jsonl"), "again": str(tmp_path)})
    assert (
        curves["SFT"]
        == curves["again"]
        == {1: {"train/loss": 1}, 2: {"train/loss": 2}}
        | {
            3: {"train/loss": 13},
            4: {"train/loss": 14},
        }
    )


def test_curves_of_a_misspelt_run_are_not_those_of_the_folder_above(monkeypatch, tmp_path):
    (tmp_path / "metrics-000.jsonl").write_text(json.dumps({"step": 1, "data": {"train/loss": 1}}) + "\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="sft-misspelt: expected a training run or a metrics file of it"):
        read_curves({"SFT": "sft-misspelt"})


def test_curves_of_a_folder_that_holds_none_are_refused(world):
    with pytest.raises(InputError, match="expected a training run"):
        read_curves({"SFT": str(world / "eval")})
