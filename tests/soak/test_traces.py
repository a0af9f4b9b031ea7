"""Reasoning traces from a real vLLM server, behind a proxy that fails on purpose, by runs that are killed."""

import json
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from qwen3vl_rl.data import refshapes
from qwen3vl_rl.data.samples import read_samples
from qwen3vl_rl.evaluation.serving.engines import VLLM
from qwen3vl_rl.evaluation.serving.server import Server
from qwen3vl_rl.evaluation.serving.settings import load_settings
from sft.traces import CHECKS

ROOT = Path(__file__).parents[2]
SAMPLES = 80


def rows(path: Path) -> list[dict]:
    """Complete rows; the last one may be cut off."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    refshapes.build(folder, train=SAMPLES, val=1, seed=5)
    return folder


@pytest.fixture(scope="module")
def endpoint(starter, world, tmp_path_factory):
    """The proxy's URL; a server with random weights answers behind it."""
    log = tmp_path_factory.mktemp("server") / "server.log"
    with Server(VLLM, log, world / "images", load_settings(max_tokens=2000)) as server:
        server.load(str(starter))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        proxy = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("fault_proxy.py")), server.url, str(port), "0"]
        )
        yield f"http://127.0.0.1:{port}/v1"
        proxy.terminate()
        proxy.wait()


@pytest.fixture
def command(endpoint, world, tmp_path):
    samples = ["--samples", str(world / "refshapes_train.jsonl"), "--images", str(world / "images")]
    asked = [
        "--base-url",
        endpoint,
        "--model",
        "evaluated",
        "--max-tokens",
        "40",
        "--concurrency",
        "8",
        "--timeout",
        "60",
    ]
    out = ["--out", str(tmp_path / "traces.jsonl")]
    return [sys.executable, "-m", "sft.generate_reasoning", *samples, *asked, *out]


def test_killed_three_times_among_failures_every_sample_is_there_once(command, world, tmp_path):
    accepted, rejected = tmp_path / "traces.jsonl", tmp_path / "traces.rejected.jsonl"
    rng, kept = random.Random(1), []
    for kill in range(1, 4):
        run = subprocess.Popen(command, cwd=ROOT)
        while len(rows(accepted) + rows(rejected)) < kill * SAMPLES // 5:
            assert run.poll() is None
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 1))
        run.kill()
        run.wait()
        now = rows(accepted) + rows(rejected)
        assert all(row in now for row in kept)  # what was there stays as it was
        kept = now
    assert 0 < len(kept) < SAMPLES
    last = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert last.returncode == 0, last.stderr
    found = Counter(row["id"] for row in rows(accepted) + rows(rejected))
    assert found == Counter(sample.id for sample in read_samples(world / "refshapes_train.jsonl"))
    assert rows(tmp_path / "traces.failed.jsonl") == []
    assert len(rows(rejected)) > SAMPLES * 0.9  # random weights write nothing worth learning
    assert {row["check"] for row in rows(rejected)} <= CHECKS.keys()
    assert f"{SAMPLES - len(kept)} to ask for" in last.stdout

    again = subprocess.run([*command, "--retry-rejected"], cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert {row["id"] for row in rows(accepted) + rows(rejected)} == set(found)
    assert max(Counter(row["id"] for row in rows(accepted)).values(), default=1) == 1
    assert len(rows(rejected)) > SAMPLES, "what was rejected before is still there"


def test_what_fails_in_every_attempt_is_listed_and_asked_for_again(command, world, tmp_path):
    once = subprocess.run([*command, "--attempts", "1"], cwd=ROOT, capture_output=True, text=True)
    assert once.returncode == 1, once.stderr
    done = rows(tmp_path / "traces.jsonl") + rows(tmp_path / "traces.rejected.jsonl")
    failed = rows(tmp_path / "traces.failed.jsonl")
    assert failed
    assert Counter(row["id"] for row in done + failed) == Counter(
        sample.id for sample in read_samples(world / "refshapes_train.jsonl")
    )
    assert subprocess.run(command, cwd=ROOT).returncode == 0
    assert len(rows(tmp_path / "traces.jsonl") + rows(tmp_path / "traces.rejected.jsonl")) == SAMPLES
