"""Files are replaced whole, whoever else writes them."""

import os
import subprocess
import sys

import pytest

from qwen3vl_rl.data.files import replacing


def test_two_writers_of_one_file_leave_one_of_both_whole(tmp_path):
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


def test_an_error_leaves_the_earlier_file(tmp_path):
    (tmp_path / "file").write_text("earlier")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "file") as draft:
        draft.write_text("half")
        1 / 0  # noqa: B018
    assert (tmp_path / "file").read_text() == "earlier" and os.listdir(tmp_path) == ["file"]
