"""What a reader sees of finished runs: tables in every format, and what the report holds."""

import base64
import csv
import io
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.evaluation.report import read_curves, write_report
from qwen3vl_rl.evaluation.reporting import table_formats as formats
from qwen3vl_rl.evaluation.reporting.browser import browser_data, spread
from qwen3vl_rl.evaluation.run import Load, Result, Run, read_result, read_results
from qwen3vl_rl.evaluation.scoring import published
from qwen3vl_rl.evaluation.scoring.metrics import is_correct, summarize, summarize_latency
from qwen3vl_rl.evaluation.serving.questions import read_questions
from qwen3vl_rl.evaluation.serving.server import Endpoint
from qwen3vl_rl.evaluation.serving.settings import load_settings
from qwen3vl_rl.evaluation.table import (
    DASH,
    accuracy_table,
    evaluation_tables,
    group_table,
    notes,
    number_table,
    render,
)


@pytest.fixture
def results(finished_runs):
    return [read_result(folder) for folder in finished_runs]


@pytest.fixture
def make_result(make_prediction):
    """`make_result({split: correct answers of the samples})`: a result without files."""

    def make(splits):
        rows = [
            make_prediction(i, right, split=split) for split, rights in splits.items() for i, right in enumerate(rights)
        ]
        summary = summarize(rows)
        latency = summarize_latency(rows, summary["average"]["of"])
        return Result("ours", rows, summary, {"concurrency": 8, "resumed": False, "latency": latency})

    return make


def test_the_tables_fit_a_terminal_and_hold_every_number(results):
    text = render(evaluation_tables(results), results)
    assert max(map(len, text.splitlines())) <= 100
    assert re.search(r"^base +0\.0 +0\.0 +0\.0 +0\.0 +0\.0$", text, re.MULTILINE)
    lines = {tuple(line.split()[:2]): line for line in text.splitlines() if line}
    assert lines["base", DASH].split()[2:] == [DASH, DASH, "0.250", "0.250", "0.250"]  # nothing was asked
    order = re.findall(r"^(refshapes_\w+|average) ", text, re.MULTILINE)
    splits = ["refshapes_val", "refshapes_testA", "refshapes_testB", "average", "refshapes_amodal_val"]
    assert order == splits * 2
    assert re.search(r"^average +sft . base +\+50\.0 .* 9 +0 +p = 0\.004$", text, re.MULTILINE)
    assert re.search(r"^ +rl . base +\+100\.0 .* 18 +0 +p < 0\.001$", text, re.MULTILINE)
    assert "IoU > 0.5" in text
    assert "Resumed" in text  # these runs found all their rows written


def test_the_kinds_of_samples_hold_all_of_them(results):
    counts = {}
    for kind, group, *cells in group_table(results).rows:
        counts.setdefault(kind, []).append((group, int(re.search(r"\((\d+)\)", cells[0])[1])))
    assert sum(count for _, count in counts["length"]) == sum(count for _, count in counts["box"]) == 18
    assert sum(count for _, count in counts["refshapes_amodal_val, whole / visible"]) == 6


def test_published_rows_stand_beside_ours_and_partial_splits_are_marked(make_result):
    table = accuracy_table([make_result({"refcoco_val": [True] * 3, "refcocog_test": [False] * 2})])
    assert table.header == ("model", "val", "A", "B", "+ val", "+ A", "+ B", "g val", "g test", "average")
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["EGM-8B (published)"] == ("93.9", "95.0", "91.2", "90.1", "93.3", "85.9", "90.4", "91.2", "91.4")
    assert rows["ours"] == ("100.0†", *[DASH] * 6, "0.0†", "50.0†")


def test_a_split_of_the_published_size_is_not_marked_and_a_larger_one_is_another_version(make_result):
    smallest = min(published.splits(), key=lambda split: published.splits()[split].samples)
    count = published.splits()[smallest].samples
    for samples, cell in ((count, "100.0"), (count + 1, "100.0‡")):
        result = make_result({smallest: [True] * samples})
        assert cell in accuracy_table([result]).rows[-2]
    assert "another version" in render([], [result])


