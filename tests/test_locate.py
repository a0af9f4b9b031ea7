"""A served model is asked about one picture: a real server, a real answer, a drawn box."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from qwen3vl_rl.data import refshapes
from qwen3vl_rl.data.predictions import Question, score
from qwen3vl_rl.data.samples import Sample, read_samples
from qwen3vl_rl.locate import NO_BOX, main

ROOT = Path(__file__).parents[1]
STARTER = ROOT / "examples" / "starter" / "checkpoint"
START_S = 300  # a limit for hangs alone


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The address of `scripts/serve.sh` with the starter's checkpoint, a picture, and a name for a thing in it."""
    folder = tmp_path_factory.mktemp("served")
    refshapes.build(folder, train=1, val=1, seed=3)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["bash", str(ROOT / "scripts" / "serve.sh"), str(STARTER), "--port", str(port)]
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, cwd=folder)
    url, end = f"http://127.0.0.1:{port}", time.monotonic() + START_S
    try:
        while not healthy(url):
            assert child.poll() is None and time.monotonic() < end, (folder / "log").read_text()[-3000:]
            time.sleep(0.5)
        sample = read_samples(folder / "eval" / "refshapes_val.jsonl")[0]
        yield url, folder / "images" / sample.image, sample.sent
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def locate(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "qwen3vl_rl.locate", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.long
@pytest.mark.slow
def test_a_box_is_printed_and_drawn(served, tmp_path):
    url, image, sent = served
    done = locate(image, sent, "--url", url, "--out", tmp_path / "drawn.png")
    assert done.returncode == 0, done.stderr
    _, box, drawn = done.stdout.splitlines()
    assert box.startswith("box: ") and "(xyxy in px of 160x128)" in box and drawn == f"drawn: {tmp_path / 'drawn.png'}"
    before, after = (np.array(Image.open(path).convert("RGB")) for path in (image, tmp_path / "drawn.png"))
    assert before.shape == after.shape and (before != after).any()
    wrong = locate(image, sent, "--url", url, "--model", "other")
    assert wrong.returncode == 2 and f'expected a server of "other", it serves {STARTER.name}' in wrong.stderr


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("It is.</think>\nNowhere.", "reasoning: It is.\nno box in the answer: Nowhere.\n"),
        (f"a{'!' * 2**13}b", f"reasoning: none\nno box in the answer: a{'!' * 999} … 6,194 characters left out … "),
        (f"{'-' * 2010}</think>x", f"reasoning: {'-' * 1000} … 10 characters left out … {'-' * 1000}\nno box"),
    ],
    ids=["short", "answer", "reasoning"],
)
def test_long_texts_are_printed_without_their_middle(monkeypatch, capsys, text, shown):
    question = Question("a/1", "a", Sample("1", "a.png", 10, 10, "the cup", None))
    monkeypatch.setattr("qwen3vl_rl.locate.ask", lambda *_, **__: score(question, text, parser="strict"))
    monkeypatch.setattr("sys.argv", ["locate", "a.png", "the cup"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == NO_BOX and capsys.readouterr().out.startswith(shown)


@pytest.mark.parametrize(
    ("image", "url", "message"),
    [
        ("absent.png", "http://127.0.0.1:9", "absent.png: expected a picture"),
        (ROOT / "images" / "teaser.png", "http://127.0.0.1:9", "expected an OpenAI-compatible server"),
    ],
)
def test_what_cannot_be_asked_is_said_in_one_line(image, url, message):
    done = locate(image, "the cup", "--url", url)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
