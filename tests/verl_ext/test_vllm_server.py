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
FIELDS = """
import json
from qwen3vl_rl.training import cpu
cpu.activate()
from vllm.logprobs import Logprob
from vllm.outputs import CompletionOutput
from qwen3vl_rl.verl_ext.vllm_server import fields_of
likely = [{5: Logprob(-1.0)}, {7: Logprob(-2.0), 9: Logprob(-0.5)}]
found = [
    fields_of(CompletionOutput(1, "", [5, 7], None, likely, finish_reason="length")),
    fields_of(CompletionOutput(0, "", [5], None, None, finish_reason="abort")),
]
print(json.dumps(found))
"""


def test_an_answer_has_its_own_fields(user_environment):
    done = subprocess.run(
        [sys.executable, "-c", FIELDS], cwd=ROOT, env=user_environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    whole, aborted = json.loads(done.stdout.splitlines()[-1])
    own = {"token_ids": [5, 7], "log_probs": [-1.0, -2.0], "routed_experts": None, "stop_reason": "completed"}
    assert whole == own
    assert (aborted["log_probs"], aborted["stop_reason"]) == (None, "aborted")


def test_the_answers_to_a_prompt_differ_in_a_run(rl_run):
    answers = defaultdict(list)
    for line in (rl_run / "rollouts" / "1.jsonl").read_text().splitlines():
        row = json.loads(line)
        answers[row["input"]].append(row["output"])
    assert sum(map(len, answers.values())) == 16
    assert all(len(set(own)) > 1 for own in answers.values())
