"""Files are replaced atomically, and a folder has one writer at a time."""

import os
import subprocess
import sys

import pytest

from qwen3vl_rl.data.files import alone_in, replacing
from qwen3vl_rl.errors import InputError


def test_concurrent_writers_leave_one_complete_file(tmp_path):
    path = tmp_path / "file"
    code = (
        "import sys, pathlib; from qwen3vl_rl.data.files import replacing\n"
        "with replacing(pathlib.Path(sys.argv[1])) as draft: draft.write_text('theirs')"
    )
    with replacing(path) as draft:
        draft.write_text("our")
        subprocess.run([sys.executable, "-c", code, str(path)], check=True)
        assert path.read_text() == "theirs"
        with draft.open("a") as file:
            file.write("s")
    assert path.read_text() == "ours" and os.listdir(tmp_path) == ["file"]


def test_an_error_keeps_the_earlier_file(tmp_path):
    (tmp_path / "file").write_text("earlier")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "file") as draft:
        draft.write_text("half")
        1 / 0  # noqa: B018
    assert (tmp_path / "file").read_text() == "earlier" and os.listdir(tmp_path) == ["file"]


def test_a_locked_folder_is_rejected(tmp_path):
    held = tmp_path / "out"
    holder = "import sys, time; from pathlib import Path; from qwen3vl_rl.data.files import alone_in\n"
    holder += "with alone_in(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", holder, held], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="expected no other run to be writing to it"), alone_in(held):
            pass
        assert held.is_dir()  # although it is empty, because the other process holds it
        other.kill()
        other.wait()
        with alone_in(held):  # a killed process releases its lock
            pass


def test_an_output_folder_that_is_a_file_is_rejected(tmp_path):
    (tmp_path / "out").write_text("earlier")
    with pytest.raises(InputError, match="out: expected a folder that can be written"), alone_in(tmp_path / "out"):
        pass
    assert (tmp_path / "out").read_text() == "earlier"
