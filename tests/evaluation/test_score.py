"""Existing answers of any tool are scored."""

import json

import pytest

from qwen3vl_rl.data.jsonl import write_jsonl
from qwen3vl_rl.data.predictions import read_predictions
from qwen3vl_rl.data.samples import read_samples
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.evaluation import score, table
from qwen3vl_rl.evaluation.score import score_answers
from qwen3vl_rl.evaluation.serving.questions import read_questions


@pytest.fixture
def file(world):
    return world / "eval" / "refshapes_val.jsonl"


def px_answers(file) -> list[dict]:
    return [{"id": row.id, "text": f"The box is {list(row.xyxy_px)}."} for row in read_samples(file)]


def run(monkeypatch, module, *arguments) -> None:
    monkeypatch.setattr("sys.argv", [module.__name__, *map(str, arguments)])
    module.main()


def test_another_tools_answers_in_px_get_tables(world, file, tmp_path, monkeypatch, capsys):
    write_jsonl(tmp_path / "theirs.jsonl", px_answers(file))
    out = tmp_path / "theirs" / "predictions.jsonl"
    out.parent.mkdir()
    common = [tmp_path / "theirs.jsonl", "--data", file, "--images", world / "images", "--out", out]
    run(monkeypatch, score, *common, "--coordinates", "px", "--parser", "released")
    assert capsys.readouterr().out == f"{out}: 6 answers to 6 questions\n"
    run(monkeypatch, table, out, "--all")
    assert "theirs          100.0" in capsys.readouterr().out
    # our own file is scored again with another parser
    run(monkeypatch, score, out, *common[1:-1], tmp_path / "again.jsonl")
    assert {row.key for row in read_predictions(tmp_path / "again.jsonl")} == {row.key for row in read_predictions(out)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "nobody"}, 'row 1: field "id": expected the key of a question'),
        ({"text": None}, 'row 1: field "text"'),
        ({"tokens": "9"}, 'row 1: field "tokens": expected a number'),
        ({"key": "refshapes_val/000009"}, 'row 1: field "key"'),
    ],
)
def test_bad_answers_name_row_and_field(world, file, tmp_path, change, message):
    rows = px_answers(file)
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [rows[0] | change, *rows[1:]]))
    with pytest.raises(InputError, match=message):
        list(score_answers(tmp_path / "a.jsonl", read_questions([file], world / "images"), "strict", "relative_1000"))


def test_a_question_answered_twice_is_rejected(world, file, tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [px_answers(file)[0]] * 2)
    with pytest.raises(InputError, match='row 2: field "id": expected each question once'):
        list(score_answers(tmp_path / "a.jsonl", read_questions([file], world / "images"), "strict", "relative_1000"))
