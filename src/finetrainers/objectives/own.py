"""Objectives of the user's own: another loss over what the family draws and answers."""

from typing import Self

from torch import Tensor

from finetrainers.objectives.base import Objective
from finetrainers.objectives.flow import FlowMatching


class OwnObjective(Objective):
    """Draws, noise and targets are the family's; a subclass writes ``losses``."""

    def __init__(self, family: FlowMatching) -> None:
        """Hold the objective that the ``objective`` section gives the family: flow matching, or a diffusion."""
        self.family = family

    @property
    def noise_range(self) -> tuple[float, float]:
        return self.family.noise_range

    @property
    def draws(self) -> tuple[str, ...]:
        return self.family.draws

    def sigma(self, u: Tensor, *, tokens: int) -> Tensor:
        return self.family.sigma(u, tokens=tokens)

    def measured(self) -> Self:
        return type(self)(self.family.measured())
