"""The first command of the README, as a user runs it."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def quickstart(out: Path, *overrides: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", "scripts/quickstart.sh", *overrides],
        cwd=ROOT,
        env={**os.environ, "OUT": str(out)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def test_the_quickstart_ends_in_table_and_report_and_a_second_one_skips_what_is_done(tmp_path):
    first = quickstart(tmp_path)
    assert first.returncode == 0, first.stderr
    assert "Traceback" not in first.stdout + first.stderr
    for text in (
        "== stage 1: SFT",
        "== stage 2: GRPO",
        "reward trend per step",
        "Acc@0.5",
        "\nrl: sft after 16 GRPO steps; ",
        "qwen3vl_rl.evaluation.table",
    ):
        assert text in first.stdout, text
    assert first.stdout.splitlines()[-1] == f"report: {tmp_path}/report/index.html"
    assert "data:image/png" in (tmp_path / "report" / "index.html").read_text()
    second = quickstart(tmp_path)
    assert second.returncode == 0, second.stderr
    assert second.stdout.count(": done before\n") == first.stdout.count("(took ") - 1  # evaluation is never skipped
    assert len(second.stdout.splitlines()) <= 40
    other = quickstart(tmp_path, "reward=sigmoid")
    assert other.returncode == 2
    assert "holds the stage 'rl' of another run" in other.stderr
