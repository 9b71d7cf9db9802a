"""Weights that processes share and whose step needs all of them: each is put together, stepped, and cut again."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from finetrainers.distributed.parallelize import gathered
from finetrainers.distributed.parts import own_part, whole
from finetrainers.optim.kept import Kept, nothing_like


class Gathered(Kept):
    """A float32 weight that processes share: all of it and of its gradient is there while it is stepped alone.

    Every process takes the step of the whole weight and keeps its part. The optimizer's state is that of the whole, in each.
    """

    def __init__(self, name: str, weight: nn.Parameter) -> None:
        """Make what stands in for the whole weight while it is stepped; it holds nothing else."""
        assert weight.dtype == torch.float32, "a weight of fewer bits needs a master"
        assert isinstance(weight, DTensor)
        super().__init__(name, weight)
        self._nothing = nothing_like(torch.empty(weight.shape, device="meta"), weight.device_mesh.device_type)
        self.stepped = nn.Parameter(self._nothing)

    @property
    def exact(self) -> nn.Parameter:
        """The weight itself."""
        return self.weight

    @property
    def gradient(self) -> Tensor | None:
        """Of the weight, in parts as it is."""
        return self.weight.grad

    @contextmanager
    def in_float32(self, *_: object, factor: Tensor | None = None) -> Iterator[None]:
        """Step the whole weight, and keep this process's part, if the step succeeds. All that share it do so together."""
        assert factor is None, "gradients of shards are clipped before"
        assert isinstance(self.weight, DTensor)
        assert isinstance(self.weight.grad, DTensor)
        try:
            self.stepped.data, self.stepped.grad = gathered(self.weight), gathered(self.weight.grad)
            yield
            box, own = own_part(self.weight)
            own.copy_(self.stepped.detach()[box.slices_in(whole(self.weight.shape))])
        finally:
            self.stepped.grad = None
            self.stepped.data = self._nothing
