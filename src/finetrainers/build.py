"""Builds what a prepared run needs to train: the objective, the trainer, its batches and its validation."""

from collections.abc import Callable, Generator
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from finetrainers.batch import Batch
from finetrainers.checks import attention
from finetrainers.conditioning import build_conditioning
from finetrainers.config import Config
from finetrainers.data.loader import Steps, load_steps
from finetrainers.errors import ConfigError
from finetrainers.loop import Trainer
from finetrainers.models import Model
from finetrainers.models.base import image_is_optional
from finetrainers.objective import Diffusion, FlowMatching, GivenFrames, NoiseLevels, ResolutionShift
from finetrainers.optim import build_optimizer, build_schedule
from finetrainers.prepare import Prepared, encode_for_validation
from finetrainers.tuning import Tuning
from finetrainers.tuning.base import trained_parameters
from finetrainers.validate import HeldOut, Validator


def build_objective(config: Config, model: Model) -> FlowMatching:
    """Turn the ``objective`` section into its implementation, with the family's defaults.

    Raises:
        ConfigError: If the family cannot do what is asked.
    """
    wanted, adapter = config.objective, model.adapter
    levels = adapter.noise_levels
    if wanted.noise_levels != "auto":
        levels = NoiseLevels(
            wanted.noise_levels, logit_mean=wanted.logit_mean, logit_std=wanted.logit_std, mode_scale=wanted.mode_scale
        )
    levels = replace(levels, shift=_shift(config, model), between=model.denoisers.noise_range)
    given_frames, probability = _given_frames(config, model)
    if adapter.prediction == "v":
        if wanted.weighting != "none":
            raise ConfigError(f"objective.weighting: {adapter.name} is weighted by 1 / (1 - alpha_bar); remove it")
        alphas = model.pretrained.load("scheduler").alphas_cumprod
        return Diffusion(noise_levels=levels, alphas_cumprod=tuple(alphas.double().tolist()))
    return FlowMatching(
        noise_levels=levels,
        weighting=wanted.weighting,
        first_frame_probability=probability,
        given_frames=given_frames,
        given_frame_max_sigma=adapter.given_frame_max_sigma,
    )


def _shift(config: Config, model: Model) -> float | ResolutionShift:
    """Settle how noise levels are shifted: as is configured, as the family's authors did, or as the scheduler does."""
    adapter = model.adapter
    shift = adapter.shift if config.objective.shift == "auto" else config.objective.shift
    if shift == "scheduler":
        is_dynamic = adapter.scheduler.get("use_dynamic_shifting")
        name = "flow_shift" if adapter.scheduler.get("use_flow_sigmas") else "shift"  # as UniPC has it, or Euler
        shift = "resolution" if is_dynamic else float(adapter.scheduler.get(name, 1.0))
    return adapter.resolution_shift() if shift == "resolution" else float(shift)


def _given_frames(config: Config, model: Model) -> tuple[GivenFrames, float]:
    """Settle which frames training gives, and with which probability.

    Raises:
        ConfigError: If the family or the task cannot.
    """
    wanted, probability = config.objective.given_frames, config.objective.first_frame_probability
    adapter, task = model.adapter, model.task
    starts, gives_later = adapter.gives_first_frame(task), adapter.gives_later_frames(task)
    is_asked = bool(probability) or wanted not in ("auto", "none")
    if is_asked and adapter.first_frame_probability is None and not (starts or image_is_optional(adapter)):
        key = "first_frame_probability" if probability else "given_frames"
        raise ConfigError(f"objective.{key}: {adapter.name} takes one noise level for all frames; remove it")
    if wanted in ("last", "first_and_last", "random") and not gives_later:
        way_out = "set model.task: first-last-frame-to-video"
        if not any(adapter.gives_later_frames(other) for other in adapter.tasks):
            way_out = "this model takes none but the first; set first or none"
        raise ConfigError(f"objective.given_frames: {wanted} is impossible in the task {task}; {way_out}")
    if wanted == "none" and starts:
        raise ConfigError(f"objective.given_frames: none leaves the task {task} nothing to start from; set model.task")
    if wanted == "none":
        return "first", 0.0
    if probability is None:
        default = 0.0 if adapter.first_frame_probability is None else adapter.first_frame_probability
        probability = 1.0 if starts else default
    if wanted == "auto":
        return "first_and_last" if gives_later else "first", probability
    return wanted, probability


