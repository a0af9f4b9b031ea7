"""Named checks refuse what must not become training text; the row file survives being killed."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from qwen3vl_rl.data.samples import Sample
from qwen3vl_rl.errors import InputError
from sft.traces import RowFile, Trace, failed_check, read_traces, sample_hash

ROOT = Path(__file__).parents[2]
SAMPLE = Sample("7", "a.jpg", 640, 480, "the man in the green box truck", (64.0, 48.0, 320.0, 240.0))
GOOD = "A man sits behind the wheel of the truck on the left, while the other people stand on the pavement."


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        "I see the man in the green box truck at the left edge, half hidden by its open door.",  # as the expression
        "Two boxes of fruit stand on the table; the green one is nearer to the camera than the red one.",
        "The frame of the picture cuts off the second man, so the driver of the truck is meant.",
        "The target spans [100, 100, 500, 500], the driver's seat of the truck at the left.",
        "The bicycle with the green frame leans on the truck, so the man beside it is not meant.",
        "Behind the door I can't see his feet, but the man in the truck holds the wheel.",
        "Green squares from left to right, first: the driver of the truck.",
    ],
)
def test_honest_reasoning_is_accepted(text):
    assert failed_check(text, SAMPLE) is None


@pytest.mark.parametrize(
    ("text", "check"),
    [
        ("", "empty"),
        (" … \n", "empty"),
        ("It is</think> the man on the left of the picture.", "tags"),
        ("```json\n{}\n``` the man on the left of it", "tags"),
        ("I'm sorry, but I can't help with identifying people.", "refusal"),
        ("I can\N{RIGHT SINGLE QUOTATION MARK}t assist with requests about people in images.", "refusal"),
        ("Analysis failed: the request timed out after 60 seconds.", "refusal"),
        ("The man left.", "length"),
        ("word " * 121, "length"),
        ("The man inside the green bounding box sits behind the wheel.", "leak"),
        ("The man who is highlighted in the picture sits behind the wheel.", "leak"),
        ("As given in the annotation, the man sits behind the wheel.", "leak"),
        ("The man highlighted in green sits behind the wheel.", "leak"),
        ("The man within the outline sits behind the wheel.", "leak"),
        ("There is a box around the man behind the wheel.", "leak"),
        ("The target given to me is the man behind the wheel.", "leak"),
        ("The outlined object is the man behind the wheel of the truck.", "leak"),
        ("The outlined person sits behind the wheel of the truck.", "leak"),
        ("The object in the green square is the man behind the wheel.", "leak"),
        ("The man inside the rectangle sits behind the wheel.", "leak"),
        ("Since the target is given, I describe the man behind the wheel.", "leak"),
        ("Okay, the user wants me to describe the man behind the wheel.", "leak"),
        ("A man of <image> sits behind the wheel of the truck.", "tags"),
        ("I can't see anything of what you describe in this picture.", "refusal"),
        ("The ground truth shows the man behind the wheel of the truck.", "leak"),
        ("The man is on the right, at [600, 600, 900, 900], behind the wheel.", "box"),
    ],
)
def test_each_check_names_what_fails_it(text, check):
    assert failed_check(text, SAMPLE) == check


def test_a_trace_that_was_cut_off_is_no_trace():
    assert failed_check(GOOD, SAMPLE, finish_reason="length") == "truncated"


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"id": "7", "reasoning": "again"}, "id"),
        ({"reasoning": "nobody's"}, "id"),
        ({"id": "8", "reasoning": " "}, "reasoning"),
        ({"id": "8", "reasoning": "a </think> b"}, "reasoning"),
        ({"id": "8", "reasoning": "a man.<|im_end|>"}, "reasoning"),
    ],
)
def test_bad_rows_are_named(row, field, tmp_path):
    path = tmp_path / "traces.jsonl"
    path.write_text(json.dumps({"id": "7", "reasoning": GOOD}) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(InputError, match=f'traces.jsonl: row 2: field "{field}"'):
        read_traces(path)


WRITER = """
import sys
from pathlib import Path
from sft.traces import RowFile
file = RowFile(Path(sys.argv[1]))
for number in range(len(file.rows), 10**6):
    file.append({"id": str(number), "text": "x" * 5000})
    print(number, flush=True)
"""


def test_a_killed_writer_loses_no_row_and_the_next_goes_on(tmp_path):
    path, reported = tmp_path / "rows.jsonl", -1
    for _ in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        for _ in range(50):
            reported = int(writer.stdout.readline())
        with pytest.raises(InputError, match="expected no other run to be writing to it"):
            RowFile(path)
        writer.send_signal(signal.SIGKILL)
        reported = int((writer.stdout.read().split() or [reported])[-1])
        writer.wait()
        with path.open("a") as file:
            file.write('{"id": "torn')  # what a write that was cut short leaves
    file = RowFile(path)
    assert [row["id"] for row in file.rows] == [str(number) for number in range(len(file.rows))]
    assert len(file.rows) >= reported + 1
    assert path.read_bytes().endswith(b"}\n")


def test_a_place_that_cannot_be_written_ends_in_one_line(tmp_path):
    with pytest.raises(InputError, match="expected a file that can be written"):
        RowFile(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="expected a file that can be written"):
        RowFile(tmp_path / "file" / "rows.jsonl")


def test_a_trace_fits_its_sample_alone():
    mine, other = sample_hash(SAMPLE), sample_hash(replace(SAMPLE, sent="another"))
    assert Trace(GOOD, None).fits(SAMPLE) and Trace(GOOD, mine).fits(SAMPLE) and not Trace(GOOD, other).fits(SAMPLE)


@pytest.mark.parametrize("field", ["sample_hash", "of"])  # `of`: files of earlier versions
def test_a_trace_tells_its_sample(field, tmp_path):
    path = tmp_path / "traces.jsonl"
    path.write_text(json.dumps({"id": "7", "reasoning": GOOD, field: sample_hash(SAMPLE)}) + "\n")
    assert read_traces(path) == {"7": Trace(GOOD, sample_hash(SAMPLE))}
