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

    def draws(self, frames: int) -> tuple[str, ...]:
        return self.family.draws(frames)

    def given(self, u: Tensor, *, frames: int) -> Tensor:
        return self.family.given(u, frames=frames)

    def sigma(self, u: Tensor, *, frames: int, tokens: int) -> tuple[Tensor, Tensor]:
        return self.family.sigma(u, frames=frames, tokens=tokens)

    def at_level(self, level: Tensor, u: Tensor, *, frames: int) -> tuple[Tensor, Tensor, Tensor]:
        return self.family.at_level(level, u, frames=frames)

    def measured(self) -> Self:
        return type(self)(self.family.measured())