def build_trainer(config: Config, model: Model, *, objective: FlowMatching, tuning: Tuning, device: torch.device) -> Trainer:
    """Load the denoiser and make everything that the loop needs. Order matters: what trains, then the optimizer."""
    denoiser = model.load_denoiser()
    conditioning = build_conditioning(config.conditioning)
    for name, part in model.denoisers.split(denoiser).items():
        conditioning.prepare(part, model.adapter)
        beside = conditioning.trained_modules(part, model.adapter)
        tuning.apply(part, model.adapter, component=name, seed=config.seed, beside=beside)
        if config.train.gradient_checkpointing:
            part.enable_gradient_checkpointing()
    denoiser.to(device)
    parameters = list(trained_parameters(denoiser).values())
    optimizer = build_optimizer(config.optimizer, parameters)
    return Trainer(
        config=config.train,
        seed=config.seed,
        adapter=model.adapter,
        denoiser=denoiser,
        conditioning=conditioning,
        objective=objective,
        optimizer=optimizer,
        schedule=build_schedule(config.schedule, optimizer, steps=config.train.steps),
        ema=_build_ema(config, parameters),
        device=device,
        dtype=model.dtype,
        needs_autocast=tuning.needs_autocast,
        attention=partial(attention, config.attention.train),
    )


def build_batches(
    config: Config, prepared: Prepared, *, objective: FlowMatching, device: torch.device, start: int, stop: int
) -> Generator[Batch]:
    """Make the batches of the optimizer steps from ``start`` to ``stop``, prepared ahead."""
    return load_steps(build_steps(prepared, objective), config.loader, start=start, stop=stop, pin=device.type == "cuda")


def build_steps(prepared: Prepared, objective: FlowMatching) -> Steps:
    """Make what reads the batch of any optimizer step."""
    grid, catalog = prepared.model.adapter.grid, prepared.plan.catalog
    return Steps(
        plan=prepared.plan,
        order=prepared.order,
        cache=prepared.encoder.cache,
        objective=objective,
        tokens={bucket: grid.num_tokens(bucket) for bucket in catalog.buckets},
        padding={bucket: grid.num_padding(bucket[0]) for bucket in catalog.buckets},
        shown=prepared.conditioning.shown,
    )


def build_validator(
    config: Config, prepared: Prepared, *, emit: Callable[..., None], interrupt: Callable[[], None]
) -> Validator:
    """Make what draws the prompts and measures the held-out loss."""
    held_out = None
    if prepared.held_out:
        held_out = HeldOut(prepared.held_out, prepared.encoder.cache, config.validation.noise_levels)
    return Validator(
        directory=config.output_dir / "validation",
        model=prepared.model,
        cache=prepared.encoder.cache,
        plan=prepared.plan,
        requests=prepared.requests,
        held_out=held_out,
        every=config.validation.every,
        last_step=config.train.steps,
        emit=emit,
        attention=partial(attention, config.attention.validation),
        interrupt=interrupt,
        vae_tiling=config.memory.vae_tiling,
        vae_slicing=config.memory.vae_slicing,
        data=config.data[0],
        encode=partial(encode_for_validation, prepared),
    )


def pick_device(name: str) -> torch.device:
    """Turn ``train.device`` into a device.

    Raises:
        ConfigError: If there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"train.device: {name!r} cannot be used: {str(error).splitlines()[0]}") from None
    return device


def _build_ema(config: Config, parameters: list[torch.nn.Parameter]) -> Any:
    if config.train.ema_decay is None:
        return None
    from diffusers.training_utils import EMAModel

    return EMAModel(parameters, decay=config.train.ema_decay)
