"""Checkpoints that another number of ranks has written: each rank takes its part of every tensor out of all shards.

verl names shards by rank and by the number of ranks, and loads none but its own. Here the files are mapped into memory:
a rank takes no more than its part from the disk.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from verl.utils.checkpoint.fsdp_checkpoint_manager import FSDPCheckpointManager

PLAIN = 0  # as verl writes down a model that FSDP has not wrapped


class AnyRanksCheckpointManager(FSDPCheckpointManager):
    def load_checkpoint(self, local_path: str, *args, **kwargs) -> None:
        saved = json.loads((Path(local_path) / "fsdp_config.json").read_text())
        ranks, parameter = saved["world_size"], next(self.model.parameters())
        if (ranks, saved["FSDP_version"] != PLAIN) == (self.world_size, isinstance(parameter, DTensor)):
            return super().load_checkpoint(local_path, *args, **kwargs)
        if self.should_load_model:
            self._load_model(_read(local_path, "model", ranks))
        if self.should_load_optimizer:
            self._load_optimizer(_read(local_path, "optim", ranks))
        if self.should_load_extra:
            self._load_extra(Path(local_path, _name("extra_state", ranks, self.rank % ranks)))
        torch.distributed.barrier()

    def _load_model(self, shards: Sequence[dict]) -> None:
        own = self.model.state_dict()
        state = {name: part_of([shard[name] for shard in shards], own[name]) for name in shards[0]}
        self.model.load_state_dict(state, strict=not self.is_lora_only_state_dict(state))

    def _load_optimizer(self, shards: Sequence[dict]) -> None:
        """The optimizer's state has its parameters by number, in the order of the groups."""
        parameters = [one for group in self.optimizer.param_groups for one in group["params"]]
        groups = shards[0]["param_groups"]
        numbers = [number for group in groups for number in group["params"]]
        if len(numbers) != len(parameters):
            raise ValueError(f"the checkpoint trains {len(numbers)} tensors, this run {len(parameters)}")
        own = dict(zip(numbers, parameters, strict=True))
        state = {
            number: {
                name: part_of([shard["state"][number][name] for shard in shards], own[number])
                if values.shape == own[number].shape
                else values.clone()
                for name, values in first.items()
            }
            for number, first in shards[0]["state"].items()
        }
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})

    def _load_extra(self, path: Path) -> None:
        extra = torch.load(path, weights_only=False)
        if "rng" in extra:
            self.load_rng_state(extra["rng"])
        if extra["lr_scheduler"] is not None and self.lr_scheduler is not None:
            self.lr_scheduler.load_state_dict(extra["lr_scheduler"])


def part_of(shards: Sequence[torch.Tensor], like: torch.Tensor) -> torch.Tensor:
    """What a rank holds of a tensor. `shards`: as each of the ranks that wrote it held it, in their order; `like`: a
    tensor of this run with the same shape, whole or a DTensor, whose device, dtype and layout the result has."""
    axis, pieces = _pieces(shards)
    if not isinstance(like, DTensor):
        return torch.cat(pieces, axis).to(like.device, like.dtype)
    sizes, offsets = compute_local_shape_and_global_offset(like.shape, like.device_mesh, like.placements)
    local = _cut(pieces, axis, offsets[axis], sizes[axis])
    for other in range(local.dim()):
        if other != axis:
            local = local.narrow(other, offsets[other], sizes[other])
    held = like.to_local()
    local = local.to(held.device, held.dtype).contiguous()
    return DTensor.from_local(
        local, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def _pieces(shards: Sequence[torch.Tensor]) -> tuple[int, list[torch.Tensor]]:
    """The parts that make up a whole tensor along an axis. Raises ValueError for a layout that this does not know."""
    first = shards[0]
    if not isinstance(first, DTensor):
        return 0, [first]
    if all(isinstance(placement, Replicate) for placement in first.placements):
        return 0, [first.to_local()]
    if len(first.placements) == 1 and isinstance(first.placements[0], Shard):
        return first.placements[0].dim, [shard.to_local() for shard in shards]
    raise ValueError(f"cannot take apart a checkpoint with {first.placements}: resume it on the ranks that wrote it")


def _cut(pieces: Sequence[torch.Tensor], axis: int, start: int, size: int) -> torch.Tensor:
    """The part from `start` on of what the pieces are together; of a piece no more is read than falls into it."""
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
