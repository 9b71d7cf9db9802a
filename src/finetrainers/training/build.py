"""Builds what a prepared run needs to train: the trainer and its batches."""

from collections.abc import Generator
from contextlib import nullcontext
from functools import partial

import torch
from torch import nn

from finetrainers.batch import Batch
from finetrainers.conditioning import build_conditioning
from finetrainers.config import Config
from finetrainers.data.loader import Steps, load_steps
from finetrainers.distributed.context import share_tokens
from finetrainers.distributed.reading import SharedReading
from finetrainers.distributed.world import World, alone
from finetrainers.memory.attention import attention, attention_within
from finetrainers.memory.compile import recompiles_explained, sizes_are_fixed
from finetrainers.memory.dense import make_gradients_whole
from finetrainers.memory.quantize.compress import compressing
from finetrainers.memory.shards import ToShards, share_weights
from finetrainers.memory.techniques import ToHost, prepare
from finetrainers.models import Model
from finetrainers.models.weights import Weights, undrawn
from finetrainers.objectives.base import Objective
from finetrainers.optim.optimizers import IN_BLOCKS, OF_WHOLE_WEIGHTS, build_optimizer
from finetrainers.optim.schedules import build_schedule
from finetrainers.optim.update import Update
from finetrainers.training.prepared import Prepared
from finetrainers.training.trainer import Trainer
from finetrainers.tuning import Tuning
from finetrainers.tuning.base import trained_parameters


def build_trainer(
    config: Config,
    model: Model,
    *,
    objective: Objective,
    tuning: Tuning,
    device: torch.device,
    weights: Weights = "stored",
    world: World | None = None,
) -> Trainer:
    """Load the denoiser and make all that the loop needs.

    In this order: weights, what trains, techniques, shards, the update. Adapters come after weights: some begin from them.
    """
    world = alone(device) if world is None else world
    mesh = world.weights_mesh
    blocks, resident = model.adapter.blocks, config.memory.resident_blocks
    settle = compressing(config.memory.weights, blocks)
    if isinstance(resident, int) and weights != "none":
        settle = ToHost(blocks, resident, settle)
    if mesh is not None:
        settle = ToShards(blocks, mesh, settle)
    reading = None if world.is_alone else SharedReading(world)
    denoiser = model.load_denoiser(device, weights=weights, settle=settle, reading=reading)
    conditioning = build_conditioning(config.conditioning)
    for name, part in model.denoisers.split(denoiser).items():
        conditioning.prepare(part, model.adapter)
        full_modules = conditioning.trained_modules(part, model.adapter)
        with undrawn(weights):
            tuning.apply(part, model.adapter, component=name, seed=config.seed, full_modules=full_modules)
        make_gradients_whole(part, model.adapter.joins_attention)
        share_tokens(part, model.adapter.context_plan(), blocks, world, config.parallel.context_kind)
        prepare(part, blocks, config, device, is_shared=mesh is not None or world.layout.context > 1)
        if mesh is not None:
            share_weights(part, blocks, mesh, config.parallel)
    parts = list(model.denoisers.split(denoiser).values())
    is_dispatched = model.adapter.dispatches_attention
    return Trainer(
        config=config.train,
        seed=config.seed,
        adapter=model.adapter,
        denoiser=denoiser,
        conditioning=conditioning,
        objective=objective,
        update=_make_update(config, denoiser, world),
        device=device,
        world=world,
        dtype=model.dtype,
        attention=partial(attention, config.attention.train, is_dispatched=is_dispatched),
        attention_in_validation=partial(attention_within, parts, config.attention.validation, is_dispatched=is_dispatched),
        trims_prompts=not sizes_are_fixed(config.compile),
        explained=nullcontext if config.compile.kind == "none" else recompiles_explained,
        without_adapter=tuning.without_adapter,
    )


def _make_update(config: Config, denoiser: nn.Module, world: World) -> Update:
    """Make what changes the weights that train."""
    return Update(
        denoiser,
        trained_parameters(denoiser),
        make_optimizer=partial(build_optimizer, config.optimizer),
        make_schedule=partial(build_schedule, config.schedule, steps=config.train.steps),
        clip_norm=config.train.clip_norm,
        ema_decay=config.train.ema_decay,
        rounding_seed=config.seed if config.optimizer.masters == "stochastic_rounding" else None,
        is_on_host=config.optimizer.state == "cpu",
        is_in_backward=config.optimizer.in_backward,
        steps_parts=config.optimizer.name in IN_BLOCKS,
        gathers=config.optimizer.name in OF_WHOLE_WEIGHTS,
        world=world,
    )


def build_batches(
    config: Config, prepared: Prepared, *, objective: Objective, world: World, start: int, stop: int
) -> Generator[Batch]:
    """Make this process's batches of the optimizer steps from ``start`` to ``stop``, prepared ahead."""
    steps = build_steps(prepared, objective, rows=world.rows(config.train.batch_size))
    return load_steps(steps, config.loader, start=start, stop=stop, pin=world.device.type == "cuda")


def build_steps(prepared: Prepared, objective: Objective, rows: slice = slice(None)) -> Steps:
    """Make what reads the batch of any optimizer step, or some of its rows."""
    grid, catalog = prepared.model.adapter.grid, prepared.plan.catalog
    return Steps(
        plan=prepared.plan,
        order=prepared.order,
        cache=prepared.encoder.cache,
        objective=objective,
        given_frames=prepared.given_frames,
        tokens={bucket: grid.num_tokens(bucket) for bucket in catalog.buckets},
        padding={bucket: grid.num_padding_frames(bucket[0]) for bucket in catalog.buckets},
        selections=prepared.conditioning.frames,
        rows=rows,
    )
