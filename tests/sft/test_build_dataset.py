"""From samples and reasoning to rows: what is written, what is left out and said, what stops the build."""

import json
import sys
from pathlib import Path
from shutil import copytree

import pandas as pd
import pytest
from PIL import Image
from transformers import AutoTokenizer

from qwen3vl_rl.data import refshapes
from qwen3vl_rl.data.samples import read_samples
from qwen3vl_rl.errors import InputError, cli
from qwen3vl_rl.grounding import PROMPTS, declines, px_to_1000, target_text
from sft.build_dataset import main, parse_conversation

REASONING = "Two men stand at the counter; the one further left wears a cap."


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    refshapes.build(folder, train=12, val=1, seed=0)
    return folder


@pytest.fixture
def build(world, starter, tmp_path, monkeypatch, capsys):
    """`build(*arguments)`: (exit code, screen, rows, left out) of the command line, with token checks."""

    def run(*arguments: object, samples: Path = world / "refshapes_train.jsonl", images: Path = world / "images"):
        given = ["--samples", samples, "--images", images, "--processor", starter, "--check-rows", 0, *arguments]
        out = tmp_path / "rows.parquet"
        monkeypatch.setattr(sys, "argv", ["build_dataset", *map(str, given), "--out", str(out)])
        try:
            cli(main)
        except SystemExit as stopped:
            return stopped.code, capsys.readouterr().err, None, None
        rows = pd.read_parquet(out).to_dict("records")
        left_out = [json.loads(line) for line in (tmp_path / "rows.left_out.jsonl").open()]
        return 0, capsys.readouterr().out, rows, left_out

    return run


def released_row(**changes) -> dict:
    box = (250, 100, 750, 900)
    turns = [
        {
            "from": "human",
            "value": "<image>\nLocate the man on the left, output its bbox coordinates using JSON format.",
        },
        {"from": "gpt", "value": target_text(REASONING, box, "the man on the left")},
    ]
    row = {"id": "c1", "image": "a.jpg", "width": 400, "height": 200, "conversations": turns}
    return row | changes


def test_prompts_may_be_written_as_the_release_writes_them(build):
    plain, released = (
        [row["messages"][0]["content"] for row in build("--reasoning", "none", "--check-rows", 4, *more)[2]]
        for more in ([], ["--prompts", "released_sft"])
    )
    assert released == [text.replace("<image>", "<image>\n") + "." for text in plain]
    assert plain[0].startswith("<image>Locate ") and plain[0].endswith(" format")


def test_samples_without_a_trace_are_left_out_and_listed(build, world, tmp_path):
    lines = (world / "refshapes_train_traces.jsonl").read_text().splitlines()
    (tmp_path / "traces.jsonl").write_text("\n".join(lines[:-3]) + "\n")
    code, screen, rows, left_out = build("--traces", tmp_path / "traces.jsonl")
    assert code == 0, screen
    assert "9 rows; left out: 3 no trace" in screen
    missing = [json.loads(line)["id"] for line in lines[-3:]]
    assert left_out == [{"id": id_, "why": "no trace"} for id_ in missing]
    sample, trace = read_samples(world / "refshapes_train.jsonl")[0], json.loads(lines[0])
    user, assistant = rows[0]["messages"]
    assert user == {"role": "user", "content": "<image>" + PROMPTS[sample.prompt_name].format(sent=sample.sent)}
    truth = px_to_1000(sample.xyxy_px, sample.width, sample.height)
    assert assistant["content"] == target_text(trace["reasoning"], truth, sample.sent)
    assert Path(rows[0]["images"][0]) == (world / "images" / sample.image).resolve()


def test_samples_without_a_trace_may_be_answered_directly(build, world, tmp_path):
    lines = (world / "refshapes_train_traces.jsonl").read_text().splitlines()
    (tmp_path / "traces.jsonl").write_text("\n".join(lines[:-3]) + "\n")
    _, _, rows, left_out = build("--traces", tmp_path / "traces.jsonl", "--untraced", "direct", "--check-rows", 12)
    direct = [row["messages"][1]["content"].startswith("\n</think>\n\n```json\n") for row in rows]
    assert direct == [False] * 9 + [True] * 3 and left_out == []


def test_expressions_that_nothing_fits_are_answered_with_an_empty_list(build, tmp_path):
    refshapes.build(tmp_path, train=20, val=1, seed=0, no_referent=0.5)
    samples, traces = tmp_path / "refshapes_train.jsonl", tmp_path / "refshapes_train_traces.jsonl"
    code, screen, rows, left_out = build(
        "--traces", traces, "--no-referent", samples=samples, images=tmp_path / "images"
    )
    assert code == 0 and left_out == [], screen
    answers = [row["messages"][1]["content"] for row in rows]
    absent = [answer for answer in answers if declines(answer)]
    assert len(answers) == 20 + len(absent) > 20
    assert all(answer.endswith("</think>\n\n```json\n[]\n```") for answer in absent)


