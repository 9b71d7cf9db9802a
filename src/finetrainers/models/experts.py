"""Models of several denoisers, each an expert for a range of noise levels, such as Wan 2.2 A14B."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

TIMESTEPS = 1000
"""Time steps of pipelines with experts: noise level 1 is time step 1000."""


@dataclass(frozen=True, slots=True)
class Expert:
    """One denoiser of a model that has several, each for a range of noise levels."""

    component: str
    """Its name in the pipeline."""
    between: tuple[float, float]
    """Noise levels that it denoises: from the first, and below the second."""


@dataclass(frozen=True, slots=True)
class Denoisers:
    """Which components of a pipeline are trained, and which draw beside them."""

    trained: tuple[str, ...]
    """From the noisiest range down."""
    frozen: tuple[str, ...] = ()
    """Experts for other noise levels: samplers need them, training does not."""
    noise_range: tuple[float, float] = (0.0, 1.0)
    """Noise levels that are trained."""
    first_timesteps: tuple[float, ...] = (0.0,)
    """Time step from which each of the trained takes over."""

    def join(self, components: Mapping[str, Any]) -> Any:
        """Make one module of what is trained of a pipeline's components."""
        parts = {name: components[name] for name in self.trained}
        return Experts(parts, self.first_timesteps) if len(parts) > 1 else parts[self.trained[0]]

    def split(self, denoiser: Any) -> dict[str, Any]:
        """Return the components by name of which ``join`` made one module."""
        return dict(denoiser.named_children()) if isinstance(denoiser, Experts) else {self.trained[0]: denoiser}


def choose_experts(experts: Mapping[str, Expert], wanted: str | None) -> Denoisers:
    """Choose what trains: one expert by name, or by default both, from the noisiest down."""
    chosen = [expert for name, expert in experts.items() if wanted in (None, "both", name)]
    return Denoisers(
        trained=tuple(expert.component for expert in chosen),
        frozen=tuple(expert.component for expert in experts.values() if expert not in chosen),
        noise_range=(min(e.between[0] for e in chosen), max(e.between[1] for e in chosen)),
        first_timesteps=tuple(TIMESTEPS * expert.between[0] for expert in chosen),
    )


class Experts(nn.Module):
    """The experts of a model as one denoiser: each row of a batch is answered by the expert of its noise level."""

    def __init__(self, parts: Mapping[str, nn.Module], first_timesteps: Sequence[float]) -> None:
        """Hold experts, from the noisiest down, under their names; each takes over at its first time step."""
        super().__init__()
        self._first_timesteps = tuple(first_timesteps)
        self._num_turns = 0
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, *, timestep: Tensor, **told: Any) -> tuple[Tensor]:
        """Answer rows at time steps [B]; all other tensors are [B, ...], too. An expert without rows is not called."""
        if timestep.is_meta:  # nothing is known of noise levels: by turns
            experts = list(self.children())
            self._num_turns += 1
            return (experts[self._num_turns % len(experts)](timestep=timestep, **told)[0],)
        rows, answers = [], []
        is_left = torch.ones_like(timestep, dtype=torch.bool)
        for part, first in zip(self.children(), self._first_timesteps, strict=True):
            own = (is_left & (timestep >= first)).nonzero()[:, 0]  # waits for the device: next to an expert, nothing
            is_left &= timestep < first
            if len(own):
                told_own = {name: value[own] if isinstance(value, Tensor) else value for name, value in told.items()}
                answers.append(part(timestep=timestep[own], **told_own)[0])
                rows.append(own)
        return (torch.cat(answers)[torch.cat(rows).argsort()],)
