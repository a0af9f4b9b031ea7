"""What the report holds."""

import base64
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from PIL import Image

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.evaluation.reporting.report import read_curves, write_report

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


def test_the_report_is_made_of_finished_runs_alone(finished_runs, world, tmp_path):
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
