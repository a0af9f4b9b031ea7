"""What a run shows of its progress, on a terminal and in a file; the clock and the streams are fakes."""

import io
import re

import pytest

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.training.progress import LINE_VARIABLE, CountProgress, StepProgress, duration, fitting
from qwen3vl_rl.training.signs import WINDOW, Signs

COLUMNS = {"reward": "critic/score/mean", "validation accuracy": "val-core/*/acc/mean@*", "seconds": "timing_s/step"}


class Stream(io.StringIO):
    encoding = "utf-8"

    def __init__(self, is_terminal: bool):
        super().__init__()
        self.is_terminal = is_terminal

    def isatty(self) -> bool:
        return self.is_terminal


class Clock:
    def __init__(self):
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch) -> Clock:
    monkeypatch.delenv(LINE_VARIABLE, raising=False)
    monkeypatch.setenv("COLUMNS", "120")  # of the bar, as the fake terminal has no size
    return Clock()


def step(number: int, seconds: float = 10.0, **others: float) -> dict:
    return {"step": number, "data": {"critic/score/mean": 0.5, "timing_s/step": seconds, **others}}


def follow(clock: Clock, stream: Stream, rows: list[dict], total: int, signs: Signs | None = None) -> str:
    """What `rows` show; each comes as many seconds after the one before as its step took."""
    with StepProgress(total, COLUMNS, signs or Signs(), stream, clock) as progress:
        for row in rows:
            clock.now_s += row["data"].get("timing_s/step", 0.0)
            progress.add(row)
    return stream.getvalue()


def seen(drawn: str) -> list[str]:
    """The lines that are left on a terminal in the end, where the next text begins a new line."""
    assert drawn.endswith("\n")
    return [line.split("\r")[-1].rstrip() for line in drawn.removesuffix("\n").split("\n")]


def test_a_file_has_the_first_and_the_last_step_and_one_every_half_minute(clock):
    lines = follow(clock, Stream(False), [step(number) for number in range(1, 9)], total=8).splitlines()
    assert lines == [
        "step 1 of 8  reward 0.5  seconds 10",
        "step 4 of 8 (40 s left)  reward 0.5  seconds 10",
        "step 7 of 8 (10 s left)  reward 0.5  seconds 10",
        "step 8 of 8  reward 0.5  seconds 10",
    ]


def test_the_time_between_lines_is_the_user_s_to_choose(clock, monkeypatch):
    monkeypatch.setenv(LINE_VARIABLE, "0")
    text = follow(clock, Stream(False), [step(number, 0.5) for number in range(1, 9)], total=8)
    assert re.findall(r"step (\d)", text) == list("12345678")


def test_an_interval_that_is_no_number_is_rejected(clock, monkeypatch):
    monkeypatch.setenv(LINE_VARIABLE, "often")
    with pytest.raises(InputError, match="EGM_PROGRESS_S=often: expected a number of seconds"):
        follow(clock, Stream(False), [], total=8)


def test_a_run_that_ends_early_has_its_last_step_too(clock):
    text = follow(clock, Stream(False), [step(number, 1.0) for number in range(1, 6)], total=100)
    assert re.findall(r"step (\d)", text) == ["1", "5"]
    assert text.endswith("step 5 of 100 (2 min left)  reward 0.5  seconds 1\n")


def test_the_time_left_is_the_median_of_the_steps_without_the_first(clock):
    rows = [step(1, 300.0), step(2, 10.0), step(3, 12.0), step(4, 100.0)]  # the fourth writes a checkpoint
    lines = follow(clock, Stream(False), rows, total=54).splitlines()
    assert lines[0] == "step 1 of 54  reward 0.5  seconds 300"
    assert lines[-1].startswith("step 4 of 54 (10 min left)")


def test_a_resumed_run_counts_its_own_steps_of_all(clock):
    lines = follow(clock, Stream(False), [step(number) for number in (101, 102, 103, 104)], total=300).splitlines()
    assert lines[0].startswith("step 101 of 300  ") and lines[1].startswith("step 104 of 300 (33 min left)  ")


