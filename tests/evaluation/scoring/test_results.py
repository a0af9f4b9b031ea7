"""Finished runs are recognised and read from their folders."""

import json
import shutil

import pytest

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.evaluation.reporting.tables import group_table, speed_table
from qwen3vl_rl.evaluation.run import Load, Run
from qwen3vl_rl.evaluation.scoring.results import read_result, read_results, read_scaling
from qwen3vl_rl.evaluation.serving.questions import read_questions
from qwen3vl_rl.evaluation.serving.server import Endpoint
from qwen3vl_rl.evaluation.serving.settings import load_settings


def test_a_folder_without_a_finished_run_is_named(tmp_path):
    with pytest.raises(InputError, match=r"found no predictions\.jsonl"):
        read_result(tmp_path)


def test_a_config_without_sample_counts_is_named(finished_runs):
    (finished_runs[0] / "config.yaml").write_text("model: base\n")
    with pytest.raises(InputError, match=r'base/config\.yaml: field "samples": expected the count of each split'):
        read_result(finished_runs[0])


def test_a_retry_that_was_cut_off_is_not_read_as_finished(finished_runs, world):
    """The retry has dropped the failed rows, but summary.json of the first run still exists."""
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


def test_an_earlier_file_may_call_the_latency_of_single_requests_alone(finished_runs):
    timing = json.loads((finished_runs[0] / "timing.json").read_text())
    measured = {"requests": 2, "mean_s": 0.125, "p50_s": 0.1, "p95_s": 0.2}
    (finished_runs[0] / "timing.json").write_text(json.dumps(timing | {"alone": measured}))
    result = read_result(finished_runs[0])
    assert result.timing == timing | {"single_request_latency": measured}
    assert speed_table([result]).rows[-1][-3:] == ("0.125", "0.100", "0.200")


def test_an_unfinished_variant_is_skipped(scaled):
    rows = scaled / "tiny" / "free" / "predictions.jsonl"
    rows.write_text("".join(rows.read_text().splitlines(keepends=True)[:-1]))
    assert [result.name for result in read_scaling(scaled)["tiny"]] == ["answers-4", "budget-16"]
