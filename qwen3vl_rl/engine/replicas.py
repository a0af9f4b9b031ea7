"""Ranks that each hold all of a model, and average their gradients, as torch's DistributedDataParallel does. That would
wrap the model, which verl takes for the model itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import distributed
from verl.utils.checkpoint.fsdp_checkpoint_manager import FSDPCheckpointManager


class Replicas:
    """Of the ranks of the default group. `module`: on its device; it gets the weights of rank 0."""

    def __init__(self, module: torch.nn.Module):
        for tensor in chain(module.parameters(), module.buffers()):
            distributed.broadcast(tensor.detach(), src=0)
        # All ranks average in this one order, about that in which gradients come; the last ones of one rank may not
        # come at all.
        self._parameters = [p for p in reversed(list(module.parameters())) if p.requires_grad]
        self._ready, self._works, self._averages = set(), [], False
        for parameter in self._parameters:
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
        for parameter in self._parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self._average(self._parameters)
        for work in self._works:
            work.wait()
        self._ready, self._works = set(), []

    def _take(self, parameter: torch.nn.Parameter) -> None:
        if self._averages:
            self._average([parameter])

    def _average(self, ready: list[torch.nn.Parameter]) -> None:
        """Start the average of all gradients whose turn has come."""
        self._ready.update(map(id, ready))
        while len(self._works) < len(self._parameters) and id(self._parameters[len(self._works)]) in self._ready:
            gradient = self._parameters[len(self._works)].grad
            self._works.append(distributed.all_reduce(gradient, distributed.ReduceOp.AVG, async_op=True))


def share_checkpoint(manager: FSDPCheckpointManager) -> None:
    """Rank 0 writes one checkpoint, as one GPU would; it is everybody's."""
    manager.world_size = 1
    if manager.rank > 0:  # all take part in gathering the Hugging Face folder
        manager.checkpoint_save_contents = [part for part in manager.checkpoint_save_contents if part == "hf_model"]


@contextmanager
def reading_as_rank_0(manager: FSDPCheckpointManager) -> Iterator[None]:
    own, manager.rank = manager.rank, 0
    try:
        yield
    finally:
        manager.rank = own
