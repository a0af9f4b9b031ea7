"""The command line rejects bad input with one line before any server starts, and does not change existing files."""

import subprocess
import sys

import pytest

from qwen3vl_rl.evaluation import command
from qwen3vl_rl.evaluation.__main__ import parse_args
from qwen3vl_rl.evaluation.protocols import NAMES, protocol

pytestmark = pytest.mark.slow


def _evaluate(world, data, out, *options):
    command = [sys.executable, "-m", "qwen3vl_rl.evaluation", "--model", f"base={out / 'no checkpoint'}"]
    command += ["--data", data, "--images", world / "images", "--out", out, *options]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True)


def test_a_bad_row_ends_the_command_with_one_line_and_code_2(world, copied_world, tmp_path, change_row):
    change_row(copied_world / "refshapes_testA.jsonl", 4, bbox=[10, 10, 900, 90])
    out = tmp_path / "out"
    (out / "base").mkdir(parents=True)
    (out / "base" / "predictions.jsonl").write_text("earlier\n")
    result = _evaluate(world, copied_world, out)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert 'refshapes_testA.jsonl: row 4: field "bbox"' in result.stderr
    assert [path.name for path in out.rglob("*")] == ["base", "predictions.jsonl"]
    assert (out / "base" / "predictions.jsonl").read_text() == "earlier\n"


def test_a_folder_without_checkpoint_ends_the_command_before_any_server(world, tmp_path):
    result = _evaluate(world, world / "eval", tmp_path / "out")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "no checkpoint: expected a Hugging Face checkpoint folder" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--endpoint", "http://localhost:1", "--", "--dtype", "bfloat16"], "takes no arguments"),
        (["100"], "expected an option"),
        (["--model", "..=x"], "expected NAME=PATH"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_arguments_that_would_be_ignored_are_refused(world, tmp_path, options, message):
    result = _evaluate(world, world / "eval", tmp_path / "out", *options)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1) and message in result.stderr


@pytest.mark.parametrize("name", NAMES)
def test_a_protocol_sets_the_prompt_and_files_and_options_override_it(name, tmp_path):
    (tmp_path / "mine.yaml").write_text("amodal_prompt: amodal\n")
    common = ["--model", "a=b", "--data", "d", "--images", "i", "--out", "o", "--protocol", name]
    chosen = command.settings(parse_args([*common, "--settings", str(tmp_path / "mine.yaml"), "--max-tokens", "7"]))
    assert (chosen.prompt, chosen.amodal_prompt, chosen.max_tokens) == (protocol(name).asks["prompt"], "amodal", 7)
