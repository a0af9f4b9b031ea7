"""A request gives all answers to a prompt, each with its own tokens, log-probabilities and end."""

import json
from collections import defaultdict

import pytest
from vllm.logprobs import Logprob
from vllm.outputs import CompletionOutput

from qwen3vl_rl.verl_ext.vllm_server import fields_of

pytestmark = pytest.mark.slow


def test_an_answer_has_its_own_fields():
    likely = [{5: Logprob(-1.0)}, {7: Logprob(-2.0), 9: Logprob(-0.5)}]
    output = CompletionOutput(1, "", [5, 7], None, likely, finish_reason="length")
    own = {"token_ids": [5, 7], "log_probs": [-1.0, -2.0], "routed_experts": None, "stop_reason": "completed"}
    assert fields_of(output) == own


def test_without_log_probabilities_there_are_none():
    assert fields_of(CompletionOutput(0, "", [5], None, None, finish_reason="abort"))["log_probs"] is None


def test_the_answers_to_a_prompt_differ_in_a_run(rl_run):
    answers = defaultdict(list)
    for line in (rl_run / "rollouts" / "1.jsonl").read_text().splitlines():
        row = json.loads(line)
        answers[row["input"]].append(row["output"])
    assert sum(map(len, answers.values())) == 16
    assert all(len(set(own)) > 1 for own in answers.values())
