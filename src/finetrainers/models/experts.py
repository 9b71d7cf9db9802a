"""Models of several denoisers, each an expert for a range of noise levels, such as Wan 2.2 A14B."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from finetrainers.errors import ConfigError


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
    ranges: tuple[tuple[float, float], ...] = ((0.0, 1.0),)
    """Noise levels of each of the trained: from the first, and below the second."""

    @property
    def noise_range(self) -> tuple[float, float]:
        """Noise levels that are trained."""
        return min(low for low, _ in self.ranges), max(high for _, high in self.ranges)

    @property
    def cuts(self) -> tuple[float, ...]:
        """Rising noise levels between the ranges of the trained."""
        return tuple(sorted(low for low, _ in self.ranges))[1:]

    def join(self, components: Mapping[str, Any]) -> Any:
        """Make one module of what is trained of a pipeline's components."""
        parts = {name: components[name] for name in self.trained}
        return Experts(parts, [low for low, _ in self.ranges]) if len(parts) > 1 else parts[self.trained[0]]

    def split(self, denoiser: Any) -> dict[str, Any]:
        """Return the components by name of which ``join`` made one module."""
        return dict(denoiser.named_children()) if isinstance(denoiser, Experts) else {self.trained[0]: denoiser}


def choose_experts(experts: Mapping[str, Expert], wanted: str | None) -> Denoisers:
    """Choose what trains: one expert by name, or by default both, from the noisiest down."""
    chosen = [expert for name, expert in experts.items() if wanted in (None, "both", name)]
    return Denoisers(
        trained=tuple(expert.component for expert in chosen),
        frozen=tuple(expert.component for expert in experts.values() if expert not in chosen),
        ranges=tuple(expert.between for expert in chosen),
    )


class Experts(nn.Module):
    """The experts of a model as one module; each call of the denoiser is one of the expert of its noise levels."""

    def __init__(self, parts: Mapping[str, nn.Module], first_levels: Sequence[float]) -> None:
        """Hold experts, from the noisiest down, under their names; each takes over at its first noise level."""
        super().__init__()
        self._first_levels = tuple(first_levels)
        for name, part in parts.items():
            self.add_module(name, part)

    def at(self, level: Tensor) -> nn.Module:
        """Choose the expert of noise levels [B] on the CPU.

        Raises:
            ConfigError: If they are of several.
        """
        numbers: list[int] = (level[:, None] < level.new_tensor(self._first_levels)).sum(1).tolist()
        experts = list(self.named_children())
        if len(set(numbers)) > 1:
            names = " and ".join(experts[number][0] for number in sorted(set(numbers)))
            raise ConfigError(
                f"objective.kind: noise levels of one forward pass are for {names}, and one expert answers it; let the "
                "objective draw by its family's draws and step_draws, or train one expert, with model.expert"
            )
        return experts[numbers[0]][1]


def expert_of(denoiser: nn.Module, level: Tensor) -> nn.Module:
    """Choose what answers at noise levels [B] on the CPU: an expert of several, or the denoiser itself."""
    if isinstance(denoiser, Experts):
        denoiser = denoiser.at(level)
    return denoiser
