"""Ranks that hold a whole model each train it as one rank would."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from qwen3vl_rl.engine import replicas
from qwen3vl_rl.engine.replicas import SharedCheckpoints

ROOT = Path(__file__).parents[2]

# The second rank has no weights of its own. Two micro-batches a rank; gradients come in another order on each, and
# `rare` is used once, by the second rank, before its last.
TWO_RANKS = """
import sys
from contextlib import nullcontext
from qwen3vl_rl.engine import cpu
cpu.activate()
import torch, torch.distributed as dist
from verl.workers.config import FSDPEngineConfig
from qwen3vl_rl.engine import replicas
from qwen3vl_rl.engine.fsdp import Qwen3VLEngine
replicas.BUCKET = 10

def build():
    model = torch.nn.ModuleDict({name: torch.nn.Linear(3, 3) for name in ("often", "rare", "always", "frozen")})
    model["frozen"].requires_grad_(False)
    model.register_buffer("seen", torch.rand(1), persistent=False)
    return model

def loss(model, rank, last):
    x = torch.full((2, 3), 1.0 + rank + 10 * last)
    for part in (["often", "always"] if rank else ["always", "often"]) + ["rare"] * (rank and not last) + ["frozen"]:
        x = model[part](x)
    return x.square().sum()

folder, rank = sys.argv[1], int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{folder}/ranks", rank=rank, world_size=2)
with torch.device("meta") if rank else nullcontext():
    model = build()
engine = object.__new__(Qwen3VLEngine)
engine.engine_config, engine._is_lora = FSDPEngineConfig(), False
engine.module, alone = engine._place(model), build()
model = engine.module
for update in range(2):
    model.zero_grad()
    for last in (False, True):
        with engine._gradient_sync_context(is_last_micro_batch=last):
            loss(model, rank, last).backward()
alone.load_state_dict(model.state_dict())
sum(loss(alone, other, last) / 2 for other in (0, 1) for last in (False, True)).backward()
gradients = [{name: p.grad for name, p in m.named_parameters() if p.requires_grad} for m in (model, alone)]
torch.save((model.state_dict(), model.seen, *gradients), f"{folder}/{rank}.pt")
dist.destroy_process_group()
"""


def test_gradients_are_the_mean_of_all_ranks(tmp_path):
    command = [sys.executable, "-c", TWO_RANKS, str(tmp_path)]
    runs = [subprocess.Popen([*command, str(rank)], cwd=ROOT) for rank in (0, 1)]
    try:
        assert [run.wait(120) for run in runs] == [0, 0]
    finally:
        for run in runs:
            run.kill()
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    torch.testing.assert_close(first, second, rtol=0, atol=0)  # weights and buffers, too
    *_, found, expected = first
    assert sorted(part.partition(".")[0] for part in found) == ["always", "always", "often", "often", "rare", "rare"]
    torch.testing.assert_close(found, expected)
    assert all(gradient.abs().sum() > 0 for gradient in found.values())


@pytest.fixture
def checkpoints(monkeypatch):
    """`checkpoints(rank, model, optimizer)`: the manager of one rank of two."""
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "barrier", lambda: None)

    def build(rank: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> SharedCheckpoints:
        monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
        contents = {"save_contents": ["model", "optimizer", "extra", "hf_model"]}
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        return SharedCheckpoints(
            model=model,
            optimizer=optimizer,
            lr_scheduler=schedule,
            processing_class=SimpleNamespace(),
            checkpoint_config=contents,
        )

    return build


def test_rank_0_writes_for_all_and_nobody_reads_onto_its_device(checkpoints, monkeypatch, tmp_path):
    models = [torch.nn.Linear(2, 2) for _ in range(2)]
    optimizers = [torch.optim.AdamW(model.parameters()) for model in models]
    first, second = (checkpoints(rank, models[rank], optimizers[rank]) for rank in (0, 1))
    assert (first.should_save_model, first.should_save_extra, first.should_save_hf_model) == (True, True, True)
    assert (second.should_save_model, second.should_save_extra, second.should_save_hf_model) == (False, False, True)
    models[0](torch.ones(1, 2)).sum().backward()
    optimizers[0].step()
    first.lr_scheduler.step()
    states = {
        "model": models[0].state_dict(),
        "optim": optimizers[0].state_dict(),
        "extra_state": {"rng": first.get_rng_state(), "lr_scheduler": first.lr_scheduler.state_dict()},
    }
    for name, state in states.items():
        torch.save(state, tmp_path / f"{name}_world_size_1_rank_0.pt")
    places, load = [], torch.load
    monkeypatch.setattr(replicas.torch, "load", lambda *a, **k: places.append(k["map_location"]) or load(*a, **k))
    second.load_checkpoint(str(tmp_path))
    assert places == ["cpu"] * 3
    torch.testing.assert_close(models[1].state_dict(), models[0].state_dict())
    torch.testing.assert_close(optimizers[1].state_dict(), optimizers[0].state_dict())
    assert second.lr_scheduler.last_epoch == 1
