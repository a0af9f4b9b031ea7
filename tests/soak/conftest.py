"""The long tests write their outcomes to results.json as they end; what passed at this commit is not repeated."""

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


def read_cases(commit: str) -> dict[str, dict]:
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return results["cases"] if results.get("commit") == commit else {}


def write_cases(commit: str, cases: dict[str, dict]) -> None:
    outcomes = [case["outcome"] for case in cases.values()]
    counts = {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))}
    draft = RESULTS.with_suffix(".part")
    draft.write_text(json.dumps({"commit": commit, "counts": counts, "cases": cases}, indent=2) + "\n")
    os.replace(draft, RESULTS)


def pytest_collection_modifyitems(config, items):
    done = {name for name, case in read_cases(current_commit()).items() if case["outcome"] == "passed"}
    again = [item for item in items if item.path.parent == HERE and item.nodeid in done]
    config.hook.pytest_deselected(items=again)
    items[:] = [item for item in items if item not in again]
    for item in items:
        if item.path.parent == HERE:
            item.add_marker(pytest.mark.timeout(LIMIT_S))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if item.path.parent == HERE and (report.when == "call" or not report.passed):
        commit = current_commit()
        case = {"outcome": report.outcome, "seconds": round(report.duration)}
        write_cases(commit, read_cases(commit) | {item.nodeid: case})