def test_no_validation_and_no_warning_is_skipped(clock):
    validation = {"val-core/a/acc/mean@1": 0.9, "val-core/b/acc/mean@1": 0.4}
    cut_off = {"response_length/mean": 100.0, "rollout/cut_off": 0.5}
    rows = [{"step": 0, "data": validation}, *(step(number, 1.0, **cut_off) for number in range(1, 7))]
    rows.append(step(7, 1.0, **validation))
    lines = follow(clock, Stream(False), rows, total=100).splitlines()
    assert lines[:2] == ["step 0 of 100  validation accuracy 0.65", "step 1 of 100  reward 0.5  seconds 1"]
    assert lines[2].startswith(f"step {WINDOW} of 100") and lines[3].startswith("warning: 50% of the answers reach")
    assert lines[4:] == ["step 7 of 100 (2 min left)  reward 0.5  validation accuracy 0.65  seconds 1"]


def test_a_terminal_has_one_bar_with_validations_and_warnings_above_it(clock):
    validation = {"val-core/a/acc/mean@1": 0.9}
    cut_off = {"response_length/mean": 100.0, "rollout/cut_off": 0.5}
    rows = [{"step": 0, "data": validation}, *(step(number, 1.0, **cut_off) for number in range(1, 7))]
    rows += [step(7, 1.0, **validation), step(8, 1.0)]
    lines = seen(follow(clock, Stream(True), rows, total=16))
    assert lines[0] == "step 0 of 16  validation accuracy 0.9"
    assert lines[1].startswith(f"step {WINDOW} of 16 (11 s left)") and lines[2].startswith("warning: 50% of the answer")
    assert lines[3] == "step 7 of 16 (9 s left)  reward 0.5  validation accuracy 0.9  seconds 1"
    assert lines[4] == "|█████     | step 8 of 16 (8 s left)  reward 0.5  seconds 1"
    assert len(lines) == 5


def test_a_bar_keeps_its_place_while_steps_are_shorter_than_a_drawing(clock):
    stream = Stream(True)
    lines = seen(follow(clock, stream, [step(number, 0.01) for number in range(1, 100)], total=200))
    assert len(lines) == 1 and "step 99 of 200" in lines[0]
    assert stream.getvalue().count("\r") < 40


def test_a_narrow_terminal_shows_no_part_of_a_number(clock, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert seen(follow(clock, Stream(True), [step(1), step(2)], total=4)) == ["|█████     | step 2 of 4 (20 s left)"]
    assert fitting("step 2 of 4  loss 0.25  seconds 10", width=23) == "step 2 of 4  loss 0.25"


def test_a_run_without_steps_shows_nothing(clock):
    for is_terminal in (False, True):
        assert follow(clock, Stream(is_terminal), [], total=8) == ""


def test_finished_items_are_counted_with_those_of_earlier_starts(clock):
    stream = Stream(False)
    with CountProgress("evaluate rl", "samples", total=600, done=100, stream=stream, clock=clock) as progress:
        for _ in range(300):
            clock.now_s += 0.25
            progress.add("2 failed")
    assert stream.getvalue().splitlines() == [
        "evaluate rl: 100 of 600 samples",
        "evaluate rl: 220 of 600 samples (2 min left)  4/s  2 failed",
        "evaluate rl: 340 of 600 samples (1 min left)  4/s  2 failed",
        "evaluate rl: 400 of 600 samples (50 s left)  4/s  2 failed",
    ]


def test_counted_items_have_a_bar_on_a_terminal(clock):
    stream = Stream(True)
    with CountProgress("traces", "samples", total=4, stream=stream, clock=clock) as progress:
        for _ in range(4):
            clock.now_s += 0.5
            progress.add()
    assert seen(stream.getvalue()) == ["|██████████| traces: 4 of 4 samples  2/s"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (3540, "59 min"), (3599, "1 h 0 min"), (5700, "1 h 35 min"),
     (183_600, "2 d 3 h")],
)  # fmt: skip
def test_durations_are_rounded_for_readers(seconds, text):
    assert duration(seconds) == text
