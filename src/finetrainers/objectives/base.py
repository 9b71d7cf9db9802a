"""What stands between loop and loss. Shape letters as in ``finetrainers.batch``."""

from abc import ABC, abstractmethod
from typing import ClassVar, Protocol, Self

import torch
from torch import Tensor

from finetrainers.batch import Batch
from finetrainers.data.streams import Stream
from finetrainers.errors import ConfigError


class Predict(Protocol):
    """Asks the denoiser. Conditioning, casts and autocast are inside; each call is one forward pass.

    Whoever asks, asks equally often for every batch: with sharded weights, processes wait for each other in each pass.
    """

    def __call__(self, x: Tensor, sigma: Tensor, batch: Batch) -> Tensor:
        """Answer noisy latents [B, C, F, H, W] at noise levels [B, F]: their velocity (or v), of the same shape.

        ``batch`` says what the denoiser is told besides: prompt and control. Of a model with several experts, the one of
        ``batch.level`` answers.
        """
        ...

    def base(self, x: Tensor, sigma: Tensor, batch: Batch) -> Tensor:
        """Answer as the model did before anything was trained, without a gradient.

        Raises:
            ConfigError: If the tuning has changed the weights themselves.
        """
        ...


class Objective(ABC):
    """What a model learns: the draws of a sample, and the loss that is made of them."""

    streams: ClassVar[tuple[Stream, ...]] = ()
    """What ``losses`` finds in ``batch.media`` besides what the denoiser is shown, such as a mask; by default nothing."""
    needs_base: ClassVar[bool] = False
    """Whether ``losses`` asks for ``predict.base``: then a tuning without one is refused before anything is loaded."""

    @property
    @abstractmethod
    def noise_range(self) -> tuple[float, float]:
        """Noise levels that are trained, and measured."""

    @property
    @abstractmethod
    def draws(self) -> tuple[str, ...]:
        """Purposes of the uniform draws in [0, 1) that each sample needs."""

    @property
    def step_draws(self) -> tuple[str, ...]:
        """Purposes of the uniform draws in [0, 1) that all samples of an optimizer step share; by default none."""
        return ()

    @abstractmethod
    def sigma(self, u: Tensor, *, tokens: int) -> Tensor:
        """Noise level of each sample, float32 [B]; ``tokens`` is how many a sample has.

        Args:
            u: [B, n] the ``draws`` of each sample, and behind them its ``step_draws``.
            tokens: Of one sample.
        """

    @abstractmethod
    def losses(self, predict: Predict, batch: Batch) -> Tensor:
        """Loss of each sample, shape [B], in float32. No loss depends on the other samples of its batch."""

    def measured(self) -> Self:
        """Make what measures held-out samples by the same loss: no noise level counts more than another."""
        return self


def losses_of(objective: Objective, predict: Predict, batch: Batch) -> Tensor:
    """Ask an objective, perhaps the user's own, for the loss of each sample, [B] in float32.

    Raises:
        ConfigError: If it answers anything else.
    """
    losses: object = objective.losses(predict, batch)
    expected = (len(batch.positions),)
    if not isinstance(losses, Tensor) or losses.dtype != torch.float32 or losses.shape != expected:
        found = f"{losses.dtype} {list(losses.shape)}" if isinstance(losses, Tensor) else f"a {type(losses).__name__}"
        raise ConfigError(
            f"objective.kind: {type(objective).__name__}.losses returned {found}; expected is one loss for each sample: "
            f"torch.float32 {list(expected)}"
        )
    return losses
