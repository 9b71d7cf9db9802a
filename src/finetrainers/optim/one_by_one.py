"""Steps of one parameter at a time, and steps that change nothing where the gradient is not finite."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from finetrainers.optim.kept import Kept
from finetrainers.optim.state import tensors_of

Group = dict[str, Any]  # what an optimizer holds of some parameters
Seed = tuple[int | None, str, int]  # of the draws by which a step rounds what has no master


class OneByOne:
    """Steps one weight after the other: in the backward pass, as soon as each has its gradient, or after it."""

    def __init__(self, optimizer: Optimizer, groups: dict[nn.Parameter, Group]) -> None:
        """Take an optimizer, and the group in it of each parameter."""
        self._optimizer, self._groups = optimizer, groups
        self._norms: dict[str, Tensor] = {}
        """Of the gradients that this backward pass has stepped with."""
        self.factor: Tensor | None = None
        """By what the whole gradient is multiplied."""
        self._turn = Lock()
        self._begun: set[str] = set()
        """Names of weights that were stepped in the backward pass before."""

    def norm(self, weights: Sequence[Kept]) -> Tensor:
        """Norm of their gradients, and of those that this backward pass has stepped with."""
        device = weights[0].weight.device
        for kept in weights:
            if kept.gradient is not None:
                self._norms[kept.name] = norm_of(kept.gradient)
        # In their order, to the bit; those of streamed weights are on the host.
        norms = [self._norms[kept.name].to(device) for kept in weights if kept.name in self._norms]
        self._norms = {}
        return norm_of(torch.stack(norms)) if norms else torch.zeros((), device=device)

    def step_all(self, weights: Sequence[Kept], seed: Seed) -> None:
        """Step all that have a gradient, which is multiplied by the factor."""
        for kept in weights:
            if kept.gradient is not None:
                self.step(kept, seed, factor=self.factor)

    def step_if_finite(self, kept: Kept, seed: Seed) -> None:
        """Step one weight, unless its gradient is not finite, and free that."""
        assert kept.gradient is not None
        self._norms[kept.name] = norm = norm_of(kept.gradient)
        is_finite = norm.isfinite()
        if kept.name in self._begun or self._optimizer.state.get(kept.stepped):
            self.step(kept, seed, is_finite=is_finite)
        elif is_finite.is_meta or bool(is_finite):  # waits for the device, once: there is no state yet to go back to
            self.step(kept, seed)
            self._begun.add(kept.name)
        kept.drop_gradient()

    @torch.no_grad()
    def step(self, kept: Kept, seed: Seed, *, factor: Tensor | None = None, is_finite: Tensor | None = None) -> None:
        """Step one weight, with its gradient times the factor, and take that back where the device finds it not finite."""
        guard = nullcontext() if is_finite is None else unless_broken(self._optimizer, kept.stepped, is_finite)
        group = self._groups[kept.stepped]
        alone = only(self._optimizer, group if len(group["params"]) == 1 else {**group, "params": [kept.stepped]})
        # Autograd hands over gradients of streamed weights in a thread of the host's, and all others in one of the device's.
        with self._turn, kept.in_float32(*seed, factor=factor), alone, guard:
            self._optimizer.step()


def norm_of(gradient: Tensor) -> Tensor:
    """Norm of one gradient, added up in float32."""
    norm: Tensor = torch.linalg.vector_norm(gradient, dtype=torch.float32)
    return norm


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