def test_a_trace_of_another_sample_under_the_same_id_is_refused(build, world, tmp_path):
    rows = [json.loads(line) for line in (world / "refshapes_train_traces.jsonl").open()]
    traces = tmp_path / "traces.jsonl"
    traces.write_text("".join(json.dumps(row | {"sample_hash": "0" * 16}) + "\n" for row in rows))
    code, screen, _, _ = build("--traces", traces)
    assert code == 2 and 'row 1: field "id": expected the sample that its trace' in screen


def test_samples_that_share_an_id_are_refused_and_traces_left_over_are_said(build, world, tmp_path):
    lines = (world / "refshapes_train.jsonl").read_text().splitlines()
    twice = tmp_path / "twice.jsonl"
    twice.write_text("\n".join([*lines[:3], lines[1]]) + "\n")
    traces = world / "refshapes_train_traces.jsonl"
    code, screen, _, _ = build("--traces", traces, samples=twice)
    assert code == 2 and 'twice.jsonl: row 4: field "id"' in screen
    code, screen, _, _ = build("--traces", traces, "--rows", ":3")
    assert code == 0 and "9 traces of samples that were not chosen" in screen


def test_direct_answers_need_no_trace(build):
    code, screen, rows, left_out = build("--reasoning", "none", "--check-rows", 12)
    assert code == 0, screen
    assert len(rows) == 12
    assert left_out == []
    assert all(row["messages"][1]["content"].startswith("\n</think>\n\n```json\n") for row in rows)


def test_what_is_too_long_is_listed_with_its_tokens_and_never_cut(build):
    _, _, whole, _ = build("--reasoning", "none")
    limit = 82
    code, screen, rows, left_out = build("--reasoning", "none", "--max-length", limit)
    assert code == 0, screen
    assert 0 < len(rows) < 12
    assert f"left out: {len(left_out)} too long" in screen
    assert all(row["why"] == "too long" and row["tokens"] > limit for row in left_out)
    assert all(row["messages"][1]["content"] in [one["messages"][1]["content"] for one in whole] for row in rows)


def test_released_conversations_are_read_judged_and_written_in_our_form(build, tmp_path):
    Image.new("RGB", (400, 200)).save(tmp_path / "a.jpg")
    failed = released_row(id="c2")
    failed["conversations"][1]["value"] = target_text("Analysis failed", (250, 100, 750, 900), "the man on the left")
    path = tmp_path / "cot.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (released_row(), failed)))
    code, screen, rows, left_out = build("--reasoning", "cot", samples=path, images=tmp_path)
    assert code == 0, screen
    assert left_out == [{"id": "c2", "why": "reasoning: refusal"}]
    (row,) = rows
    assert row["messages"][0]["content"] == "<image>" + PROMPTS["qwen3"].format(sent="the man on the left")
    assert row["messages"][1]["content"] == target_text(REASONING, (250, 100, 750, 900), "the man on the left")


def test_an_amodal_conversation_stays_amodal():
    row = released_row(modal_bbox=[100, 40, 200, 160])
    with pytest.raises(InputError, match='field "conversations": expected modal_bbox if and only if the human turn'):
        parse_conversation(Path("f"), 1, row)
    row["conversations"][0]["value"] = "<image>\n" + PROMPTS["qwen3_amodal"].format(sent="the man on the left")
    sample, _ = parse_conversation(Path("f"), 1, row)
    assert sample.modal_xyxy_px == (100, 40, 200, 160) and sample.prompt_name == "qwen3_amodal"


def conversation(sent: str, answer: str) -> dict:
    turns = [
        {"from": "human", "value": f"<image>\nLocate {sent}, output its bbox coordinates using JSON format."},
        {"from": "gpt", "value": answer},
    ]
    return released_row(conversations=turns)


def test_a_conversation_may_open_the_think_block_and_escape_its_label():
    sent = 'the "left" man\\'
    row = conversation(sent, "<think>\n" + target_text(REASONING, (1, 2, 300, 400), sent))
    sample, reasoning = parse_conversation(Path("f"), 1, row)
    assert (sample.sent, reasoning) == (sent, REASONING)
    assert sample.xyxy_px == pytest.approx((0.4, 0.4, 120, 80))


def test_an_expression_with_quotation_marks_stays_whole_in_prompt_and_label(build, tmp_path):
    Image.new("RGB", (400, 200)).save(tmp_path / "a.jpg")
    sent = 'the man with the "5" on his shirt'
    answer = f'{REASONING}\n</think>\n\n```json\n[\n\t{{"bbox_2d": [250, 100, 750, 900], "label": "{sent}"}}\n]\n```'
    path = tmp_path / "cot.jsonl"
    path.write_text(json.dumps(conversation(sent, answer) | {"id": -1}) + "\n")
    code, screen, rows, _ = build("--reasoning", "cot", samples=path, images=tmp_path)
    assert code == 0, screen
    user, assistant = rows[0]["messages"]
    assert user["content"] == "<image>" + PROMPTS["qwen3"].format(sent=sent)
    assert assistant["content"] == target_text(REASONING, (250, 100, 750, 900), sent)


