"""Muon: steps of momentum whose matrices are made orthogonal (Jordan 2024, "Muon: an optimizer for hidden layers").

torch.optim.Muon computes the same one matrix after another and reads its rate on the host. Here matrices of one shape
go together, and nothing reaches the host, so that a step can be recorded as a CUDA graph.
"""

import torch

MOMENTUM, WEIGHT_DECAY = 0.95, 0.01
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # the quintic's coefficients, and 5 rounds of it, are Jordan's


class Muon(torch.optim.Optimizer):
    """`params`: matrices of hidden layers. An update's singular values are about lr * sqrt(max(1, rows / columns))."""

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
            update = orthogonalize(gradients.lerp(momentum, MOMENTUM))  # Nesterov's look ahead
            rows, columns = params[0].shape
            scale = max(1.0, rows / columns) ** 0.5
            torch._foreach_mul_(params, 1 - group["lr"] * WEIGHT_DECAY)
            torch._foreach_sub_(params, list((group["lr"] * scale * update.float()).unbind()))


def orthogonalize(matrices: torch.Tensor) -> torch.Tensor:
    """Bring the singular values of each matrix to about 1. (n, rows, columns), in bfloat16 on a GPU, else in float32.

    Many CPUs have no bfloat16 instructions, and multiply such matrices ten times more slowly than float32.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).to(torch.bfloat16 if matrices.is_cuda else torch.float32)
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
