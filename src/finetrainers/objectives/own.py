"""Another loss over what the family draws and answers: the user's own, or a built-in one."""

from typing import Self

from torch import Tensor

from finetrainers.config import ObjectiveConfig
from finetrainers.objectives.base import Objective
from finetrainers.objectives.flow import FlowMatching


class OwnObjective(Objective):
    """Draws, noise and targets are the family's; a subclass writes ``losses``."""

    def __init__(self, family: FlowMatching) -> None:
        """Hold the objective that the ``objective`` section gives the family: flow matching, or a diffusion."""
        self.family = family

    @classmethod
    def configured(cls, family: FlowMatching, config: ObjectiveConfig) -> Self:  # noqa: ARG003 - for keys of its own
        """Make it with the keys of the ``objective`` section that are its own, if it has some."""
        return cls(family)

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
