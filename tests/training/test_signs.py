"""What a run's metrics warn of, each once, and nothing in a healthy run."""

import re
from pathlib import Path

import pytest

from qwen3vl_rl.training.signs import HELP, WINDOW, Signs

ROOT = Path(__file__).parents[2]
HEALTHY = {
    "response_length/mean": 100.0,
    "rollout/cut_off": 0.0,
    "rollout/alike_groups": 0.6,
    "actor/kl_loss": 0.02,
    "training/rollout_probs_diff_mean": 0.01,
}
SICK = {
    "nothing-to-learn-from": {"rollout/alike_groups": 0.97},
    "answers-are-cut-off": {"rollout/cut_off": 0.3},
    "answers-get-short": {"response_length/mean": 40.0},
    "far-from-the-start": {"actor/kl_loss": 3.0},
    "engine-and-actor-differ": {"training/rollout_probs_diff_mean": 0.3},
}


def told(signs: Signs, *steps: dict) -> list[str]:
    return [line for metrics in steps for line in signs.look(metrics)]


@pytest.mark.parametrize("section", SICK)
def test_each_sign_is_told_once_and_names_its_section(section):
    signs, sick = Signs(), HEALTHY | SICK[section]
    assert told(signs, *[HEALTHY] * 20) == []
    lines = told(signs, *[sick] * 20)
    assert [line.split("; see ")[1] for line in lines] == [HELP + section]
    assert lines[0].startswith("warning: ")


def test_one_step_of_many_is_chance():
    sick = HEALTHY | {"rollout/alike_groups": 1.0, "response_length/mean": 40.0}
    assert told(Signs(), *[HEALTHY] * 10, sick, *[HEALTHY] * 10) == []


def test_a_resumed_run_knows_its_start_and_what_it_told():
    short = HEALTHY | SICK["answers-get-short"]
    signs = Signs([HEALTHY] * WINDOW)
    assert len(told(signs, *[short] * WINDOW)) == 1
    assert told(Signs([*[HEALTHY] * WINDOW, *[short] * WINDOW]), *[short] * WINDOW) == []


def test_steps_without_answers_say_nothing():
    assert told(Signs(), *[{"train/loss": 3.0}] * 20) == []
    assert told(Signs(), *[{"response_length/mean": 100.0}] * 20) == []  # as other algorithms report


def test_the_page_has_a_section_for_each_sign():
    page = (ROOT / HELP.removesuffix("#")).read_text()
    titles = re.findall(r"^### (.*)", page, re.MULTILINE)
    assert [title.lower().replace(" ", "-") for title in titles] == list(SICK)
