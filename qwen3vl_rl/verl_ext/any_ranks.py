"""Checkpoints written by other ranks or with another layout: each rank reads its part of every tensor from all shards.

verl names shards by rank and number of ranks, and loads only the shard of its own rank. Here the files are
memory-mapped, so that a rank reads only its part from disk.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from verl.utils.checkpoint.fsdp_checkpoint_manager import FSDPCheckpointManager


class AnyRanksCheckpointManager(FSDPCheckpointManager):
    def load_checkpoint(self, local_path: str, *args, **kwargs) -> None:
        ranks = self._ranks_of(Path(local_path))
        if ranks is None:
            return super().load_checkpoint(local_path, *args, **kwargs)
        if self.should_load_model:
            self._load_model(_read(local_path, "model", ranks))
        if self.should_load_optimizer:
            self._load_optimizer(_read(local_path, "optim", ranks))
        if self.should_load_extra:
            self._load_extra(Path(local_path, _name("extra_state", ranks, self.rank % ranks)))
        torch.distributed.barrier()

    def _ranks_of(self, folder: Path) -> int | None:
        """The number of ranks that wrote the checkpoint; None if this run has the same ranks and layout, which verl
        loads itself. verl writes the number only on the first node."""
        own = folder / _name("model", self.world_size, self.rank)
        if not own.exists():
            return json.loads((folder / "fsdp_config.json").read_text())["world_size"]
        saved = torch.load(own, map_location="cpu", mmap=True, weights_only=False)
        is_same = _layout(next(iter(saved.values()))) == _layout(next(self.model.parameters()))
        return None if is_same else self.world_size

    @torch.no_grad()
    def _load_model(self, shards: Sequence[dict]) -> None:
        own = self.model.state_dict()
        is_partial = self.is_lora_only_state_dict(shards[0])
        if unknown := shards[0].keys() - own.keys() or (own.keys() - shards[0].keys() if not is_partial else set()):
            raise ValueError(f"checkpoint and model have different tensors, such as {sorted(unknown)[0]}")
        for name in shards[0]:
            copy_part([shard[name] for shard in shards], own[name])

    @torch.no_grad()
    def _load_optimizer(self, shards: Sequence[dict]) -> None:
        """Load the optimizer state, which numbers the parameters in the order of the groups."""
        parameters = [one for group in self.optimizer.param_groups for one in group["params"]]
        groups = shards[0]["param_groups"]
        numbers = [number for group in groups for number in group["params"]]
        if len(numbers) != len(parameters):
            raise ValueError(f"the checkpoint trains {len(numbers)} tensors, this run {len(parameters)}")
        own, state = dict(zip(numbers, parameters, strict=True)), {}
        for number, values in shards[0]["state"].items():
            state[number] = {}
            for name, value in values.items():
                if value.shape != own[number].shape:  # the step count, a scalar
                    state[number][name] = value.clone()
                    continue
                state[number][name] = torch.empty_like(own[number])
                copy_part([shard["state"][number][name] for shard in shards], state[number][name])
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})

    def _load_extra(self, path: Path) -> None:
        extra = torch.load(path, weights_only=False)
        if "rng" in extra:
            self.load_rng_state(extra["rng"])
        if extra["lr_scheduler"] is not None and self.lr_scheduler is not None:
            self.lr_scheduler.load_state_dict(extra["lr_scheduler"])


def _layout(tensor: torch.Tensor) -> tuple | None:
    """How FSDP distributes a tensor over the ranks, which `fsdp_size` and `no_shard` change; None for a plain one."""
    return (tensor.placements, tuple(tensor.device_mesh.mesh.shape)) if isinstance(tensor, DTensor) else None


def copy_part(shards: Sequence[torch.Tensor], into: torch.Tensor) -> None:
    """Fill `into`, a tensor of this run, with this rank's part of a checkpoint's tensor.

    shards: the tensor's parts in the order of the ranks that wrote them. into: a plain tensor or a DTensor.
    """
    axis, pieces = _pieces(shards)
    if not isinstance(into, DTensor):
        into.copy_(torch.cat(pieces, axis))
        return
    sizes, offsets = compute_local_shape_and_global_offset(into.shape, into.device_mesh, into.placements)
    part = _cut(pieces, axis, offsets[axis], sizes[axis])
    for other in range(part.dim()):
        if other != axis:
            part = part.narrow(other, offsets[other], sizes[other])
    into.to_local().copy_(part)


def _pieces(shards: Sequence[torch.Tensor]) -> tuple[int, list[torch.Tensor]]:
    """An axis, and the pieces that form the whole tensor along it. Raises ValueError for an unknown layout."""
    first = shards[0]
    if not isinstance(first, DTensor):
        return 0, [first]
    *copies, last = first.placements
    if not all(isinstance(placement, Replicate) for placement in copies) or not isinstance(last, Replicate | Shard):
        raise ValueError(f"cannot reshard a checkpoint with {first.placements}: resume it on as many ranks as wrote it")
    if isinstance(last, Replicate):
        return 0, [first.to_local()]
    ranks = first.device_mesh.mesh.reshape(-1, first.device_mesh.mesh.shape[-1])[0]  # of the first copy
    return last.dim, [shards[rank].to_local() for rank in ranks.tolist()]


def _cut(pieces: Sequence[torch.Tensor], axis: int, start: int, size: int) -> torch.Tensor:
    """Elements `start` to `start + size` of the concatenated pieces. Reads nothing else of the pieces."""
    found, begin = [], 0
    for piece in pieces:
        end = begin + piece.shape[axis]
        low, high = max(start, begin), min(start + size, end)
        if low < high:
            found.append(piece.narrow(axis, low - begin, high - low))
        begin = end
    return torch.cat(found, axis) if found else pieces[0].narrow(axis, 0, 0)


def _read(folder: str, kind: str, ranks: int) -> list[dict]:
    paths = (Path(folder, _name(kind, ranks, rank)) for rank in range(ranks))
    return [torch.load(path, map_location="cpu", mmap=True, weights_only=False) for path in paths]


def _name(kind: str, ranks: int, rank: int) -> str:
    return f"{kind}_world_size_{ranks}_rank_{rank}.pt"
