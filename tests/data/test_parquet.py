"""The command lines that write parquet: rows, schema, bad input."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from qwen3vl_rl.data import refshapes
from qwen3vl_rl.grounding import parse_box_1000

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    refshapes.build(folder, train=20, val=5, seed=0)
    return folder


def run(module, *arguments):
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def common(world, out):
    return ["--samples", world / "refshapes_train.jsonl", "--images", world / "images", "--out", out]


def test_sft_rows(world, tmp_path):
    out = tmp_path / "sft.parquet"
    done = run(
        "sft.build_dataset", *common(world, out), "--traces", world / "refshapes_train_traces.jsonl", "--rows", ":12"
    )
    assert done.returncode == 0, done.stderr
    frame = pd.read_parquet(out)
    assert len(frame) == 12
    user, assistant = frame.messages[0]
    assert user["content"].startswith("<image>Locate the ")
    assert "\n</think>\n\n```json" in assistant["content"]
    assert parse_box_1000(assistant["content"]) is not None
    assert all(Path(path).is_file() for images in frame.images for path in images)


def test_rl_rows_have_the_released_schema(world, tmp_path):
    out = tmp_path / "rl.parquet"
    assert run("qwen3vl_rl.data.rl_parquet", *common(world, out), "--split", "train", "--rows", "12:").returncode == 0
    frame = pd.read_parquet(out)
    assert list(frame.columns) == ["data_source", "prompt", "images", "ability", "reward_model", "extra_info"]
    assert len(frame) == 8
    row = frame.iloc[0]
    assert row.data_source == row.ability == "grounding"
    assert row.reward_model["style"] == "rule" and len(row.reward_model["ground_truth"]) == 4
    assert set(row.extra_info) == {"split", "index", "id", "height", "width", "question"}
    assert row.prompt[0]["content"] == row.extra_info["question"]


def test_a_missing_image_is_one_line_and_keeps_the_earlier_file(world, tmp_path):
    out = tmp_path / "rl.parquet"
    out.write_text("earlier")
    arguments = ["--samples", world / "refshapes_train.jsonl", "--images", tmp_path, "--out", out, "--split", "train"]
    done = run("qwen3vl_rl.data.rl_parquet", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert 'refshapes_train.jsonl: row 1: field "image"' in done.stderr
    assert out.read_text() == "earlier"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "refshapes_train_000000", "reasoning": ""}', 'row 1: field "reasoning"'),
        ('{"id": "refshapes_train_000000", "reasoning": "a </think> b"}', 'row 1: field "reasoning"'),
        ('{"reasoning": "a"}', 'row 1: field "id"'),
    ],
)
def test_bad_traces_are_named(world, tmp_path, line, message):
    (tmp_path / "traces.jsonl").write_text(line + "\n")
    done = run("sft.build_dataset", *common(world, tmp_path / "o.parquet"), "--traces", tmp_path / "traces.jsonl")
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1


def test_traces_of_other_samples_are_an_error_and_keep_the_earlier_file(world, tmp_path):
    out, traces = tmp_path / "sft.parquet", tmp_path / "traces.jsonl"
    out.write_text("earlier")
    traces.write_text('{"id": "other", "reasoning": "a"}\n')
    done = run("sft.build_dataset", *common(world, out), "--traces", traces)
    assert done.returncode == 2 and "of the chosen samples" in done.stderr
    assert out.read_text() == "earlier"


@pytest.mark.parametrize("rows", ["2", "::0", "a:b"])
def test_rows_are_start_and_end(world, tmp_path, rows):
    done = run("qwen3vl_rl.data.rl_parquet", *common(world, tmp_path / "o"), "--split", "test", "--rows", rows)
    assert done.returncode == 2 and "expected START:END" in done.stderr


def test_an_empty_choice_is_an_error(world, tmp_path):
    done = run("qwen3vl_rl.data.rl_parquet", *common(world, tmp_path / "o"), "--split", "test", "--rows", "500:")
    assert done.returncode == 2 and "at least one sample in rows 500:" in done.stderr
