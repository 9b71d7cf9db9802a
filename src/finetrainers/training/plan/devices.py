"""What one of several devices holds and sends: what one device counts, cut by how weights and tokens are shared."""

from collections.abc import Sequence
from dataclasses import replace
from math import ceil, prod

from finetrainers.config import Bucket, Config
from finetrainers.distributed.layout import Layout, check_batch, settle_layout
from finetrainers.memory.meter import Category, Usage
from finetrainers.models import Model
from finetrainers.models.blocks import named_blocks
from finetrainers.optim.optimizers import OF_WHOLE_WEIGHTS
from finetrainers.training.cost import StepCost, build_meta_trainer
from finetrainers.training.plan.figures import Between
from finetrainers.training.plan.gpus import Gpu
from finetrainers.training.plan.scale import (
    FLOAT32_BYTES,
    Unit,
    gathered_bytes,
    groups_of,
    groups_of_step,
    is_little,
    sent,
    traffic_of_step,
    traffic_of_tokens,
    traffic_of_weights,
    trained_numel,
    units_of,
)
from finetrainers.training.plan.speed import PEERS

STATES: tuple[Category, ...] = ("masters", "states")
IN_FLIGHT = 2
"""Blocks that are whole besides those that are gathered ahead: the one that is computed, and the buffer of the next."""


def layout_of(config: Config, gpus: int) -> Layout:
    """Settle how so many devices share the work.

    Raises:
        ConfigError: If they cannot.
    """
    layout = settle_layout(config.parallel, gpus)
    check_batch(layout, batch_size=config.train.batch_size, micro_batch_size=config.train.micro_batch_size)
    return layout


def num_gpus(config: Config, gpus: int | None) -> int:
    """How many devices a run has: as asked for, or as many as its configuration needs."""
    parallel = config.parallel
    return gpus or (parallel.replicate or 1) * (parallel.shard or 1) * (parallel.context or 1)


def on_one_of(config: Config, layout: Layout) -> Config:
    """Give one device its part of the batch, and no others to share anything with."""
    train = config.train.model_copy(update={"batch_size": config.train.batch_size // layout.data_size})
    return config.model_copy(update={"train": train, "parallel": type(config.parallel)()})


def units_of_run(config: Config, model: Model) -> Sequence[Unit]:
    """List what is gathered together."""
    return units_of(build_meta_trainer(config, model).denoiser, model.adapter.blocks)


def shared_usage(usage: Usage, units: Sequence[Unit], layout: Layout, *, prefetch: int, optimizer: str = "adamw") -> Usage:
    """Cut what one device would hold: weights and states by those that share them, activations by sharers of tokens.

    States of an optimizer that steps unsharded weights are whole in each process; it and Muon have one whole weight and its
    gradient beside the rest.
    """
    found: dict[Category, int] = dict(usage.peak)
    of_tokens: tuple[Category, ...] = ("activations", "temporaries")
    for category in of_tokens:
        found[category] = ceil(usage.peak[category] / layout.context)
    sharing = layout.shard * layout.context
    if layout.shard > 1:
        *blocks, root = units
        largest = max(gathered_bytes(unit, sharing) for unit in blocks)
        found["weights"] = ceil(usage.peak["weights"] / sharing)
        found["trained"] = 0  # they rest as masters
        found["masters"], found["states"] = (ceil(usage.peak[own] / sharing) for own in STATES)
        if not is_little(units):
            found["gradients"] = ceil(usage.peak["gradients"] / sharing)
            found["temporaries"] += max(trained_numel([unit]) for unit in blocks) * (FLOAT32_BYTES + 2)
        if optimizer in OF_WHOLE_WEIGHTS:
            found["states"] = usage.peak["states"]
        if optimizer in (*OF_WHOLE_WEIGHTS, "muon"):
            numel = max(prod(weight.shape) for unit in units for weight in unit if weight.is_trained)
            found["temporaries"] += 2 * FLOAT32_BYTES * numel
        found["temporaries"] += gathered_bytes(root, sharing) + (IN_FLIGHT + prefetch) * largest
    return Usage(found, usage.flop // layout.context)


def with_shared_weights(cost: StepCost, own: Config, model: Model, layout: Layout, *, prefetch: int) -> StepCost:
    """Cut a step to what one of several devices has of it whose weights are shared, and whose tokens are not.

    Args:
        cost: Of one device that has all.
        own: By which it was counted.
        model: Of the run.
        layout: How devices share the work.
        prefetch: Blocks that are gathered ahead.
    """
    if layout.shard == 1:
        return cost
    whole_tokens = Layout(layout.replicate, layout.shard * layout.context)
    units, name = units_of_run(own, model), own.optimizer.name
    usage = shared_usage(cost.usage, units, whole_tokens, prefetch=prefetch, optimizer=name)
    return replace(cost, usage=usage, reserved_bytes=shared_cost(cost, usage))


def between(config: Config, model: Model, layout: Layout, units: Sequence[Unit], *, bucket: Bucket, gpu: Gpu) -> Between:
    """Say what each device sends in a step."""
    train, grid = config.train, model.adapter.grid
    micro_batches = train.batch_size // layout.data_size // train.micro_batch_size
    reshard = config.parallel.reshard is not False
    traffic = traffic_of_weights(units, layout, micro_batches=micro_batches, reshard=reshard)
    shell = model.pretrained.shell(model.denoisers.trained[0])
    traffic += traffic_of_tokens(
        layout,
        num_tokens=train.micro_batch_size * grid.num_tokens(bucket),
        width=shell.config.num_attention_heads * shell.config.attention_head_dim,
        channels=grid.channels * grid.patch**2,
        attentions=len(named_blocks(shell, model.adapter.blocks)),
        micro_batches=micro_batches,
        num_bytes=model.dtype.itemsize,
        is_checkpointed=train.gradient_checkpointing,
    )
    moved = sent(traffic, groups_of(layout))
    for kind, num_bytes in sent(traffic_of_step(units, layout, config.optimizer.name), groups_of_step(layout)).items():
        moved[kind] = moved.get(kind, 0) + num_bytes
    total = sum(moved.values())
    return Between(
        replicate=layout.replicate,
        shard=layout.shard,
        context=layout.context,
        sent={kind: round(num_bytes) for kind, num_bytes in moved.items()},
        seconds=total / (PEERS * gpu.peer_gbs * 1e9) if gpu.peer_gbs else None,
    )


def shared_cost(cost: StepCost, usage: Usage) -> int:
    """Bytes that the allocator holds of a device that shares: as much more than is allocated as of one that does not."""
    return round(usage.peak_bytes * cost.reserved_bytes / cost.peak_bytes)
