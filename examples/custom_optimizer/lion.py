"""Lion (arXiv:2302.06675): the sign of the momentum is the step."""

import torch
from torch.optim import Optimizer


class Lion(Optimizer):
    """Keeps one number for each weight."""

    def __init__(self, params, lr, weight_decay=0.0, betas=(0.9, 0.99)):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "betas": tuple(betas)})

    @torch.no_grad()
    def step(self, closure=None):
        """Take one step; closure is never given."""
        for group in self.param_groups:
            lr, (beta1, beta2) = group["lr"], group["betas"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                direction = state["momentum"].lerp(weight.grad, 1 - beta1).sign_()
                weight.mul_(1 - lr * group["weight_decay"]).add_(direction, alpha=-lr)
                state["momentum"].lerp_(weight.grad, 1 - beta2)
