"""The tables of finished runs in every format."""

import csv
import io
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from qwen3vl_rl.evaluation.reporting.tables import (
    DASH,
    accuracy_table,
    compare_runs,
    evaluation_tables,
    group_table,
    notes,
    number_table,
    render,
)
from qwen3vl_rl.evaluation.scoring import published
from qwen3vl_rl.evaluation.scoring.metrics import summarize, summarize_latency
from qwen3vl_rl.evaluation.scoring.results import Result


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


def test_refcoco_results_get_published_rows_and_partial_splits_are_marked(make_result):
    table = accuracy_table([make_result({"refcoco_val": [True] * 3, "refcocog_test": [False] * 2})])
    assert table.header == ("model", "val", "A", "B", "+ val", "+ A", "+ B", "g val", "g test", "average")
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["EGM-8B (published)"] == ("93.9", "95.0", "91.2", "90.1", "93.3", "85.9", "90.4", "91.2", "91.4")
    assert rows["EGM-8B, model card (published)"][:3] == ("93.9", "95.6", "91.2")
    assert rows["ours"] == ("100.0†", *[DASH] * 6, "0.0†", "50.0†")


@pytest.mark.slow
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


def test_the_differences_come_after_the_accuracy_and_before_the_details(results):
    titles = [table.title.split()[0] for table in evaluation_tables(results)]
    assert titles == ["Acc@0.5", "Paired", "Details", "Latency"]


def test_each_model_is_compared_with_the_one_before_it_and_last_and_best_with_the_first(make_result):
    counts = {"a": 1, "b": 2, "c": 4, "d": 3}
    results = [make_result({"val": [i < count for i in range(5)]}, name) for name, count in counts.items()]
    pairs = [pair.first + pair.second for pair in compare_runs(results)]
    assert pairs == ["ab", "bc", "cd", "ad", "ac"]
    assert compare_runs(results[:1]) == compare_runs([results[0], make_result({"test": [True]}, "b")]) == []


def test_a_note_says_that_differences_are_left_out(results, make_result):
    assert "differences are left out" in " ".join(notes([results[0], make_result({"refshapes_val": [True]})]))
    assert "differences are left out" not in " ".join(notes(results))


def test_no_referent_is_a_line_of_its_own(make_result):
    result = make_result({"toy_val": [True, True, False]})
    rows = [result.predictions[0], *(replace(row, xyxy_px=None, iou=None) for row in result.predictions[1:])]
    rows[2] = replace(rows[2], pred_xyxy_px=None)
    text = render(evaluation_tables([replace(result, predictions=rows, summary=summarize(rows))]), [result])
    assert re.search(r"^toy_val +ours +1 +100\.0", text, re.MULTILINE)
    assert re.search(r"^  no referent: declined +ours +2 +50\.0$", text, re.MULTILINE)


def test_the_command_line_prints_the_papers_layout(finished_runs):
    command = [sys.executable, "-m", "qwen3vl_rl.evaluation.table", *map(str, finished_runs)]
    shown = subprocess.run(command, capture_output=True, text=True)
    assert shown.returncode == 0 and shown.stdout.startswith("Acc@0.5 in percent"), shown.stderr
    wrong = subprocess.run([*command, "absent"], capture_output=True, text=True)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)


def test_a_note_names_another_box_convention(make_prediction):
    rows = [make_prediction(number, correct=False) for number in range(30)]
    text = f'</think>\n[{{"bbox_2d": {list(rows[0].xyxy_px)}}}]'
    rows = [replace(row, width=500, height=400, text=text) for row in rows]
    summary = summarize(rows)
    result = Result("ours", rows, summary, {"resumed": False, "latency": summarize_latency(rows, ["toy_val"])})
    (hint,) = [note for note in notes([result]) if "if read as" in note]
    assert hint.startswith("ours: 100% of the answers are right if read as xyxy in px, 0% as they were read.")
