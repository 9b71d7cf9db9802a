"""What a layout of many devices takes of each of them: sizes of shards, and bytes that collectives move, by formula.

Bytes of a collective are those of its longer side: what is gathered, or what is reduced. ``sent`` says what of it goes over
the wire.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, prod

from torch import nn

from finetrainers.distributed.layout import Layout
from finetrainers.models.blocks import named_blocks
from finetrainers.optim.optimizers import OF_WHOLE_WEIGHTS

FLOAT32_BYTES = 4
"""Of a number of gradients, masters and each state."""
BFLOAT16_BYTES = 2
"""Of a number that Muon is to orthogonalize."""
KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all")
LITTLE = 0.1
"""Part of all weights up to which gradients of those that train wait whole for the last micro-batch."""


@dataclass(frozen=True, slots=True)
class Weight:
    """A parameter, as the model computes with it."""

    shape: tuple[int, ...]
    num_bytes: int
    """Of one number."""
    is_trained: bool

    def padded(self, processes: int) -> int:
        """Numbers of all shards: FSDP2 cuts the first dimension into as many equal parts, the last filled up."""
        rows, *rest = self.shape or (1,)
        return ceil(rows / processes) * processes * prod(rest)


Unit = Sequence[Weight]
"""What is gathered together."""


def units_of(denoiser: nn.Module, blocks: Sequence[str]) -> list[Unit]:
    """List the blocks of a denoiser, and at the end all else, as FSDP2 gathers them."""
    found: list[Unit] = []
    seen: set[nn.Parameter] = set()
    for module in [*named_blocks(denoiser, blocks).values(), denoiser]:
        own = [parameter for parameter in module.parameters() if parameter not in seen]
        seen.update(own)
        found.append([Weight(tuple(p.shape), p.element_size(), p.requires_grad) for p in own])
    return [unit for unit in found if unit]


def gathered_bytes(unit: Unit, processes: int) -> int:
    """Bytes of a whole unit, in the types that it is computed in."""
    return sum(weight.padded(processes) * weight.num_bytes for weight in unit)


def trained_numel(units: Sequence[Unit], processes: int = 1) -> int:
    """Numbers that train, with what fills up their shards."""
    return sum(weight.padded(processes) for unit in units for weight in unit if weight.is_trained)


def traffic_of_weights(units: Sequence[Unit], layout: Layout, *, micro_batches: int, reshard: bool = True) -> Counter[str]:
    """Bytes of an optimizer step's collectives of weights and gradients, in each process, by kind.

    Args:
        units: Of all denoisers that are asked in the step.
        layout: Sizes of the axes.
        micro_batches: That each process takes.
        reshard: Whether a block is gathered for the backward pass again.
    """
    found: Counter[str] = Counter()
    if layout.size == 1:
        return found
    if layout.shard == 1:
        found["all-reduce"] = trained_numel(units) * FLOAT32_BYTES
        return found
    sharing = layout.shard * layout.context
    passes = 2 if reshard else 1
    found["all-gather"] = micro_batches * passes * sum(gathered_bytes(unit, sharing) for unit in units)
    trained = trained_numel(units, sharing) * FLOAT32_BYTES
    times = 1 if is_little(units) else micro_batches
    found["reduce-scatter"] = times * trained
    if layout.replicate > 1:
        found["all-reduce"] = trained // sharing
    return found


def is_little(units: Sequence[Unit]) -> bool:
    """Whether so little trains that its gradients wait whole for the last micro-batch."""
    total = sum(prod(weight.shape) for unit in units for weight in unit)
    return trained_numel(units) <= LITTLE * total


def traffic_of_step(units: Sequence[Unit], layout: Layout, optimizer: str) -> Counter[str]:
    """Bytes of an optimizer's own collectives, by which it steps unsharded weights where processes have parts; by kind.

    Muon's are those of the process that gets the largest matrix each time that each gets one.

    Args:
        units: Of all that is stepped.
        layout: Sizes of the axes.
        optimizer: Its name.
    """
    sharing = layout.shard * layout.context
    if layout.shard == 1:
        return Counter()
    if optimizer in OF_WHOLE_WEIGHTS:  # the weight, and its gradient
        return Counter({"all-gather": 2 * FLOAT32_BYTES * trained_numel(units, sharing)})
    if optimizer == "muon":
        sizes = [prod(weight.shape) for unit in units for weight in unit if weight.is_trained and len(weight.shape) == 2]
        largest = sum(max(sizes[start : start + sharing]) for start in range(0, len(sizes), sharing))
        return Counter({"all-to-all": (BFLOAT16_BYTES + FLOAT32_BYTES) * largest})
    return Counter()


def traffic_of_tokens(
    layout: Layout,
    *,
    num_tokens: int,
    width: int,
    channels: int,
    attentions: int,
    micro_batches: int,
    num_bytes: int,
    is_checkpointed: bool,
) -> Counter[str]:
    """Bytes of the exchanges of attention, and of the denoiser's answer, which is put together.

    Queries, keys, values and what attention answers are exchanged forward, again where that is computed again, and backward.

    Args:
        layout: Sizes of the axes.
        num_tokens: Of all samples of a micro-batch, over which attention goes.
        width: Of all heads together.
        channels: Of a token of the denoiser's answer.
        attentions: That are shared.
        micro_batches: That each process takes.
        num_bytes: Of one number.
        is_checkpointed: Whether the forward pass is computed again.
    """
    if layout.context == 1:
        return Counter()
    passes = 3 if is_checkpointed else 2
    once = num_tokens // layout.context * width * num_bytes
    answer = num_tokens * channels * num_bytes
    return Counter({"all-to-all": micro_batches * passes * attentions * 4 * once, "all-gather": micro_batches * answer})


def sent(traffic: Mapping[str, int], groups: Mapping[str, int]) -> dict[str, float]:
    """Bytes that each process sends, by kind, where collectives are rings: all-reduce goes around twice.

    Args:
        traffic: Bytes of the longer sides.
        groups: How many processes take part.
    """
    return {
        kind: num_bytes * (2 if kind == "all-reduce" else 1) * (groups[kind] - 1) / groups[kind]
        for kind, num_bytes in traffic.items()
    }


def groups_of_step(layout: Layout) -> dict[str, int]:
    """How many processes take part in each kind of collective of an optimizer's own."""
    return dict.fromkeys(KINDS, layout.shard * layout.context)


def groups_of(layout: Layout) -> dict[str, int]:
    """How many processes take part in each kind of collective of weights, gradients and tokens."""
    sharing = layout.shard * layout.context
    return {
        "all-gather": sharing,
        "reduce-scatter": sharing,
        "all-reduce": layout.replicate if layout.shard > 1 else layout.size,
        "all-to-all": layout.context,
    }
