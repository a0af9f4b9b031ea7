"""What the endpoint is asked, how its answers are read, and what happens where there is none.

Against a real server: tests/soak/test_traces.py.
"""

import io
import json
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qwen3vl_rl.data import refshapes
from qwen3vl_rl.data.samples import Sample
from qwen3vl_rl.errors import InputError
from sft.generate_reasoning import (
    OUTLINE,
    draw_target,
    read_reply,
    rejected_ids,
    render_request,
    retry_after_s,
    unique,
)
from sft.traces import RowFile, sample_hash

ROOT = Path(__file__).parents[2]


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


def test_replies_are_read_with_their_cost():
    choice = {"message": {"content": " text \n"}, "finish_reason": "length"}
    reply = read_reply({"choices": [choice], "usage": {"prompt_tokens": 900, "completion_tokens": 40}})
    assert (reply.text, reply.finish_reason, reply.input_tokens, reply.output_tokens) == ("text", "length", 900, 40)
    assert read_reply({"choices": [{"message": {"content": None}, "finish_reason": "stop"}]}).text == ""


@pytest.mark.parametrize("reply", [{}, [], {"choices": []}, {"choices": [{}]}, None, {"error": "busy"}])
def test_what_is_no_reply_is_an_error_that_passes(reply):
    with pytest.raises(ValueError, match="not a chat completion"):
        read_reply(reply)


@pytest.mark.parametrize(
    ("header", "seconds"), [("2", 2), ("-1", 0), ("9999", 60), (None, None), ("Wed, 21 Oct 2026 07:28:00 GMT", None)]
)
def test_the_endpoint_may_name_the_wait(header, seconds):
    assert retry_after_s(header) == seconds


def test_two_samples_may_not_share_an_id():
    with pytest.raises(InputError, match='expected one sample with the id "7", found two'):
        unique([make_sample(), make_sample()])


def test_a_rejected_trace_counts_for_its_own_sample(tmp_path):
    sample, other = make_sample(), replace(make_sample(box=(1.0, 2.0, 30.0, 40.0)), id="8")
    rejected = RowFile(tmp_path / "t.jsonl")
    rejected.rows = [{"id": "7", "of": sample_hash(other)}, {"id": "8", "of": sample_hash(other)}, {"id": "9"}]
    assert rejected_ids(rejected, [sample, other]) == {"8", "9"}


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
    assert "error: --base-url: 20 failures in a row, at last: ClientConnectorError" in ended.stderr
    assert 20 <= len((tmp_path / "traces.failed.jsonl").read_text().splitlines()) <= 22


def test_a_missing_key_ends_in_one_line(tmp_path):
    asked = ["--base-url", "http://c", "--model", "m", "--api-key-variable", "EGM_TEST_NO_SUCH_KEY"]
    ended = run("--samples", "a", "--images", "b", "--out", tmp_path / "t.jsonl", *asked)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "EGM_TEST_NO_SUCH_KEY" in ended.stderr
