"""Latent frames of a clip that are given: clean, or nearly, and without a loss, so that the model learns to make the others.

Shape letters as in ``finetrainers.batch``; n is the number of draws of a sample.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Tensor

from finetrainers.config import Config
from finetrainers.data.conditions import Given
from finetrainers.data.frames import draw_count, subset
from finetrainers.errors import ConfigError
from finetrainers.models import Model
from finetrainers.models.base import image_is_optional
from finetrainers.models.noise import GIVEN_FRAME_MAX_SIGMA

GivenSet = Literal["first", "last", "first_and_last", "random"]
"""Sets of latent frames; random ones are any number of any frames, each as likely."""


@dataclass(frozen=True, slots=True)
class GivenFrames:
    """Which frames of each clip are given, and how clean they are; an image has none to give.

    A first frame stands in its place in the clip, at a noise level of its own, and does not count in the loss: the model
    learns image-to-video beside text-to-video (arXiv:2501.00103, section 2.4). Later frames are given beside the clip, which
    stays as noisy there, and counts. They are further tokens, so all samples of a step are given equally many.
    """

    frames: GivenSet = "first"
    probability: float = 0.0
    """With which a sample is given its frames."""
    max_sigma: float = GIVEN_FRAME_MAX_SIGMA
    """Largest noise level of a first frame; it is never noisier than its clip."""

    def draws(self, frames: int) -> tuple[str, ...]:
        """Purposes of the uniform draws in [0, 1) that each sample of F latent frames needs."""
        match self.frames:
            case "first":
                return ("first frame", "first sigma")
            case "random":
                return ("first sigma", *_of_later(frames))
            case _:
                return ("first sigma",)

    @property
    def step_draws(self) -> tuple[str, ...]:
        """Purposes of those that all samples of an optimizer step share: they decide how many later frames are given."""
        match self.frames:
            case "first":
                return ()
            case "random":
                return ("given", "given count", "given first")
            case _:
                return ("given",)

    def at(self, level: Tensor, u: Tensor, *, frames: int) -> Given:
        """Give frames of clips at noise levels [B], by the ``draws`` and ``step_draws`` [B, n] of each; ``frames`` is F."""
        drawn = dict(zip((*self.draws(frames), *self.step_draws), u.unbind(1), strict=True))
        mask = self._mask(drawn, level, frames)
        sigma = level[:, None].repeat(1, frames)
        own = torch.minimum(self.max_sigma * drawn["first sigma"].float(), level)
        sigma[:, 0] = torch.where(mask[:, 0], own, level)
        return Given(mask, sigma, self.loss_mask(mask))

    def _mask(self, drawn: Mapping[str, Tensor], level: Tensor, frames: int) -> Tensor:
        """Which latent frames are given, bool [B, F], by draws [B] of each purpose."""
        mask = torch.zeros(len(level), frames, dtype=torch.bool)
        if frames == 1:
            return mask
        if self.frames == "random":
            count = draw_count(drawn["given count"], torch.full(level.shape, frames))
            mask[:, 0] = drawn["given first"] * frames < count  # as often as a set of so many frames has the first
            later = torch.stack([drawn[purpose] for purpose in _of_later(frames)], dim=1)
            mask[:, 1:] = subset(later, count - mask[:, 0].long(), torch.full(level.shape, frames - 1))
        else:
            mask[:, 0] = self.frames != "last"
            mask[:, -1] |= self.frames != "first"
        is_given = drawn["first frame" if self.frames == "first" else "given"] < self.probability
        return mask & is_given[:, None]

    def loss_mask(self, mask: Tensor) -> Tensor | None:
        """Which frames count where those of the mask [B, F] are given, float32 [B, F].

        None where no sample is ever given any, and so never where it would depend on the samples that share a batch.
        """
        if self.probability == 0.0:
            return None
        counts = torch.ones(mask.shape)
        counts[:, 0] = torch.where(mask[:, 0], 0.0, 1.0)
        return counts

    def measured(self) -> Self:
        """Make what is given to held-out samples: without noise what training always gives, and nothing else."""
        return replace(self, probability=float(self.probability == 1.0), max_sigma=0.0)


def _of_later(frames: int) -> tuple[str, ...]:
    """Purposes of the draws by whose order later frames are chosen."""
    return tuple(f"given frame {frame}" for frame in range(1, frames))


def build_given_frames(config: Config, model: Model) -> GivenFrames:
    """Settle which frames training gives, and with which probability: as is configured, or as the task and the family do.

    Raises:
        ConfigError: If the family or the task cannot.
    """
    _check(config, model)
    frames, probability = config.given_frames.frames, config.given_frames.probability
    adapter, task = model.adapter, model.task
    default, max_sigma = adapter.training.first_frame_probability, adapter.training.given_frame_max_sigma
    if frames == "none":
        return GivenFrames(probability=0.0, max_sigma=max_sigma)
    if frames == "auto":
        frames = "first_and_last" if adapter.gives_later_frames(task) else "first"
    if probability is None:
        probability = 0.0 if default is None else default
        probability = 1.0 if adapter.gives_first_frame(task) else probability
    return GivenFrames(frames, probability, max_sigma)


def _check(config: Config, model: Model) -> None:
    """Refuse given frames that the family or the task cannot take.

    Raises:
        ConfigError: Naming the key and what to set instead.
    """
    frames, probability = config.given_frames.frames, config.given_frames.probability
    adapter, task, key = model.adapter, model.task, config.condition_key("given_frames")
    starts = adapter.gives_first_frame(task)
    is_asked = bool(probability) or frames not in ("auto", "none")
    if is_asked and adapter.training.first_frame_probability is None and not (starts or image_is_optional(adapter)):
        wrong = "probability" if probability else "frames"
        raise ConfigError(f"{key}.{wrong}: {adapter.name} has one noise level for all frames; remove it")
    if frames in ("last", "first_and_last", "random") and not adapter.gives_later_frames(task):
        way_out = "set model.task: first-last-frame-to-video"
        if not any(adapter.gives_later_frames(other) for other in adapter.tasks):
            way_out = "this model supports only the first; set first or none"
        raise ConfigError(f"{key}.frames: {frames} is impossible in the task {task}; {way_out}")
    if frames == "none" and starts:
        raise ConfigError(f"{key}.frames: none leaves the task {task} nothing to start from; set model.task")
