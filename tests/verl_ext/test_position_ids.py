"""Position ids of sequences that all have the same length."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict
from verl.utils import tensordict_utils

from qwen3vl_rl.verl_ext.position_ids import _theirs, fix_position_ids

ROOT = Path(__file__).parents[2]


def batch_of(*tokens: int) -> tuple[TensorDict, list[torch.Tensor]]:
    """A batch as TransferQueue combines it, and the position ids of each sample."""
    each = [torch.arange(4 * count).reshape(4, count) + 100 * number for number, count in enumerate(tokens)]
    ids = torch.nested.as_nested_tensor(each, layout=torch.jagged)
    return TensorDict({"position_ids": ids}, batch_size=len(tokens)), each


@pytest.mark.parametrize("tokens", [(7, 8, 7, 7), (7, 7, 7, 7), (4, 4), (8, 8), (16,) * 4, (7,), (4,)])
def test_a_batch_is_split_into_samples_of_any_length(tokens):
    batch, each = batch_of(*tokens)
    fix_position_ids(batch)
    found = batch["position_ids"].unbind()
    assert [ids.tolist() for ids in found] == [ids.tolist() for ids in each]
    last = tensordict_utils.index_select_tensor_dict(batch, [len(tokens) - 1])["position_ids"].unbind()
    assert last[0].tolist() == each[-1].tolist()
    if len(tokens) % 2 == 0:
        halves = tensordict_utils.chunk_tensordict(batch, 2)
        assert [ids.tolist() for half in halves for ids in half["position_ids"].unbind()] == [x.tolist() for x in each]


def test_a_batch_without_position_ids_is_unchanged():
    for batch in (TensorDict({}, batch_size=2), TensorDict({"position_ids": torch.zeros(2, 5)}, batch_size=2)):
        fix_position_ids(batch)
        assert batch.get("position_ids", torch.zeros(2, 5)).shape == (2, 5)


def test_verl_fails_without_our_fix():
    """If this test fails, a newer verl or torch has fixed this, and the hook can be removed."""
    batch, _ = batch_of(7, 7, 7, 7)
    _theirs(batch)
    with pytest.raises(RuntimeError):
        batch["position_ids"].unbind()


WHOSE = """
import os
from qwen3vl_rl.training import launch
os.environ["VERL_USE_EXTERNAL_MODULES"] = launch.external_modules()
from verl.workers import engine_workers
from verl.workers.engine import base
print(engine_workers.maybe_fix_3d_position_ids.__module__, base.maybe_fix_3d_position_ids.__module__)
"""


@pytest.mark.slow
def test_verl_calls_our_fix(user_environment):
    command = [sys.executable, "-c", WHOSE]
    done = subprocess.run(command, cwd=ROOT, env=user_environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split() == ["qwen3vl_rl.verl_ext.position_ids"] * 2