def test_a_token_of_the_processor_is_refused_in_reasoning_and_expression(build, world, tmp_path, starter):
    folder = tmp_path / "model"
    copytree(starter, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<new>"]})
    tokenizer.save_pretrained(folder)
    lines = (world / "refshapes_train.jsonl").read_text().splitlines(keepends=True)
    sent = json.loads(lines[3])["sent"]
    lines[3] = lines[3].replace(sent, f"{sent} <new>")
    (tmp_path / "samples.jsonl").write_text("".join(lines))
    code, screen, _, _ = build("--reasoning", "none", "--processor", folder, samples=tmp_path / "samples.jsonl")
    assert code == 2 and 'samples.jsonl: row 4: field "sent": expected text without <new>' in screen


def test_answers_of_the_released_generator_are_read_as_traces(build, tmp_path):
    Image.new("RGB", (400, 200)).save(tmp_path / "a.jpg")
    answer = {
        "index": 0,
        "question": 'man with the "5"',
        "image_path": "a.jpg",
        "gt_bbox_normalized": [250, 100, 750, 900],
        "gt_bbox_absolute": [100, 20, 300, 180],
        "image_height": 200,
        "image_width": 400,
        "gpt_analysis": REASONING,
    }
    folder = tmp_path / "gpt_answers"
    folder.mkdir()
    for index, analysis in enumerate((REASONING, "Analysis failed")):
        row = answer | {"index": index, "gpt_analysis": analysis}
        (folder / f"analysis_{index:06d}.json").write_text(json.dumps(row, indent=2))
    code, screen, rows, left_out = build("--reasoning", "cot", samples=folder, images=tmp_path)
    assert code == 0, screen
    assert left_out == [{"id": "1", "why": "reasoning: refusal"}]
    assert rows[0]["messages"][1]["content"] == target_text(REASONING, (250, 100, 750, 900), 'man with the "5"')
    (folder / "analysis_000001.json").write_text(json.dumps(answer | {"gt_bbox_normalized": [0.1, 0.2, 0.3, 0.4]}))
    code, screen, _, _ = build("--reasoning", "cot", samples=folder, images=tmp_path)
    assert code == 2 and 'analysis_000001.json: row 1: field "gt_bbox_normalized"' in screen


def test_two_boxes_in_an_answer_are_refused():
    answer = target_text(REASONING, (1, 2, 300, 400), "the dog")
    row = conversation("the dog", f"{answer}\n{answer.partition('</think>')[2]}")
    with pytest.raises(InputError, match="an answer with one bbox_2d"):
        parse_conversation(Path("f"), 1, row)


def test_a_label_that_speaks_of_something_else_is_named():
    row = conversation("the dog", target_text(REASONING, (1, 2, 300, 400), "the cat"))
    with pytest.raises(InputError, match='row 3: field "conversations": expected a label equal to the expression'):
        parse_conversation(Path("f"), 3, row)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"conversations": None}, "conversations"),
        ({"conversations": ["a turn"]}, "conversations"),
        ({"conversations": [{"from": "gpt", "value": "no separator"}]}, "conversations"),
        ({"conversations": [{"from": "gpt", "value": "a\n</think>\n\nno box"}]}, "conversations"),
        (
            {"conversations": [{"from": "gpt", "value": 'a</think>"bbox_2d": [1, 2, 3, 4], "label": "\\x"'}]},
            "conversations",
        ),
        ({"width": "wide"}, "width"),
        ({"image": 3}, "image"),
    ],
)
def test_bad_conversations_are_named(changes, field):
    with pytest.raises(InputError, match=f'f: row 4: field "{field}"'):
        parse_conversation(Path("f"), 4, released_row(**changes))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--traces: expected a file"),
        (["--reasoning", "none", "--processor", "nowhere/at/all"], "--processor: expected a checkpoint"),
        (["--reasoning", "none", "--max-length", "10"], "no row is left; left out: 12 too long"),
        (["--reasoning", "cot"], "expected a gpt turn of reasoning"),
    ],
)
def test_bad_input_ends_in_one_line_and_leaves_no_file(build, arguments, message, tmp_path):
    code, screen, _, _ = build(*arguments)
    assert code == 2
    assert message in screen
    assert not (tmp_path / "rows.parquet").exists()


def test_a_build_that_fails_leaves_the_earlier_rows_and_their_list(build, world, tmp_path):
    lines = (world / "refshapes_train_traces.jsonl").read_text().splitlines()
    (tmp_path / "traces.jsonl").write_text("\n".join(lines[:-3]) + "\n")
    build("--traces", tmp_path / "traces.jsonl")
    before = {path.name: path.read_bytes() for path in tmp_path.glob("rows.*")}
    (tmp_path / "traces.jsonl").write_text("\n".join(lines[1:]) + "\n")  # another list, then a broken row
    samples = tmp_path / "samples.jsonl"
    samples.write_text((world / "refshapes_train.jsonl").read_text() + "{}\n")
    code, screen, _, _ = build("--traces", tmp_path / "traces.jsonl", samples=samples)
    assert code == 2 and "samples.jsonl: row 13" in screen
    assert {path.name: path.read_bytes() for path in tmp_path.glob("rows.*")} == before
