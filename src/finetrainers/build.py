"""Builds what a prepared run needs to train: the trainer, its batches and its validation."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from finetrainers.batch import Batch
from finetrainers.conditioning import build_conditioning
from finetrainers.config import Config
from finetrainers.data.loader import Steps, load_steps
from finetrainers.errors import ConfigError
from finetrainers.loop import Trainer
from finetrainers.models import Model
from finetrainers.objective import FlowMatching
from finetrainers.optim import build_optimizer, build_schedule
from finetrainers.prepare import Prepared, attention
from finetrainers.tuning import Tuning
from finetrainers.tuning.base import trained_parameters
from finetrainers.validate import HeldOut, Validator


def build_trainer(config: Config, model: Model, *, objective: FlowMatching, tuning: Tuning, device: torch.device) -> Trainer:
    """Load the denoiser and make everything that the loop needs. Order matters: what trains, then the optimizer."""
    denoiser = model.pretrained.load(model.adapter.denoiser)
    tuning.apply(denoiser, model.adapter, seed=config.seed)
    if config.train.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    denoiser.to(device)
    parameters = list(trained_parameters(denoiser).values())
    optimizer = build_optimizer(config.optimizer, parameters)
    place = model.pretrained.place(model.adapter.denoiser)
    return Trainer(
        config=config.train,
        seed=config.seed,
        adapter=model.adapter,
        denoiser=denoiser,
        conditioning=build_conditioning(config.conditioning),
        objective=objective,
        optimizer=optimizer,
        schedule=build_schedule(config.schedule, optimizer, steps=config.train.steps),
        ema=_build_ema(config, parameters),
        device=device,
        dtype=place.dtype,
        needs_autocast=tuning.needs_autocast,
        attention=partial(attention, config.attention.train),
    )


def build_batches(
    config: Config, prepared: Prepared, *, objective: FlowMatching, device: torch.device, start: int, stop: int
) -> Iterator[Batch]:
    """Make the batches of the optimizer steps from ``start`` to ``stop``, prepared ahead."""
    grid, catalog = prepared.model.adapter.grid, prepared.plan.catalog
    steps = Steps(
        plan=prepared.plan,
        order=prepared.order,
        cache=prepared.encoder.cache,
        objective=objective,
        tokens={bucket: grid.num_tokens(bucket) for bucket in catalog.buckets},
    )
    return load_steps(steps, config.loader, start=start, stop=stop, pin=device.type == "cuda")


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
