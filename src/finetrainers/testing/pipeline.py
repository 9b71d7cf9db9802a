"""The part of the contract that is about the family's own pipeline: ``contract.CHECKS`` has it.

Nothing of a family is said here again. The pipeline encodes the prompt, takes the pictures, makes the noise, calls the
denoiser and moves on by its scheduler. What it hands to the scheduler is what ``denoise`` has to answer.

Shape letters as in ``finetrainers.batch``; F' is the number of latent frames that a pipeline denoises, the last ones.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from finetrainers.batch import Prompt
from finetrainers.models import ModelAdapter
from finetrainers.models.experts import expert_of
from finetrainers.models.stated import check_velocity
from finetrainers.models.vae import encode_pixels, latent_statistics
from finetrainers.testing.drawn import Drawn, Step
from finetrainers.testing.model_under_test import ModelUnderTest

LARGEST_DIFFERENCE = 1e-5
"""Between two tensors that have to be equal, in parts of the larger one's largest value: what other kernels may round."""


@torch.no_grad()
def check_denoise_answers_as_the_pipeline(subject: ModelUnderTest) -> None:
    """At each of its steps, ``denoise`` makes of the pipeline's latents what the pipeline hands to its scheduler."""
    compared = sum(assert_answers_as_drawn(subject, drawn, way) for way, drawn in subject.drawn.items())
    assert compared, "the pipeline's schedule has no noise level that is trained"


@torch.no_grad()
def assert_answers_as_drawn(subject: ModelUnderTest, drawn: Drawn, way: str, references: Sequence[Tensor] = ()) -> int:
    """Compare what ``denoise`` makes of a pipeline's latents at each of its steps with what it hands to its scheduler.

    Args:
        subject: The model.
        drawn: What the pipeline made of the first step's first sample.
        way: Words for how it did.
        references: Latents of the pictures that it was shown, each [1, C, 1, H', W'].

    Returns:
        Number of steps that were compared.
    """
    adapter, compared = subject.model.adapter, 0
    low, high = subject.model.denoisers.noise_range
    denoiser = subject.model.denoisers.join(drawn.components)
    for step in drawn.steps:
        level = _noise_level(step, adapter)
        if not low <= level <= high:
            continue  # another expert's
        x, sigma, prompt, frames = _told(subject, drawn, step, level)
        asked = expert_of(denoiser, sigma.amax(1))
        told = replace(prompt, references=tuple(references))
        answer = check_velocity(adapter.denoise(asked, x, sigma, told), adapter, x.shape)
        expected = _as_latents(adapter, step.output, tuple(x.shape[1:]))
        what, ours, theirs = f"{way}: denoise at noise level {level:.3f}", answer[:, :, frames], expected[:, :, frames]
        levels = {"1 - sigma": 1 - sigma, "1000 * sigma": 1000 * sigma, "sigma / 1000": sigma / 1000}
        again = partial(_denoised, partial(adapter.denoise, asked, x), told, frames)
        others = {name: partial(again, other) for name, other in levels.items()}
        _assert_close(ours, theirs, what, "what the pipeline hands to its scheduler", others)
        compared += 1
    return compared


def _denoised(denoise: Callable[[Tensor, Prompt], Tensor], prompt: Prompt, frames: Tensor, sigma: Tensor) -> Tensor:
    """What ``denoise`` answers at other noise levels [1, F], of the frames that count."""
    return denoise(sigma, prompt)[:, :, frames]


@torch.no_grad()
def check_latents_are_those_of_the_vae(subject: ModelUnderTest) -> None:
    """The pipeline decodes what ``arrange`` and ``latents.statistics`` make of its last step."""
    adapter = subject.model.adapter
    drawn = next(iter(subject.drawn.values()))
    shift, scale = latent_statistics(drawn.components["vae"], adapter)
    shape = adapter.grid.latent_shape(subject.size)
    ours, theirs = _as_latents(adapter, drawn.steps[-1].result, shape), drawn.decoded
    theirs = ((theirs[:, :, None] if adapter.latents.is_image_vae else theirs) - shift) * scale
    assert theirs.shape[1] == shape[0], f"the VAE decodes {theirs.shape[1]} channels, but the grid says {shape[0]}"
    *_, frames = _at_level(subject, 0.5)
    frames = frames[frames >= -min(ours.shape[2], theirs.shape[2])]
    _assert_close(ours[:, :, frames], theirs[:, :, frames], "arrange, undone, and normalization", "what the VAE decodes")


def check_attention_is_dispatched_as_stated(subject: ModelUnderTest) -> None:
    """``dispatches_attention`` and ``masks_attention`` say what reaches diffusers' attention backends."""
    adapter, trainer = subject.model.adapter, subject.trainer()
    with torch.no_grad(), _attention_masks() as masks:
        trainer.micro_losses(subject.batch)
    found = bool(masks)
    assert found == adapter.dispatches_attention, (
        f"dispatches_attention is {adapter.dispatches_attention}, but the chosen backend computes {len(masks)} attentions"
    )
    if found:
        count = sum(mask is not None for mask in masks)
        assert bool(count) == adapter.masks_attention, (
            f"masks_attention is {adapter.masks_attention}, but {count} of {len(masks)} attentions take a mask"
        )


