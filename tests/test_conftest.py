"""What the shared conftest does with failures, and with tests that start an engine."""

from pathlib import Path

import pytest

pytest_plugins = "pytester"

CONFTEST = Path(__file__).with_name("conftest.py")
TESTS = """
import pytest

@pytest.fixture(scope="session")
def train():
    raise ValueError("what has failed")

@pytest.fixture(scope="session")
def run(train):
    pass

def test_first(run): pass
def test_second(run): pass
def test_third(request): request.getfixturevalue("train")
def test_other(): pass
"""


@pytest.fixture
def suite(pytester):
    pytester.makeini("[pytest]\nmarkers = engine\naddopts = --strict-markers -p no:asyncio -p no:rerunfailures")
    pytester.makeconftest(CONFTEST.read_text())
    pytester.makepyfile(TESTS)
    return pytester


def test_a_failure_of_a_shared_fixture_is_reported_once(suite):
    result = suite.runpytest_inprocess("-rs")
    result.assert_outcomes(passed=1, errors=1, skipped=2)
    result.stdout.fnmatch_lines(["*ValueError: what has failed", "SKIPPED*the fixture train has failed"])


def test_what_a_fixture_starts_marks_the_tests_that_use_it(suite):
    result = suite.runpytest_inprocess("-m", "not engine")
    result.assert_outcomes(passed=1, failed=1, deselected=2)  # `getfixturevalue` is not seen beforehand
