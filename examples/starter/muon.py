"""Muon: momentum whose update matrices are orthogonalized (Jordan 2024, "Muon: an optimizer for hidden layers").

torch.optim.Muon computes the same updates, but one matrix at a time, and reads the learning rate on the host. This one
batches matrices of the same shape and never synchronizes with the host, so that a step can be recorded as a CUDA graph.
"""

import torch

MOMENTUM, WEIGHT_DECAY = 0.95, 0.01
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan's coefficients of the quintic, which he iterates 5 times


class Muon(torch.optim.Optimizer):
    """`params` are matrices of hidden layers. The singular values of an update are about
    lr * sqrt(max(1, rows / columns))."""

    def __init__(self, params, lr: float):
        shapes: dict[torch.Size, list] = {}
        for parameter in params:
            shapes.setdefault(parameter.shape, []).append(parameter)
        super().__init__([{"params": same} for same in shapes.values()], {"lr": lr})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            params, state = group["params"], self.state[group["params"][0]]
            gradients = torch.stack([parameter.grad for parameter in params])
            if not state:
                state["momentum"] = torch.zeros_like(gradients)
            momentum = state["momentum"]
            momentum.lerp_(gradients, 1 - MOMENTUM)
            update = orthogonalize(gradients.lerp(momentum, MOMENTUM))  # Nesterov momentum
            rows, columns = params[0].shape
            scale = max(1.0, rows / columns) ** 0.5
            torch._foreach_mul_(params, 1 - group["lr"] * WEIGHT_DECAY)
            torch._foreach_sub_(params, list((group["lr"] * scale * update.float()).unbind()))


def orthogonalize(matrices: torch.Tensor) -> torch.Tensor:
    """Bring the singular values of each matrix (n, rows, columns) to about 1. Computes in bfloat16 on a GPU.

    On a CPU it computes in float32: many CPUs lack bfloat16 instructions and are ten times slower with it.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).to(torch.bfloat16 if matrices.is_cuda else torch.float32)
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