def test_an_average_over_more_than_the_published_splits_is_marked(monkeypatch, make_result):
    whole = {name: replace(split, samples=2) for name, split in published.splits().items()}
    monkeypatch.setattr(published, "splits", lambda: whole)
    ours = {name: [True, False] for name in whole}
    for splits, cell in ((ours, "50.0"), (ours | {"refshapes_val": [True]}, "55.6†")):
        result = make_result(splits)
        table = accuracy_table([result])
        assert table.rows[-2][table.header.index("average")] == cell
    assert "† fewer samples than published, or an average over other" in " ".join(notes([result]))


def test_other_data_gets_no_published_rows(results):
    assert [row[0] for row in accuracy_table(results).rows] == ["base", "  ±", "sft", "  ±", "rl", "  ±"]


@pytest.mark.parametrize("form", ["markdown", "latex"])
def test_documents_have_one_width_per_table(results, form):
    separator, ending = {"markdown": ("|", "|"), "latex": ("&", r"\\")}[form]
    for part in render(evaluation_tables(results), results, form).split("\n\n"):
        rows = [line for line in part.splitlines() if line.endswith(ending) and separator in line]
        assert len({line.count(separator) for line in rows}) <= 1
    latex = render(evaluation_tables(results), results, "latex")
    assert latex.count(r"\begin{tabular}") == latex.count(r"\bottomrule") == 4
    assert r"\&" not in latex
    assert not re.search(r"(?<!\\)_", re.sub(r"^%.*", "", latex, flags=re.MULTILINE))


def test_csv_holds_every_number_unrounded(results):
    rows = list(csv.DictReader(io.StringIO(render([number_table(results)], results, "csv"))))
    ours = {(row["model"], row["split"]): row for row in rows}
    exact = results[1].summary["splits"]["refshapes_val"]
    row = ours["sft", "refshapes_val"]
    assert float(row["acc"]) == exact["acc"] and float(row["mean_iou"]) == exact["mean_iou"]
    assert (float(row["acc_low"]), float(row["acc_high"])) == tuple(exact["acc_interval"])
    assert {model for model, _ in ours} == {"base", "sft", "rl"}


def test_csv_of_refcoco_holds_the_published_rows(make_result):
    results = [make_result({"refcoco_val": [True, False]})]
    rows = list(csv.DictReader(io.StringIO(render([number_table(results)], results, "csv"))))
    accs = {(row["model"], row["split"]): row["acc"] for row in rows}
    assert (accs["ours", "refcoco_val"], accs["published EGM-8B", "refcoco_val"]) == ("0.5", "0.939")


def test_runs_over_other_samples_are_shown_without_differences(results, make_result):
    assert len(evaluation_tables([results[0], make_result({"refshapes_val": [True]})])) == 3


def test_differences_that_are_left_out_are_said(results, make_result):
    assert "differences are left out" in " ".join(notes([results[0], make_result({"refshapes_val": [True]})]))
    assert "differences are left out" not in " ".join(notes(results))


def test_runs_of_one_name_keep_their_own_numbers(finished_runs, tmp_path):
    folders = [tmp_path / place / "model" for place in ("a", "b")]
    for old, new in zip(finished_runs[::2], folders, strict=True):
        shutil.copytree(old, new)
    results = read_results(folders)
    assert [result.name for result in results] == ["a/model", "b/model"]
    for _, _, first, second in group_table(results).rows:
        assert first.startswith("0.0") and first != second
    with pytest.raises(InputError, match="every run once"):
        read_results([folders[0], folders[0]])


def test_latex_writes_signs_as_math():
    assert r"p $<$ 0.001" in formats.latex(formats.Table("t", ("a", "b"), [("x", "p < 0.001")]))


def test_the_report_is_made_of_finished_runs_alone(finished_runs, world, tmp_path):
    page = tmp_path / "joint.html"
    command = [sys.executable, "-m", "qwen3vl_rl.evaluation.report", *finished_runs[:2]]
    command += ["--images", world / "images", "--out", page]
    subprocess.run(list(map(str, command)), check=True)
    assert "sft" in page.read_text(encoding="utf-8")


