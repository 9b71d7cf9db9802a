"""Which part of a sharded tensor a process has."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor._dtensor_spec import DTensorSpec, TensorMeta
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangular part of a tensor; one of no dimensions is a scalar."""

    offset: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def num_elements(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    def shared(self, other: "Box") -> "Box | None":
        """What two boxes of a tensor both have; None if that is nothing."""
        starts = [max(a, b) for a, b in zip(self.offset, other.offset, strict=True)]
        pairs = zip(self.offset, self.shape, other.offset, other.shape, strict=True)
        sizes = [min(a + n, b + m) - start for (a, n, b, m), start in zip(pairs, starts, strict=True)]
        return None if any(size <= 0 for size in sizes) else Box(tuple(starts), tuple(sizes))

    def slices_in(self, outer: "Box") -> tuple[slice, ...]:
        """Where it lies in a tensor that holds the outer box."""
        begins = [own - base for own, base in zip(self.offset, outer.offset, strict=True)]
        return tuple(slice(begin, begin + size) for begin, size in zip(begins, self.shape, strict=True))


@dataclass(frozen=True, slots=True)
class Part:
    """What stands for this process's part of a sharded tensor and means nothing for another one: numbers in blocks."""

    box: Box
    shape: tuple[int, ...]
    """Of the whole."""
    value: Any  # a tree, such as files know
    is_mine: bool = True
    """Whether this process is the first of those that have it."""


def whole(shape: Sequence[int]) -> Box:
    """All of a tensor."""
    return Box((0,) * len(shape), tuple(shape))


def own_part(tensor: Tensor) -> tuple[Box, Tensor]:
    """Return the place of what this process has of a tensor, and it itself: the tensor's own memory.

    Raises:
        ValueError: If it is to be added up from others, or lies in strides.
    """
    tensor = tensor.detach()
    if not isinstance(tensor, DTensor):
        return whole(tensor.shape), tensor
    kinds = sorted({type(placement).__name__ for placement in tensor.placements} - {Shard.__name__, Replicate.__name__})
    if kinds:
        raise ValueError(f"a tensor that is spread over processes as {kinds[0]} has no parts of its own")
    shape, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return Box(tuple(offset), tuple(shape)), tensor.to_local()


def with_part(like: DTensor, local: Tensor) -> DTensor:
    """Return a tensor that is spread as another one is, of which this process has ``local``, where that is."""
    meta = TensorMeta(like.shape, like.stride(), local.dtype)
    # Not by from_local, which moves it to the mesh's device: shards may rest on the host.
    return DTensor(local, DTensorSpec(like.device_mesh, like.placements, tensor_meta=meta), requires_grad=False)


def part_of(tensor: DTensor, value: Any) -> Part:
    """Say of which part of a tensor a value is."""
    box, _ = own_part(tensor)
    place = tensor.device_mesh.get_coordinate() or [0] * tensor.device_mesh.ndim
    is_mine = all(placement.is_shard() or not own for placement, own in zip(tensor.placements, place, strict=True))
    return Part(box, tuple(tensor.shape), value, is_mine)


class Writers:
    """Decides which process writes what of tensors that several have: all make the same calls, and decide the same."""

    def __init__(self, rank: int, size: int) -> None:
        self._rank = rank
        self._bytes = [0] * size
        """Of whole tensors, by the process that writes them."""
        self._count = 0

    def is_mine(self, tensor: Tensor) -> bool:
        """Whether this process writes its part of the next tensor; of its replicas, another one does for each tensor."""
        self._count += 1
        if isinstance(tensor, DTensor):
            place = tensor.device_mesh.get_coordinate() or [0] * tensor.device_mesh.ndim
            axes = zip(tensor.placements, place, tensor.device_mesh.shape, strict=True)
            return all(placement.is_shard() or own == self._count % size for placement, own, size in axes)
        writer = min(range(len(self._bytes)), key=self._bytes.__getitem__)
        self._bytes[writer] += tensor.nbytes
        return writer == self._rank
