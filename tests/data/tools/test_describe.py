"""Describing files of reasoning traces."""

import sys

import pytest

from qwen3vl_rl.data.jsonl import write_jsonl
from qwen3vl_rl.data.tools import describe
from qwen3vl_rl.errors import InputError


def run(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["describe", *map(str, arguments)])
    describe.main()


def test_trace_styles_are_counted(tmp_path, monkeypatch, capsys):
    texts = ["I look for the star."] * 3 + ["Stars from left to right, first: [1, 2, 3, 4]. I need the first."]
    styles = ["brief"] * 3 + ["thorough"]
    rows = [
        {"id": str(number), "style": style, "reasoning": text}
        for number, (style, text) in enumerate(zip(styles, texts, strict=True))
    ]
    write_jsonl(tmp_path / "traces.jsonl", rows)
    run(monkeypatch, tmp_path / "traces.jsonl")
    shown = capsys.readouterr().out
    assert "4 reasoning traces" in shown and "styles: brief 75.0%, thorough 25.0%" in shown
    assert shown.splitlines()[3].split()[-1] == "7.2"  # mean number of words: three traces of 5 and one of 14


def test_traces_without_a_style_print_no_shares(tmp_path, monkeypatch, capsys):
    write_jsonl(tmp_path / "traces.jsonl", [{"id": "a", "reasoning": "The star is on the left."}])
    run(monkeypatch, tmp_path / "traces.jsonl")
    assert "styles" not in capsys.readouterr().out


def test_traces_cannot_be_drawn(tmp_path, monkeypatch):
    write_jsonl(tmp_path / "traces.jsonl", [{"id": "a", "reasoning": "The star is on the left."}])
    with pytest.raises(InputError, match="expected a file of samples"):
        run(monkeypatch, tmp_path / "traces.jsonl", "--sheet", tmp_path / "sheet.png", "--images", tmp_path)


def test_a_row_without_a_trace_is_named(tmp_path, monkeypatch):
    write_jsonl(tmp_path / "traces.jsonl", [{"id": "a", "reasoning": "The star."}, {"id": "b", "reasoning": None}])
    with pytest.raises(InputError, match=r'row 2: field "reasoning": expected a string'):
        run(monkeypatch, tmp_path / "traces.jsonl")
