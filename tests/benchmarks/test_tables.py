import json
from pathlib import Path

import pytest
import yaml

from benchmarks import grpo_step, headlines, sft_throughput, tables
from benchmarks.formats import columns, markdown
from benchmarks.results import FOLDER, read_result
from qwen3vl_rl.errors import InputError

LOG = "\n".join(page.read_text() for page in (tables.DOCS / "log").glob("*.md"))
SELECTED = {name: headlines.selected(name) for name in yaml.safe_load(headlines.SELECTION.read_text())}


@pytest.mark.slow
@pytest.mark.parametrize("page", tables.PAGES, ids=lambda page: page.name)
def test_the_tables_are_those_of_the_files(page):
    text = page.read_text()
    assert tables.fill(text, tables.on_page) == text, "run: python -m benchmarks.tables"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_every_result_is_selected_for_a_page_or_named_in_the_log(path):
    selected = {choice["file"] for choices in SELECTED.values() for choice in choices}
    assert path.stem in selected or path.name in LOG, "select a row in headlines.yaml or describe the file in docs/log/"


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("name", tables.TABLES)
def test_every_table_prints_every_row(name, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["tables", "--print", name])
    tables.main()
    title, *lines = capsys.readouterr().out.splitlines()
    head, *rows = tables.of_folder(name)
    assert title.startswith(name) and len(lines) == len(rows) + 3  # the head, its rule, and a last empty line
    assert rows and all(len(row) == len(head) for row in rows)


def test_an_unknown_table_is_named(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["tables", "--print", "grpo", "speed"])
    with pytest.raises(SystemExit):
        tables.main()
    assert "--print: expected one of sft, " in (error := capsys.readouterr().err) and "got speed" in error


def test_text_around_tables_stays():
    page = "before\n<!-- a-b c -->\nold\n<!-- end -->\nafter\n"
    assert tables.fill(page, lambda name: f"new {name}") == page.replace("old", "new a-b c")


def test_a_table_without_results_says_so(tmp_path):
    assert markdown(tables.of_folder("grpo", tmp_path)) == "| not measured yet |\n| --- |"


def test_a_terminal_gets_aligned_columns():
    assert columns([("a", "b"), (100, "x"), ("", "y")]) == "a    b\n──────\n100  x\n     y"


def test_a_selection_that_matches_no_row_is_named():
    with pytest.raises(InputError, match=r"file x: expected a row with \{'name': 'b'\}, found none"):
        headlines.find([{"name": "a"}], {"file": "x"}, name="b")


def test_ratios_pair_rounds_of_a_group_and_all_steps_of_separate_runs():
    group = [{"name": "fast", "step_s": {"rounds": [1.0, 2.0]}}, {"name": "slow", "step_s": {"rounds": [3.0, 4.0]}}]
    runs = [{"variant": "fast", "steps": [1.0, 2.0]}, {"variant": "slow", "steps": [3.0, 4.0]}]
    for result, lowest, highest in (({"groups": [group]}, 2.0, 3.0), ({"variants": runs}, 1.5, 4.0)):
        found = headlines.times_as_fast(result, {"file": "x"}, "fast", "slow")
        assert (found["min"], found["max"]) == (lowest, highest)


@pytest.mark.parametrize("choice", SELECTED["parts"], ids=lambda choice: choice["part"])
def test_an_override_that_switches_a_part_off_sets_keys_that_the_benchmarks_set(choice):
    module = sft_throughput if choice["file"].startswith("sft") else grpo_step
    known = {override.lstrip("+") for overrides in module.CHANGES.values() for override in overrides}
    keys = {override.partition("=")[0] for override in known}
    assert {override.partition("=")[0] for override in choice["override"].split()} <= keys


def test_origins_have_the_commit_that_a_result_records():
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
    assert [line[2] for line in tables.origins([(Path("x.json"), told | found) for found in more])] == [
        "commit",
        "unknown",
        "4a258df",
        "4a258df with changes",
        "vllm 9ee0ee6 sglang cbf604e",
        "1082b95, 4a258df with changes",
    ]


def test_old_names_in_results_are_mapped(tmp_path):
    path = tmp_path / "x.json"
    words = {"command": "--variant a+unsharded", "variants": [{"variant": "a+unsharded+sharded"}]}
    path.write_text(json.dumps(words | {"set": ["model.override_config.unsharded=true"], "parser": "house"}))
    assert read_result(path) == {
        "command": "--variant a+unsharded",
        "variants": [{"variant": "a+no-shard+sharded"}],
        "set": ["engine.no_shard=true"],
        "parser": "strict",
    }
