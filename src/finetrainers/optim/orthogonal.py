"""Muon's steps of matrices [m, n] of which each process has rows: whole ones are put together for orthogonalization alone.

N processes take N matrices at a time and send each its own, from all of them; each orthogonalizes one and sends back to all
their rows of what is to be added. So no process does what another one does, and sends each number twice a step. Momentum
stays in parts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed import ProcessGroup
from torch.distributed.tensor import DTensor
from torch.optim import Muon

from finetrainers.distributed.parallelize import local_of

OF_UPDATE = ("lr", "ns_coefficients", "ns_steps", "eps", "adjust_lr_fn")
"""Settings of Muon's step that say what is added to a weight, whatever momentum and decay are."""


def step_rows(matrices: Sequence[DTensor], group: Mapping[str, Any], state: Mapping[Any, dict[str, Any]]) -> None:
    """Step matrices that have gradients, as Muon steps whole ones; all processes that share them do so together.

    Args:
        matrices: In one order in all processes.
        group: Muon's settings.
        state: Muon's state by matrix, which gets its momentum.
    """
    if not matrices:
        return
    mesh = matrices[0].device_mesh
    processes = mesh.get_group(mesh.ndim - 1)  # copies, if there are several, are along the first axis
    for start in range(0, len(matrices), processes.size()):
        few = matrices[start : start + processes.size()]
        wanted = [_direction(matrix, group, state[matrix]).to(mesh.device_type) for matrix in few]
        for matrix, added in zip(few, _orthogonal(wanted, few, group, processes), strict=True):
            own = local_of(matrix.detach())
            own.mul_(1 - float(group["lr"]) * group["weight_decay"])
            own.add_(added.to(own.device))


def _direction(matrix: DTensor, group: Mapping[str, Any], state: dict[str, Any]) -> Tensor:
    """Return this process's rows of what is to be orthogonalized, in bfloat16, as it is computed in."""
    assert matrix.grad is not None
    if "momentum_buffer" not in state:
        state["momentum_buffer"] = torch.zeros_like(matrix.grad)
    gradient, momentum = local_of(matrix.grad), local_of(state["momentum_buffer"])
    momentum.lerp_(gradient, 1 - group["momentum"])
    return (gradient.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum).bfloat16()


def _orthogonal(
    rows: Sequence[Tensor], matrices: Sequence[DTensor], group: Mapping[str, Any], processes: ProcessGroup
) -> list[Tensor]:
    """Return this process's rows of what Muon adds to each matrix, in float32."""
    rank, size = processes.rank(), processes.size()
    shapes = [tuple(matrix.shape) for matrix in matrices] + [(0, 1)] * (size - len(matrices))
    given = [part.numel() for part in rows] + [0] * (size - len(rows))
    height, width = shapes[rank]
    cut = -(-height // size)
    taken = [max(0, min(cut, height - cut * other)) * width for other in range(size)]
    direction = rows[0].new_empty(height, width)
    sent = torch.cat([part.reshape(-1) for part in rows])
    distributed.all_to_all_single(direction.view(-1), sent, taken, given, group=processes)
    del sent
    added = _added(direction, group) if height else direction.float()
    back = added.new_empty(sum(given))
    distributed.all_to_all_single(back, added.view(-1), given, taken, group=processes)
    return [part.view_as(own) for part, own in zip(back.split(given), rows, strict=False)]


def _added(direction: Tensor, group: Mapping[str, Any]) -> Tensor:
    """Return what Muon adds to a matrix [m, n] that is to go in a direction: by its own step of a matrix of zeros.

    Two matrices of float32 are there meanwhile, what is returned and the direction, beside those of Muon's own computing.
    """
    weight = nn.Parameter(torch.zeros_like(direction, dtype=torch.float32))
    weight.grad = direction.float()
    only = {name: group[name] for name in OF_UPDATE}
    muon = Muon([weight], momentum=0.0, nesterov=False, weight_decay=0.0, **only)
    muon.state[weight]["momentum_buffer"] = weight.grad  # which it would make, and then write the gradient into
    muon.step()
    return weight.detach()
