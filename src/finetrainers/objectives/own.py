"""Another loss over what the family draws and answers: the user's own, or a built-in one."""

from copy import copy
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

    @property
    def draws(self) -> tuple[str, ...]:
        return self.family.draws

    @property
    def step_draws(self) -> tuple[str, ...]:
        return self.family.step_draws

    def sigma(self, u: Tensor, *, tokens: int) -> Tensor:
        return self.family.sigma(u, tokens=tokens)

    def measured(self) -> Self:
        made = copy(self)  # with whatever keys of its own a subclass holds
        made.family = self.family.measured()
        return made
