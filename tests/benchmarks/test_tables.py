from functools import partial
from pathlib import Path

from benchmarks.tables import FOLDER, fill, of_folder, origins


def test_the_tables_are_those_of_the_files():
    readme = (FOLDER / "README.md").read_text()
    assert fill(readme, partial(of_folder, folder=FOLDER)) == readme, "python -m benchmarks.tables"


def test_text_around_tables_stays(tmp_path):
    page = "before\n<!-- grpo -->\nold\n<!-- end -->\nafter\n"
    assert (
        fill(page, partial(of_folder, folder=tmp_path))
        == "before\n<!-- grpo -->\n*Not measured yet.*\n<!-- end -->\nafter\n"
    )


def test_origins_tell_the_commit_where_a_result_does():
    told = {"device": "CPU", "command": "python x"}
    found = (told, told | {"commit": "4a258df"}, told | {"commits": {"vllm": "9ee0ee6", "sglang": "cbf604e"}})
    lines = origins([(Path("x.json"), result) for result in found]).splitlines()
    commits = [line.split(" | ")[2] for line in (lines[0], *lines[2:])]
    assert commits == ["commit", "", "4a258df", "vllm 9ee0ee6 sglang cbf604e"]
