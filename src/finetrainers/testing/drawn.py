"""What a family's own pipeline does while it generates: recorded, so that others can be compared with it."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Step:
    """One call of the scheduler; tensors are laid out as the pipeline has them."""

    output: Tensor
    """What the denoiser made, guided or not, as the scheduler takes it: a velocity, or v."""
    sample: Tensor
    """Noisy latents that it was made of."""
    result: Tensor
    """Latents after the step."""
    timestep: float
    """In 0..1: time step, in parts of all there are."""
    is_rounded: bool
    """Whether time steps are whole numbers."""
    sigma: float | None
    """Noise level, where the scheduler has any."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """One picture or video, and what it took."""

    steps: list[Step]
    decoded: Tensor
    """Latents that the VAE decoded, [1, C, F', H, W] or [1, C, H, W], not normalized."""
    components: Mapping[str, Any]
    """All components of the pipeline."""
    clip: Tensor
    """[1, K, P, Q, 3] uint8: the clip whose first and last frames are what the task gives."""


def record_drawing(pipeline: Any, arguments: Mapping[str, Any], clip: Tensor) -> Drawn:
    """Let a pipeline generate."""
    vae = pipeline.vae
    with _recorded(pipeline.scheduler) as steps, _recorded_decoding(vae) as decoded:
        pipeline(**arguments, output_type="pt", return_dict=False)
    return Drawn(steps, decoded[-1], pipeline.components, clip)


def take_modes(vae: Any) -> None:
    """Let a VAE's posterior have no draws but its mode: pipelines that sample given pictures make what training makes."""
    encode = vae.encode

    def encode_to_mode(*arguments: Any, **named: Any) -> Any:
        output = encode(*arguments, **named)
        posterior = output[0]
        posterior.sample = lambda *_: posterior.mode()
        return output

    vae.encode = encode_to_mode  # of this object alone


@contextmanager
def _recorded(scheduler: Any) -> Iterator[list[Step]]:
    """Collect the calls of a scheduler's ``step``."""
    step: Callable[..., Any] = scheduler.step
    signature, steps = inspect.signature(step), []

    @wraps(step)  # pipelines ask which arguments it has
    def record(*arguments: Any, **named: Any) -> Any:
        told = signature.bind(*arguments, **named).arguments
        output, sample = told["model_output"].clone(), told["sample"].clone()
        if told.get("per_token_timesteps") is not None:
            output = -output  # with a time step for each token, diffusers' scheduler takes the way from noise to data
        made = step(*arguments, **named)
        steps.append(Step(output, sample, made[0].clone(), *_noise_level(scheduler, told["timestep"])))
        return made

    scheduler.step = record
    try:
        yield steps
    finally:
        del scheduler.step


def _noise_level(scheduler: Any, timestep: Any) -> tuple[float, bool, float | None]:
    """Return the last three fields of a step that a scheduler has just made."""
    sigmas, count = getattr(scheduler, "sigmas", None), scheduler.config.num_train_timesteps
    sigma = None if sigmas is None else float(sigmas[scheduler.step_index - 1])  # it has counted already
    return float(timestep) / count, not torch.as_tensor(timestep).is_floating_point(), sigma


@contextmanager
def _recorded_decoding(vae: Any) -> Iterator[list[Tensor]]:
    """Collect what a VAE decodes."""
    decode, decoded = vae.decode, []

    def record(z: Tensor, *arguments: Any, **named: Any) -> Any:
        decoded.append(z.clone())
        return decode(z, *arguments, **named)

    vae.decode = record
    try:
        yield decoded
    finally:
        vae.decode = decode
