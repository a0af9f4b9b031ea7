import sys

import pytest

from qwen3vl_rl import plan
from qwen3vl_rl.errors import InputError

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trainer.n_gpus_per_node=-1"], r"trainer\.n_gpus_per_node=-1: expected an integer of at least 1"),
        (["actor_rollout_ref.rollout.n=0"], r"rollout\.n=0: expected an integer"),
        (["hardware=cpu"], "trainer.device=cpu: expected cuda"),
        (["--samples", "100"], "data.train_batch_size=256: expected at most the 100 of --samples"),
        (["actor_rollout_ref.actor.fsdp_config.ulysses_sequence_parallel_size=2"], "=2: expected 1 with"),
        (["trainer.v1.trainer_mode=separate_async"], "separate_async: the planner knows only modes"),
        (["--answer-tokens", "5000"], "--answer-tokens 5000: expected at most data.max_response_length=2048"),
    ],
)
def test_invalid_numbers_are_rejected(monkeypatch, arguments, expected):
    monkeypatch.setattr(sys, "argv", ["plan", "size=8b", *arguments])
    with pytest.raises(InputError, match=expected):
        plan.main()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--image", "640"], "expected WIDTHxHEIGHT of at least 32 px each, got 640"),
        (["--samples", "0"], "expected an integer of at least 1, got 0"),
    ],
)
def test_invalid_options_are_rejected(monkeypatch, capsys, arguments, expected):
    monkeypatch.setattr(sys, "argv", ["plan", *arguments])
    with pytest.raises(SystemExit):
        plan.main()
    assert expected in capsys.readouterr().err


def test_the_command_prints_a_plan_and_fails_where_it_does_not_fit(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["plan", "size=qwen3vl_8b", "hardware=node8"])
    plan.main()
    assert "it fits" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["plan", "size=qwen3vl_8b", "hardware=gpu1"])
    with pytest.raises(SystemExit) as stopped:
        plan.main()
    assert stopped.value.code == 1
    assert "it does not fit" in capsys.readouterr().out
