"""Torn rows, which a killed writer leaves, are skipped or removed."""

import pytest

from qwen3vl_rl.data.jsonl import append_row, cut_torn_row, read_jsonl, whole_lines
from qwen3vl_rl.errors import InputError


def test_complete_lines_can_be_read_while_a_file_grows(tmp_path):
    path = tmp_path / "rows.jsonl"
    assert list(whole_lines(path)) == []  # the file does not exist yet
    path.write_bytes(b'{"a": 1}\n{"a": "\xe2\x80\xa8"}\n{"a"')  # U+2028 does not end a line
    lines = list(whole_lines(path))
    assert lines == [b'{"a": 1}\n', b'{"a": "\xe2\x80\xa8"}\n']
    with path.open("ab") as file:
        file.write(b": 3}\n")
    assert list(whole_lines(path, sum(map(len, lines)))) == [b'{"a": 3}\n']


@pytest.mark.parametrize("torn", ["", '{"id": "torn', '{"id": 2}'])
def test_rows_are_appended_after_the_last_complete_row(torn, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": 0}\n' + torn)
    cut_torn_row(path)
    with path.open("a", encoding="utf-8") as file:
        append_row(file, {"id": "é"})
        assert read_jsonl(path) == [{"id": 0}, {"id": "é"}]  # on disk before the file is closed
    assert path.read_text(encoding="utf-8") == '{"id": 0}\n{"id": "é"}\n'


def test_a_file_of_one_torn_row_becomes_empty(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": "torn')
    cut_torn_row(path)
    assert path.read_bytes() == b""


@pytest.mark.parametrize("end", ["\n", "\n\n", "  \n\r\n", ""])
def test_blank_lines_at_the_end_are_skipped(tmp_path, end):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": 0}\n{"id": 1}\n' + end)
    assert read_jsonl(path) == [{"id": 0}, {"id": 1}]


def test_a_blank_line_between_rows_is_an_error(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": 0}\n\n{"id": 1}\n')
    with pytest.raises(InputError, match="row 2"):
        read_jsonl(path)
