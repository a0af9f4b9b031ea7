"""Ranks that each hold all of a model, and average their gradients, as torch's DistributedDataParallel does. That puts
a wrapper in the place of the model, from which verl reads config and weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import torch
from torch import distributed
from torch.distributed.distributed_c10d import _coalescing_manager  # no public way in torch 2.11
from verl.utils.checkpoint.fsdp_checkpoint_manager import FSDPCheckpointManager

BUCKET = 2**25  # numbers that travel together, at least: 128 MiB in 32 bits, two thirds of a layer at 2B


class Replicas:
    """Of the ranks of the default group. `module`: on its device; it gets the weights of rank 0. Gradients are averaged
    in the precision that they have, which is that of the parameters."""

    def __init__(self, module: torch.nn.Module):
        for tensor in chain(module.parameters(), module.buffers()):
            distributed.broadcast(tensor.detach(), src=0)
        # All ranks average in this one order, about that in which gradients come. What a rank has not used has no
        # gradient there until the end.
        trained = [p for p in reversed(list(module.parameters())) if p.requires_grad]
        self._buckets, self._ready, self._works, self._averages = list(_in_buckets(trained)), set(), [], False
        for parameter in trained:
            parameter.register_post_accumulate_grad_hook(self._take)

    @contextmanager
    def averaging(self) -> Iterator[None]:
        """Around the last backward pass of an update: while it runs, gradients that are whole are averaged. Where a
        rank has none, it counts as zero."""
        self._averages = True
        try:
            yield
        finally:
            self._averages = False
        for parameter in chain(*self._buckets):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            self._ready.add(id(parameter))
        self._start()
        for work in self._works:
            work.wait()
        self._ready, self._works = set(), []

    def _take(self, parameter: torch.nn.Parameter) -> None:
        if self._averages:
            self._ready.add(id(parameter))
            self._start()

    def _start(self) -> None:
        """Average all buckets whose turn has come."""
        for bucket in self._buckets[len(self._works) :]:
            if any(id(parameter) not in self._ready for parameter in bucket):
                break
            with _coalescing_manager(async_ops=True) as work:
                for parameter in bucket:
                    distributed.all_reduce(parameter.grad, distributed.ReduceOp.AVG)
            self._works.append(work)


def _in_buckets(parameters: list[torch.nn.Parameter]) -> Iterator[list[torch.nn.Parameter]]:
    bucket = []
    for parameter in parameters:
        bucket.append(parameter)
        if sum(p.numel() for p in bucket) >= BUCKET:
            yield bucket
            bucket = []
    if bucket:
        yield bucket


class SharedCheckpoints(FSDPCheckpointManager):
    """One checkpoint for all ranks, written by rank 0 as one GPU writes it."""

    def __init__(self, **parts):
        super().__init__(**parts)
        self.world_size = 1
        if self.rank > 0:  # the branch that writes the Hugging Face folder has a barrier for all
            contents = self.checkpoint_save_contents
            self.checkpoint_save_contents = [part for part in contents if part == "hf_model"]

    def load_checkpoint(self, local_path: str, **_: object) -> None:
        """verl's, for files that name the device of rank 0, where all ranks would put what they read."""
        if self.should_load_model:
            state = _read(local_path, "model")
            self.model.load_state_dict(state, strict=not self.is_lora_only_state_dict(state))
        if self.should_load_optimizer:
            self.optimizer.load_state_dict(_read(local_path, "optim"))
        if self.should_load_extra:
            extra = _read(local_path, "extra_state")
            self.load_rng_state(extra["rng"])
            self.lr_scheduler.load_state_dict(extra["lr_scheduler"])
        distributed.barrier()


def _read(folder: str, part: str) -> dict:
    path = Path(folder) / f"{part}_world_size_1_rank_0.pt"
    return torch.load(path, map_location="cpu", mmap=True, weights_only=False)
