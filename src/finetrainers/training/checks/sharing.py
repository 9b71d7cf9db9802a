"""What cannot be combined with several processes, or beside weights that they share: known with their number."""

from collections.abc import Iterator

from finetrainers.config import Config, LoraConfig
from finetrainers.config.optim import REGISTRY
from finetrainers.config.parallel import ParallelConfig
from finetrainers.distributed.layout import Layout
from finetrainers.errors import ConfigError
from finetrainers.optim.optimizers import IN_BLOCKS, OF_WHOLE_WEIGHTS

SHARED = "is impossible with parallel.shard"
PART_BY_PART = ("adamw", "adam", "sgd", "adamw_schedule_free")
"""Optimizers whose step of a weight's part is the part of the weight's step."""
REGISTERED_PART_BY_PART = ("adan", "ademamix", "adopt", "lion")
"""As ``PART_BY_PART``, of the registry."""


def check_sharing(config: Config, layout: Layout) -> None:
    """Refuse what has no effect or no meaning in a layout.

    Raises:
        ConfigError: Naming the key, the reason and the way out.
    """
    reasons = [*_without_effect(config.parallel, layout)]
    if layout.size > 1:
        reasons += _beside_others(config, layout)
    if layout.shard > 1:
        reasons += [*_of_layout(config.parallel, layout), *_of_optimizer(config), *_of_weights(config)]
    for key, value, reason in reasons:
        raise ConfigError(f"{key}: {value} {reason}")


Refused = Iterator[tuple[str, object, str]]
"""Keys with their values, the reason and the way out."""


def _beside_others(config: Config, layout: Layout) -> Refused:
    if config.optimizer.in_backward:
        why = f"steps each weight before its gradient is added up over the {layout.size} processes; remove it"
        yield "optimizer.in_backward", "true", why


def _of_layout(parallel: ParallelConfig, layout: Layout) -> Refused:
    size = layout.shard * layout.context
    if not isinstance(parallel.reshard, bool) and (size % parallel.reshard or parallel.reshard >= size):
        few = [number for number in range(2, size) if size % number == 0]
        way_out = f"{', '.join(map(str, few))}, true or false" if few else "true or false"
        yield "parallel.reshard", parallel.reshard, f"does not divide the {size} processes that share weights; set {way_out}"


def _of_optimizer(config: Config) -> Refused:
    optimizer = config.optimizer
    if optimizer.state == "cpu":
        yield "optimizer.state", "cpu", f"{SHARED}: masters are the shards; set parallel.offload: true, which is as much"
    if optimizer.masters == "stochastic_rounding":
        why = f"{SHARED}: its random draws are for unsharded weights; set float32: each process keeps a shard of those"
        yield "optimizer.masters", optimizer.masters, why
    names = (*PART_BY_PART, *IN_BLOCKS, *OF_WHOLE_WEIGHTS, "muon")
    if optimizer.name not in names and optimizer.registered_name not in REGISTERED_PART_BY_PART:
        known = ", ".join((*names, *(f"{REGISTRY}{name}" for name in REGISTERED_PART_BY_PART)))
        yield "optimizer.name", optimizer.name, f"{SHARED}: no process has a whole weight; set one of {known}"


def _of_weights(config: Config) -> Refused:
    memory, tuning = config.memory, config.tuning
    if memory.resident_blocks != "all":
        why = f"{SHARED}: blocks come from other processes; set all, or parallel.offload: true"
        yield "memory.resident_blocks", memory.resident_blocks, why
    if isinstance(tuning, LoraConfig) and tuning.dora and memory.weights != "none":
        why = f"{SHARED} and memory.weights: {memory.weights}: norms are not taken of shards in few bits; remove one of them"
        yield "tuning.dora", "true", why
    if config.compile.kind == "full":
        yield "compile.kind", "full", f"{SHARED}: blocks are gathered between graphs; set regional"


def _without_effect(parallel: ParallelConfig, layout: Layout) -> Refused:
    """Keys about shards where there are none; a saved configuration has them at their defaults."""
    for key in ("reshard", "offload", "prefetch"):
        value = getattr(parallel, key)
        if layout.shard == 1 and value != ParallelConfig.model_fields[key].default:
            yield (
                f"parallel.{key}",
                value,
                "has no effect without parallel.shard, the devices that share weights; set it, or remove this key",
            )
