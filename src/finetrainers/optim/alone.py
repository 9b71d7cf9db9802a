"""Steps of one parameter at a time, and steps that change nothing where the gradient is not finite."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from finetrainers.optim.state import tensors_of

Group = dict[str, Any]  # what an optimizer holds of some parameters


def split_groups(optimizer: Optimizer) -> dict[nn.Parameter, Group]:
    """Give each parameter a group of its own; what an optimizer counts in a group, it counts for each as for all."""
    groups = [{**group, "params": [p]} for group in optimizer.param_groups for p in group["params"]]
    optimizer.param_groups[:] = groups
    return {group["params"][0]: group for group in groups}


def groups_of(optimizer: Optimizer) -> dict[nn.Parameter, Group]:
    """Find the group of each parameter."""
    return {p: group for group in optimizer.param_groups for p in group["params"]}


@contextmanager
def only(optimizer: Optimizer, group: Group) -> Iterator[None]:
    """Let an optimizer know one group alone."""
    groups = optimizer.param_groups
    optimizer.param_groups = [group]
    try:
        yield
    finally:
        optimizer.param_groups = groups


@contextmanager
def unless_broken(optimizer: Optimizer, parameter: nn.Parameter, is_finite: Tensor) -> Iterator[None]:
    """Take back what a step has changed of a parameter and its state, unless its gradient is finite; the device decides.

    What the host counts, such as steps, goes on.
    """
    before = {path: tensor.clone() for path, tensor in _tensors(optimizer, parameter, is_finite.device)}
    yield
    for path, tensor in _tensors(optimizer, parameter, is_finite.device):
        if path in before:
            tensor.copy_(torch.where(is_finite, tensor, before[path]))


def _tensors(optimizer: Optimizer, parameter: nn.Parameter, device: torch.device) -> Iterator[tuple[str, Tensor]]:
    yield "", parameter.detach()
    for path, tensor in tensors_of(optimizer.state.get(parameter, {}), "state"):
        if tensor.device == device:
            yield path, tensor
