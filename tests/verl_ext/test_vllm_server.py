"""A request gives all answers to a prompt, each with its own tokens, log-probabilities and end."""

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
# Runs in its own process: verl finds vLLM's CPU build only where `cpu.activate` was called before all imports.
SPLIT = """
import json
from qwen3vl_rl.training import cpu
cpu.activate()
from vllm.outputs import CompletionOutput, RequestOutput
from qwen3vl_rl.verl_ext.vllm_server import split
outputs = [CompletionOutput(number, "", [5, number], None, None) for number in range(2)]
singles = split(RequestOutput("name", None, [1], None, outputs, True))
print(json.dumps([[single.request_id, [output.token_ids for output in single.outputs]] for single in singles]))
"""


def test_a_result_is_split_into_its_answers(user_environment):
    done = subprocess.run([sys.executable, "-c", SPLIT], cwd=ROOT, env=user_environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [["name", [[5, 0]]], ["name", [[5, 1]]]]


def test_the_answers_to_a_prompt_differ_in_a_run(rl_run):
    answers = defaultdict(list)
    for line in (rl_run / "rollouts" / "1.jsonl").read_text().splitlines():
        row = json.loads(line)
        answers[row["input"]].append(row["output"])
    assert sum(map(len, answers.values())) == 16
    assert all(len(set(own)) > 1 for own in answers.values())
