"""What can be known to be wrong with tokens that processes share, before any weights: heads, sizes, prompts, attention."""

import itertools
from collections.abc import Sequence

import torch

from finetrainers.config import Bucket, Config
from finetrainers.config.attention import AUTO
from finetrainers.config.data import Buckets, PixelBudget
from finetrainers.data.catalog.buckets import resolve_buckets
from finetrainers.distributed.context import ContextPlan
from finetrainers.errors import ConfigError
from finetrainers.memory.attention import Key, shared_backends
from finetrainers.models import Model, ModelAdapter, Request


def check_context(
    config: Config, model: Model, requests: Sequence[Request] = (), *, context: int, device: torch.device
) -> None:
    """Refuse what ``context`` processes cannot share evenly, and attention that cannot be computed so.

    Raises:
        ConfigError: Naming the key and what to set instead.
    """
    kind, adapter = config.parallel.context_kind, model.adapter
    if context == 1:
        if kind != "ulysses":
            raise ConfigError(
                f"parallel.context_kind: {kind} has no effect where each process has all tokens of its samples; set "
                "parallel.context, or remove it"
            )
        return
    plan = adapter.context_plan()
    if plan is None:
        raise ConfigError(
            f"parallel.context: {context} is impossible: the adapter of {adapter.name} does not say how processes share "
            "tokens (context_plan); set 1, or share weights by parallel.shard"
        )
    if kind == "ring":
        _check_ring(plan, adapter.name, device)
    elif plan.num_heads % context:
        possible = ", ".join(str(number) for number in range(1, plan.num_heads + 1) if plan.num_heads % number == 0)
        raise ConfigError(
            f"parallel.context: {context} processes cannot share the {plan.num_heads} attention heads of {adapter.name}; "
            f"possible are {possible}"
        )
    if plan.splits_prompt and model.max_length % context:
        below = model.max_length - model.max_length % context
        raise ConfigError(
            f"model.max_sequence_length: {context} processes (parallel.context) cannot share {model.max_length} tokens of a "
            f"prompt evenly; the nearest that work: {' and '.join(str(n) for n in (below, below + context) if n)}"
        )
    _check_attention(config, plan)
    _check_sizes(config, model, requests, context)


def _check_ring(plan: ContextPlan, name: str, device: torch.device) -> None:
    """Refuse a ring without what computes one."""
    if not plan.takes("ring"):
        raise ConfigError(
            f"parallel.context_kind: ring is impossible for {name}, whose attention takes the whole prompt on each "
            "process, along with a part of the other tokens; set ulysses"
        )
    if device.type != "cuda":
        raise ConfigError(
            "parallel.context_kind: ring needs CUDA, and an attention backend with log-sum-exp, such as "
            f"_native_flash or _native_cudnn; train.device is {device.type}: set ulysses"
        )


def _check_attention(config: Config, plan: ContextPlan) -> None:
    """Refuse backends that do not compute attention over tokens of several processes."""
    kind = config.parallel.context_kind
    named: dict[Key, str] = {"train": config.attention.train, "validate": config.attention.validation}
    for key, backend in named.items():
        usable = shared_backends(key, plan, kind)
        if backend not in (AUTO, *usable):
            raise ConfigError(
                f"attention.{key}: {backend!r} cannot compute attention over tokens that processes share "
                f"(parallel.context_kind: {kind}); set {AUTO}, or one of {', '.join(usable)}"
            )


def _check_sizes(config: Config, model: Model, requests: Sequence[Request], context: int) -> None:
    """Refuse buckets, references and pictures to generate whose tokens cannot be shared evenly."""
    for name, sets in (("data", config.data), ("validation.data", config.validation.data)):
        for number, data in enumerate(sets):
            for size in resolve_buckets(data.buckets):
                _check_size(f"{name}.{number}.buckets", size, model, context, budget=_budget(data.buckets))
    if config.references is not None:
        for size in resolve_buckets(config.references.budget):
            where = f"{config.condition_key('references')}.step"
            _check_size(where, size, model, context, budget=config.references.budget)
    for number, request in enumerate(requests, 1):
        _check_size(f"validation.prompts: prompt {number}", request.size, model, context, budget=None)


def _budget(buckets: Buckets) -> PixelBudget | None:
    return buckets if isinstance(buckets, PixelBudget) else None


def _check_size(where: str, size: Bucket, model: Model, context: int, *, budget: PixelBudget | None) -> None:
    """Refuse one size.

    Raises:
        ConfigError: Naming sizes or steps that work.
    """
    adapter, task = model.adapter, model.task
    if is_shared_evenly(adapter, task, size, context):
        return
    if budget is None:
        found = nearest_shared(adapter, task, size, context)
        way_out = "the nearest that work: " + " and ".join(str(list(each)) for each in found) + " (frames, height, width)"
    else:
        unit = adapter.grid.vae_step * adapter.grid.patch
        step = next(unit * n for n in itertools.count(1) if unit * n >= budget.step and n * n % context == 0)
        way_out = f"it is made in steps of {budget.step} pixels: steps of {step} work"
    raise ConfigError(
        f"{where}: {context} processes (parallel.context) cannot share the {_shared_tokens(adapter, task, size)} tokens of "
        f"{list(size)} evenly; {way_out}"
    )


def _shared_tokens(adapter: ModelAdapter, task: str, size: Bucket) -> int:
    """Number of tokens that has to be a multiple: of a clip, or of one frame where others may be given as further tokens."""
    shape = adapter.grid.latent_shape(size)[1:]
    if adapter.gives_later_frames(task):
        shape = (adapter.grid.frame_patch, *shape[1:])
    return adapter.grid.tokens_of_latents(shape)


def is_shared_evenly(adapter: ModelAdapter, task: str, size: Bucket, context: int) -> bool:
    """Whether processes can share the tokens of a possible size."""
    return _shared_tokens(adapter, task, size) % context == 0


def nearest_shared(adapter: ModelAdapter, task: str, size: Bucket, context: int) -> list[Bucket]:
    """Find the two nearest sizes that ``context`` processes can share: those that differ least, relative to the size."""
    grid = adapter.grid
    side = grid.vae_step * grid.patch
    steps = (grid.vae_frame_step, side, side)
    offsets = itertools.product(range(-context, context + 1), repeat=3)
    sizes = {tuple(own + n * step for own, n, step in zip(size, offset, steps, strict=True)) for offset in offsets}
    possible: list[Bucket] = [
        (frames, height, width)
        for frames, height, width in sizes
        if min(frames, height, width) > 0
        and grid.nearest((frames, height, width)) == (frames, height, width)
        and is_shared_evenly(adapter, task, (frames, height, width), context)
    ]
    return sorted(possible, key=lambda own: (sum(abs(a / b - 1) for a, b in zip(own, size, strict=True)), own))[:2]
