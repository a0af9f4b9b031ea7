"""With --soak, long tests write their outcomes to results.json as they end, each with the commit that it ran on. What
passed at this commit is not repeated."""

import json
import os
import subprocess
from functools import cache
from pathlib import Path

import pytest

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
LIMIT_S = 3 * 3600  # of one test, several runs of a slow machine; only what hangs meets it


def git(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True)


@cache  # asked at the start: what is committed while the tests run is not what they ran on
def current_commit() -> str:
    """The commit under test, marked where tracked files other than the results differ from it."""
    changed = git("diff", "--quiet", "HEAD", "--", ":/", f":(exclude){RESULTS}").returncode
    return git("rev-parse", "HEAD").stdout.strip() + ("-dirty" if changed else "")


def read_cases() -> dict[str, dict]:
    return json.loads(RESULTS.read_text())["cases"] if RESULTS.exists() else {}


def write_case(name: str, case: dict) -> None:
    draft = RESULTS.with_suffix(".part")
    draft.write_text(json.dumps({"cases": read_cases() | {name: case}}, indent=2) + "\n")
    os.replace(draft, RESULTS)


def pytest_collection_modifyitems(config, items):
    passed = {"outcome": "passed", "commit": current_commit()}
    done = {name for name, case in read_cases().items() if case.items() >= passed.items()}
    again = [item for item in items if item.get_closest_marker("long") and item.nodeid in done]
    config.hook.pytest_deselected(items=again)
    items[:] = [item for item in items if item not in again]
    for item in items:
        if item.path.parent == HERE:
            item.add_marker(pytest.mark.timeout(LIMIT_S))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if item.get_closest_marker("long") and (report.when == "call" or not report.passed):
        case = {"outcome": report.outcome, "seconds": round(report.duration), "commit": current_commit()}
        write_case(item.nodeid, case)