def _told(subject: ModelUnderTest, drawn: Drawn, step: Step, level: float) -> tuple[Tensor, Tensor, Prompt, Tensor]:
    """Make what training would tell ``denoise`` at a step: x [1, C, F, H, W], sigma [1, F] and the prompt.

    Returns:
        These, and the places of the frames that count, as ``_at_level`` has them.
    """
    adapter = subject.model.adapter
    shape = adapter.grid.latent_shape(subject.size)
    sigma, given, frames = _at_level(subject, level)
    sample = _as_latents(adapter, step.sample, shape)
    x = torch.zeros(1, *shape)
    x[:, :, -sample.shape[2] :] = sample
    if sigma[0, 0] == 0:  # the first frame is given in its place, where pipelines may have noise, or nothing
        x[:, :, :1] = encode_pixels(drawn.components["vae"], adapter, drawn.clip[:, :1])[0]
    return x, sigma, replace(subject.alone(0).prompt, given=given), frames


def _at_level(subject: ModelUnderTest, level: float) -> tuple[Tensor, Tensor, Tensor]:
    """Noise levels [1, F] of a sample, which frames are given [1, F], and the places of those that count, from the end."""
    given_frames, frames = subject.given_frames.measured(), subject.model.adapter.grid.latent_shape(subject.size)[1]
    draws = torch.zeros(1, len(given_frames.draws(frames)) + len(given_frames.step_draws))
    given = given_frames.at(torch.tensor([level]), draws, frames=frames)
    counts = torch.ones(1, frames) if given.loss_mask is None else given.loss_mask
    return given.sigma, given.mask, counts[0].nonzero()[:, 0] - frames


def _noise_level(step: Step, adapter: ModelAdapter) -> float:
    """Noise level that the pipeline means at a step."""
    if adapter.training.prediction == "v":
        return step.timestep + 0.5 / 1000  # in the middle of its time step
    assert step.sigma is not None, "the scheduler has no noise levels, as those of rectified flow have them in sigmas"
    # Schedulers of whole time steps round noise levels, and the denoiser is told what they have rounded.
    return step.timestep if step.is_rounded else step.sigma


def _as_latents(adapter: ModelAdapter, told: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Lay out what a pipeline calls its latents as [1, C, F', H, W].

    It has them as ``arrange`` says, perhaps with tokens of given frames in front, or else as the VAE has them.
    """
    channels, frames, height, width = shape
    for count in range(frames, 0, -1):  # those that are given may be left out
        places = torch.arange(channels * count * height * width).view(1, channels, count, height, width)
        arranged = adapter.arrange(places)
        if count == frames and told.ndim == arranged.ndim == 3 and told.shape[2] == arranged.shape[2]:
            told = told[:, -arranged.shape[1] :]
        if told.shape == arranged.shape:
            latents = torch.empty(places.numel(), dtype=told.dtype)
            latents[arranged.flatten()] = told.flatten()
            return latents.view(places.shape)
    video = told[:, :, None] if told.ndim == 4 else told
    is_plain = video.ndim == 5 and (video.shape[1], *video.shape[3:]) == (channels, height, width)
    assert is_plain, (
        f"the pipeline has latents of shape {list(told.shape)}, which are neither as arrange has them nor {[1, *shape]}"
    )
    return video


def _assert_close(
    ours: Tensor, theirs: Tensor, what: str, whose: str, others: Mapping[str, Callable[[], Tensor]] = MappingProxyType({})
) -> None:
    """Compare two tensors that rounding alone may tell apart; ``others`` make what ours would be at other noise levels."""
    assert ours.shape == theirs.shape, f"{what} has shape {tuple(ours.shape)}, but {whose} has {tuple(theirs.shape)}"
    difference, largest = float((ours - theirs).abs().max()), float(theirs.abs().max())
    if difference <= LARGEST_DIFFERENCE * largest:
        return
    found = f"{difference:.2g}, where the largest value is {largest:.2g}{_hint(ours, theirs, others)}"
    raise AssertionError(f"{what} is not {whose}: it differs by {found}")


def _hint(ours: Tensor, theirs: Tensor, others: Mapping[str, Callable[[], Tensor]]) -> str:
    """Name a mistake that can be seen from the values."""
    bound = LARGEST_DIFFERENCE * float(theirs.abs().max())
    if float((ours + theirs).abs().max()) <= bound:
        return "; its sign is wrong: a velocity points from the data to the noise"
    for name, make in others.items():
        other = make()
        for sign, word in ((-1, ""), (1, ", and the other sign")):
            if float((other + sign * theirs).abs().max()) <= bound:
                return f"; it is with {name} in the place of sigma{word}: see what the pipeline passes as timestep"
    return ""


@contextmanager
def _attention_masks() -> Iterator[list[Tensor | None]]:
    """Collect the mask, if there is one, of each attention that diffusers' backends compute."""
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as Registry

    masks: list[Tensor | None] = []
    name, compute = Registry.get_active_backend()

    def record(*arguments: Any, **named: Any) -> Any:
        masks.append(named.get("attn_mask"))
        return compute(*arguments, **named)

    Registry._backends[name] = record
    try:
        yield masks
    finally:
        Registry._backends[name] = compute


PIPELINE_CHECKS = (
    check_denoise_answers_as_the_pipeline,
    check_latents_are_those_of_the_vae,
    check_attention_is_dispatched_as_stated,
)
