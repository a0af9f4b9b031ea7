"""What becomes of samples, and what happens where there is no endpoint.

Against a real server: tests/soak/test_traces.py.
"""

import json
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from qwen3vl_rl.data import refshapes
from qwen3vl_rl.data.samples import Sample
from qwen3vl_rl.errors import InputError
from sft.generate_reasoning import check_same_samples, rejected_ids, unique
from sft.traces import RowFile, sample_hash

ROOT = Path(__file__).parents[2]


def make_sample(box=(100.0, 60.0, 300.0, 260.0), modal=None) -> Sample:
    return Sample("7", "a.png", 640, 480, "the {box} on the left", box, modal)


def test_two_samples_may_not_share_an_id():
    with pytest.raises(InputError, match='expected one sample with the id "7", found two'):
        unique([make_sample(), make_sample()])


def test_a_rejected_trace_counts_for_its_own_sample(tmp_path):
    sample, other = make_sample(), replace(make_sample(box=(1.0, 2.0, 30.0, 40.0)), id="8")
    rejected = RowFile(tmp_path / "t.jsonl")
    of_other = {"sample_hash": sample_hash(other)}
    rejected.rows = [{"id": "7", **of_other}, {"id": "8", **of_other}, {"id": "9"}]
    assert rejected_ids(rejected, [sample, other]) == {"8", "9"}


@pytest.mark.parametrize("field", ["sample_hash", "of"])  # `of`: files of earlier versions
def test_an_accepted_trace_of_another_sample_is_refused(field, tmp_path):
    accepted = RowFile(tmp_path / "t.jsonl")
    accepted.rows = [{"id": "7", field: sample_hash(make_sample())}, {"id": "8"}]
    check_same_samples(accepted, [make_sample()])
    with pytest.raises(InputError, match='the trace of "7" in --out is of another sample'):
        check_same_samples(accepted, [make_sample(box=(1.0, 2.0, 30.0, 40.0))])


def run(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "sft.generate_reasoning", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture
def closed_endpoint() -> str:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{closed.getsockname()[1]}/v1"


def test_without_an_endpoint_every_sample_is_listed_and_stays_open(closed_endpoint, tmp_path):
    refshapes.build(tmp_path / "world", train=5, val=1, seed=0)
    files = ["--samples", tmp_path / "world/refshapes_train.jsonl", "--images", tmp_path / "world/images"]
    ended = run(
        *files, "--base-url", closed_endpoint, "--model", "m", "--attempts", 2, "--out", tmp_path / "traces.jsonl"
    )
    assert ended.returncode == 1
    assert "5 failed, 0 not asked" in ended.stdout
    failed = [json.loads(line) for line in (tmp_path / "traces.failed.jsonl").open()]
    assert len({row["id"] for row in failed}) == 5
    assert all("ClientConnectorError" in row["failure"] for row in failed)
    assert (tmp_path / "traces.jsonl").read_text() == ""


def test_an_endpoint_that_never_answers_is_given_up_early(closed_endpoint, tmp_path):
    refshapes.build(tmp_path / "world", train=60, val=1, seed=0)
    files = ["--samples", tmp_path / "world/refshapes_train.jsonl", "--images", tmp_path / "world/images"]
    asked = ["--base-url", closed_endpoint, "--model", "m", "--attempts", 1, "--concurrency", 2]
    ended = run(*files, *asked, "--out", tmp_path / "traces.jsonl")
    assert ended.returncode == 2
    assert "error: --base-url: 20 failures in a row, the last one: ClientConnectorError" in ended.stderr
    assert 20 <= len((tmp_path / "traces.failed.jsonl").read_text().splitlines()) <= 22


def test_a_missing_key_ends_in_one_line(tmp_path):
    asked = ["--base-url", "http://c", "--model", "m", "--api-key-variable", "EGM_TEST_NO_SUCH_KEY"]
    ended = run("--samples", "a", "--images", "b", "--out", tmp_path / "t.jsonl", *asked)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "EGM_TEST_NO_SUCH_KEY" in ended.stderr
