"""Evaluation on a real vLLM server: kills at random moments, a full disk, real pictures through the front door."""

import json
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qwen3vl_rl.data import refshapes
from qwen3vl_rl.data.jsonl import write_jsonl
from qwen3vl_rl.data.predictions import read_predictions
from qwen3vl_rl.evaluation.serving.engines import VLLM
from qwen3vl_rl.evaluation.serving.server import Server
from qwen3vl_rl.evaluation.serving.settings import load_settings

ROOT = Path(__file__).parents[2]
MAX_TOKENS, SAMPLES, KILLS = 40, 40, 10


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    refshapes.build(folder, train=2, val=SAMPLES, seed=3)
    return folder


@pytest.fixture(scope="module")
def evaluate(starter, world, tmp_path_factory):
    """`evaluate(out, **options of Popen)`: starts an evaluation of all splits, one request at a time, in fp32."""
    log = tmp_path_factory.mktemp("server") / "server.log"
    with Server(VLLM, log, world / "images", load_settings(max_tokens=MAX_TOKENS)) as server:
        name = server.load(str(starter))

        def start(out: Path, **options) -> subprocess.Popen:
            command = [
                sys.executable,
                "-m",
                "qwen3vl_rl.evaluation",
                "--endpoint",
                server.url,
                "--model",
                f"tiny={name}",
            ]
            command += ["--data", world / "eval", "--images", world / "images", "--out", out, "--latency-samples", "0"]
            command += ["--max-tokens", MAX_TOKENS, "--concurrency", 1]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            return subprocess.Popen(list(map(str, command)), cwd=ROOT, **pipes, **options)

        yield start


def finish(process: subprocess.Popen) -> str:
    output, errors = process.communicate()
    assert process.returncode == 0, output + errors
    return output


def test_ten_kills_lose_double_and_change_nothing(evaluate, tmp_path):
    start = time.monotonic()
    finish(evaluate(tmp_path / "whole"))
    whole_s = time.monotonic() - start
    predictions = tmp_path / "killed" / "tiny" / "predictions.jsonl"
    rng, earlier = random.Random(0), b""
    for _ in range(KILLS):
        process = evaluate(tmp_path / "killed")
        time.sleep(rng.uniform(0.2, 0.6) * whole_s)
        process.kill()
        process.communicate()
        rows = predictions.read_bytes() if predictions.exists() else b""
        assert rows.startswith(earlier)
        earlier = rows[: rows.rfind(b"\n") + 1]
    finish(evaluate(tmp_path / "killed"))
    assert predictions.read_bytes().startswith(earlier)
    texts = [
        [(row.key, row.text, row.tokens) for row in read_predictions(tmp_path / run / "tiny" / "predictions.jsonl")]
        for run in ("whole", "killed")
    ]
    assert texts[0] == texts[1] and len(texts[0]) == 4 * SAMPLES
    summaries = [(tmp_path / run / "tiny" / "summary.json").read_bytes() for run in ("whole", "killed")]
    assert summaries[0] == summaries[1]

    lines = predictions.read_text().splitlines(keepends=True)
    rng.shuffle(lines)
    predictions.write_text("".join(lines))
    finish(evaluate(tmp_path / "killed"))
    assert (tmp_path / "killed" / "tiny" / "summary.json").read_bytes() == summaries[0]


def test_a_full_disk_ends_in_one_line_and_costs_nothing(evaluate, tmp_path):
    """A limit on the size of files stands in for the disk: both make `write` fail."""
    limit = (16_000, 16_000)
    process = evaluate(tmp_path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    _, errors = process.communicate()
    last = errors.strip().splitlines()[-1]
    assert process.returncode == 1 and last.startswith("error: ") and "Traceback" not in errors
    assert "predictions.jsonl: File too large; run the same command again to resume" in last
    written = (tmp_path / "tiny" / "predictions.jsonl").read_bytes()
    finish(evaluate(tmp_path))
    assert (tmp_path / "tiny" / "predictions.jsonl").read_bytes().startswith(written[: written.rfind(b"\n") + 1])


@pytest.mark.skipif("EGM_REAL_DATA" not in os.environ, reason="needs EGM_REAL_DATA")
def test_real_pictures_and_expressions_without_referent_through_the_front_door(starter, tmp_path):
    real = Path(os.environ["EGM_REAL_DATA"]) / "refcocos_val2017"
    rows = [json.loads(line) for line in (real / "matched_with_images.jsonl").open()]
    fields = ("image", "width", "height")
    samples = [
        {name: row[name] for name in fields} | {"sent": row["expression"], "bbox": row["bbox_xyxy"]} for row in rows
    ]
    write_jsonl(tmp_path / "eval" / "refcocos.jsonl", samples)
    out = tmp_path / "out"
    variables = {
        "MODEL_PATH": str(starter),
        "DATA_JSON": str(tmp_path / "eval"),
        "BASE_IMG_PATH": str(real),
        "OUTPUT_DIR": str(out),
    }
    command = ["bash", str(ROOT / "scripts/vllm_infer.sh"), "--max-tokens", str(MAX_TOKENS)]
    finish(
        subprocess.Popen(command, env=os.environ | variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    )
    split = json.loads((out / starter.name / "summary.json").read_text())["splits"]["refcocos"]
    assert (split["samples"], split["images"], split["no_referent"]["samples"]) == (32, 29, 5)
    assert split["failed_requests"] == 0
    assert (out / "report.html").stat().st_size > 1_000_000
