import os
import pickle
import subprocess
import sys

import pytest

from qwen3vl_rl.errors import InputError, cli, row_error


def test_row_error_names_file_row_field_expectation_and_value():
    error = row_error("data/val.jsonl", 7, "bbox", "four numbers", [1, "2"])
    assert str(error) == "data/val.jsonl: row 7: field \"bbox\": expected four numbers, got [1, '2']"
    assert isinstance(error, InputError) and isinstance(error, ValueError)


def test_row_error_stays_one_short_line():
    message = str(row_error("f", 1, "sent", "a line", "x\n" * 100_000))
    assert "\n" not in message and len(message) < 300


def test_input_error_survives_pickling():  # it crosses Ray's process borders
    error = pickle.loads(pickle.dumps(row_error("f", 1, "a", "b", 2)))
    assert type(error) is InputError and str(error) == 'f: row 1: field "a": expected b, got 2'


def test_cli_prints_one_line_and_exits_with_2():
    program = "from qwen3vl_rl.grounding import InputError, cli\ndef main(): raise InputError('bad row')\ncli(main)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: bad row\n")


def test_cli_runs_main_and_lets_other_errors_through(capsys):
    cli(lambda: print("done"))
    assert capsys.readouterr().out == "done\n"
    with pytest.raises(ZeroDivisionError):
        cli(lambda: 1 / 0)


def test_cli_ends_quietly_where_nobody_reads_on():
    program = "from qwen3vl_rl.grounding import cli\ncli(lambda: [print('a long line') for _ in range(100_000)])"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as writer:
        writer.stdout.readline()
        writer.stdout.close()
        assert (writer.wait(60), writer.stderr.read()) == (1, b"")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_output_can_be_read_in_any_encoding(encoding):
    code = "from qwen3vl_rl.errors import cli\ncli(lambda: print('5.9\u00d7 \u2192 caf\u00e9 \u732b \u2026'))"
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    spelled = "5.9x -> caf\\xe9 \\u732b ..." if encoding == "ascii" else "5.9\u00d7"
    assert done.stdout.decode(encoding).startswith(spelled)
