"""Ranks that hold a whole model each train it as one rank would."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import torch

from qwen3vl_rl.engine.replicas import reading_as_rank_0, share_checkpoint

ROOT = Path(__file__).parents[2]

# Two micro-batches a rank. Gradients come in another order on each, and `rare` is used once, by the second rank, before
# its last.
TWO_RANKS = """
import sys, torch, torch.distributed as dist
from qwen3vl_rl.engine.replicas import Replicas

def build():
    model = torch.nn.ModuleDict({name: torch.nn.Linear(3, 3) for name in ("often", "rare", "always", "frozen")})
    model["frozen"].requires_grad_(False)
    model.register_buffer("seen", torch.rand(1))
    return model

def loss(model, rank, last):
    x = torch.full((2, 3), 1.0 + rank + 10 * last)
    for part in (["often", "always"] if rank else ["always", "often"]) + ["rare"] * (rank and not last) + ["frozen"]:
        x = model[part](x)
    return x.square().sum()

folder, rank = sys.argv[1], int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{folder}/ranks", rank=rank, world_size=2)
torch.manual_seed(rank)
model, alone = build(), build()
replicas = Replicas(model)
for update in range(2):
    model.zero_grad()
    loss(model, rank, last=False).backward()
    with replicas.averaging():
        loss(model, rank, last=True).backward()
alone.load_state_dict(model.state_dict())
sum(loss(alone, other, last) / 2 for other in (0, 1) for last in (False, True)).backward()
gradients = [{name: p.grad for name, p in m.named_parameters() if p.requires_grad} for m in (model, alone)]
torch.save((model.state_dict(), *gradients), f"{folder}/{rank}.pt")
dist.destroy_process_group()
"""


def test_gradients_are_the_mean_of_all_ranks(tmp_path):
    command = [sys.executable, "-c", TWO_RANKS, str(tmp_path)]
    runs = [subprocess.Popen([*command, str(rank)], cwd=ROOT) for rank in (0, 1)]
    assert [run.wait(120) for run in runs] == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    torch.testing.assert_close(first, second, rtol=0, atol=0)  # weights and buffers, too
    _, found, expected = first
    assert sorted(part.partition(".")[0] for part in found) == ["always", "always", "often", "often", "rare", "rare"]
    torch.testing.assert_close(found, expected)
    assert all(gradient.abs().sum() > 0 for gradient in found.values())


def test_rank_0_writes_for_all():
    contents = ["model", "hf_model"]
    managers = [SimpleNamespace(rank=rank, world_size=2, checkpoint_save_contents=contents) for rank in (0, 1)]
    for manager in managers:
        share_checkpoint(manager)
    assert [manager.checkpoint_save_contents for manager in managers] == [["model", "hf_model"], ["hf_model"]]
    with reading_as_rank_0(managers[1]):
        assert (managers[1].rank, managers[1].world_size) == (0, 1)
    assert managers[1].rank == 1
