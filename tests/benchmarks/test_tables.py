import json
from functools import partial
from pathlib import Path

import pytest

from benchmarks.results import FOLDER, read_result
from benchmarks.tables import README, fill, of_folder, origins

pytestmark = pytest.mark.slow


def test_the_tables_are_those_of_the_files():
    readme = README.read_text()
    assert fill(readme, partial(of_folder, folder=FOLDER)) == readme, "python -m benchmarks.tables"


def test_text_around_tables_stays(tmp_path):
    page = "before\n<!-- grpo -->\nold\n<!-- end -->\nafter\n"
    assert (
        fill(page, partial(of_folder, folder=tmp_path))
        == "before\n<!-- grpo -->\n*Not measured yet.*\n<!-- end -->\nafter\n"
    )


def test_origins_tell_the_commit_where_a_result_does():
    told = {"device": "CPU", "command": "python x"}
    commits = {"vllm": "9ee0ee6", "sglang": "cbf604e"}
    parts = {"runs": [{"commit": "1082b95"}, {"commit": "4a258df", "dirty": True}, {"commit": "1082b95"}]}
    more = (
        {},
        {"commit": "4a258df", "dirty": False},
        {"commit": "4a258df", "dirty": True},
        {"commits": commits},
        parts,
    )
    lines = origins([(Path("x.json"), told | found) for found in more]).splitlines()
    assert [line.split(" | ")[2] for line in (lines[0], *lines[2:])] == [
        "commit",
        "unknown",
        "4a258df",
        "4a258df with changes",
        "vllm 9ee0ee6 sglang cbf604e",
        "1082b95, 4a258df with changes",
    ]


def test_results_are_read_under_todays_names(tmp_path):
    path = tmp_path / "x.json"
    words = {"command": "--variant a+unsharded", "variants": [{"variant": "a+unsharded+sharded"}]}
    path.write_text(json.dumps(words | {"set": ["model.override_config.unsharded=true"], "parser": "house"}))
    assert read_result(path) == {
        "command": "--variant a+unsharded",
        "variants": [{"variant": "a+no-shard+sharded"}],
        "set": ["engine.no_shard=true"],
        "parser": "strict",
    }
