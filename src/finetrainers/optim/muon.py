"""Muon for matrices, AdamW for all else, as one optimizer."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Muon, Optimizer

from finetrainers.optim.orthogonal import step_rows


class MuonWithAdamW(Optimizer):
    """Orthogonalizes the updates of weights of two dimensions; AdamW steps biases, norms and convolutions.

    Updates of both are of one size (torch's ``match_rms_adamw``), so that they share learning rate and weight decay.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], *, muon: Mapping[str, Any], adamw: Mapping[str, Any]) -> None:
        """Share the parameters out; the settings of both are as torch has them."""
        matrices = [parameter for parameter in parameters if parameter.ndim == 2]
        others = [parameter for parameter in parameters if parameter.ndim != 2]
        self._parts: list[Optimizer] = []
        if matrices:
            self._parts.append(Muon(matrices, adjust_lr_fn="match_rms_adamw", **muon))
        if others:
            self._parts.append(AdamW(others, **adamw))
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        for part in self._parts:
            part.state = self.state

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # there is no closure
        """Step all groups, each by what it is of."""
        assert closure is None
        for part in self._parts:
            is_muon = isinstance(part, Muon)
            part.param_groups = [group for group in self.param_groups if ("ns_steps" in group) == is_muon]
            if is_muon:
                part.param_groups = [self._step_shared(group) for group in part.param_groups]
            part.step()

    def _step_shared(self, group: dict[str, Any]) -> dict[str, Any]:
        """Step the matrices of a group that processes share, and return the group with the others."""
        shared = [parameter for parameter in group["params"] if isinstance(parameter, DTensor)]
        step_rows([matrix for matrix in shared if matrix.grad is not None], group, self.state)
        return {**group, "params": [parameter for parameter in group["params"] if not isinstance(parameter, DTensor)]}