def test_a_picture_that_cannot_be_decoded_does_not_cost_the_report(results, world, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(world / "images", images)
    broken = images / results[0].predictions[0].image
    broken.write_bytes(broken.read_bytes()[:200])
    shown = browser_data(results, images)["samples"]
    assert shown and results[0].predictions[0].image not in {sample["image"] for sample in shown}


def test_no_referent_is_a_line_of_its_own(make_result):
    result = make_result({"toy_val": [True, True, False]})
    rows = [result.predictions[0], *(replace(row, xyxy_px=None, iou=None) for row in result.predictions[1:])]
    rows[2] = replace(rows[2], pred_xyxy_px=None)
    text = render(evaluation_tables([replace(result, predictions=rows, summary=summarize(rows))]), [result])
    assert re.search(r"^toy_val +ours +1 +100\.0", text, re.MULTILINE)
    assert re.search(r"^  no referent: declined +ours +2 +50\.0$", text, re.MULTILINE)


def test_a_folder_without_a_finished_run_is_named(tmp_path):
    with pytest.raises(InputError, match=r"found no predictions\.jsonl"):
        read_result(tmp_path)


def test_a_retry_that_was_cut_off_is_not_read_as_finished(finished_runs, world):
    """What failed has lost its row by then, and the scores of the first end are still there."""
    folder, images = finished_runs[0], world / "images"
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    rows[3]["error"] = "HTTP 500"
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_result(folder).summary["failed"]
    run = Run(folder, "base", read_questions([world / "eval"], images), load_settings(), Endpoint("http://localhost:1"))
    with pytest.raises(InputError, match="expected an OpenAI-compatible server"):
        run.complete(images, Load(concurrency=8, retry_failed=True))
    with pytest.raises(InputError, match="base: expected a finished evaluation, found 23 rows for 24 samples"):
        read_result(folder)


def test_a_config_that_tells_no_samples_is_named(finished_runs):
    (finished_runs[0] / "config.yaml").write_text("model: base\n")
    with pytest.raises(InputError, match=r'base/config\.yaml: field "samples": expected the count of each split'):
        read_result(finished_runs[0])


def test_the_command_line_prints_the_papers_layout(finished_runs):
    command = [sys.executable, "-m", "qwen3vl_rl.evaluation.table", *map(str, finished_runs)]
    shown = subprocess.run(command, capture_output=True, text=True)
    assert shown.returncode == 0 and shown.stdout.startswith("Acc@0.5 in percent"), shown.stderr
    wrong = subprocess.run([*command, "absent"], capture_output=True, text=True)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)


def test_every_split_and_outcome_is_among_the_first_samples(results):
    joined = [dict(zip("abc", rows, strict=True)) for rows in zip(*(r.predictions for r in results), strict=True)]
    kinds = [(rows["a"].split, tuple(map(is_correct, rows.values()))) for rows in spread(joined)]
    assert len(kinds) == len(joined)
    assert len(set(kinds[: len(set(kinds))])) == len(set(kinds)) == 8


def test_pictures_stay_within_their_budget(results, world, monkeypatch):
    monkeypatch.setattr("qwen3vl_rl.evaluation.reporting.browser.PICTURES_BYTES", 3_000)
    data = browser_data(results, world / "images")
    assert 0 < len(data["samples"]) < data["total"] == 24
    assert {sample["image"] for sample in data["samples"]} == set(data["pictures"])
    assert sum(map(len, list(data["pictures"].values())[:-1])) < 3_000


def test_photographs_stay_small(results, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (375, 500, 3), dtype=np.uint8)
    for row in results[0].predictions:
        (tmp_path / row.image).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).save(tmp_path / row.image, "JPEG")
    pictures = browser_data(results, tmp_path)["pictures"].values()
    assert all(url.startswith("data:image/jpeg") for url in pictures)


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
