"""How a weight that trains is kept from one step to the next: as it is, with a float32 master, or rounded stochastically."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from finetrainers.distributed.parallelize import local_of
from finetrainers.optim.rounding import round_stochastically, rounding_noise


class Kept:
    """A weight of float32: the optimizer steps it as it is."""

    def __init__(self, name: str, weight: nn.Parameter) -> None:
        """Take the weight that the denoiser computes with, and its name there."""
        self.name, self.weight = name, weight
        self.stepped = weight
        """What the optimizer steps, in float32, and by what it knows its state."""

    @property
    def exact(self) -> nn.Parameter:
        """The most exact copy of the weight that there is between two steps: what is saved and averaged."""
        return self.stepped

    @property
    def gradient(self) -> Tensor | None:
        """Of all micro-batches until now."""
        return self.stepped.grad

    def receive(self, _: nn.Parameter) -> None:
        """Take the gradient of one backward pass from the weight, as soon as it is there."""

    def settle(self) -> None:
        """Wait for gradients that are still on their way."""

    @contextmanager
    def in_float32(self, *_: object, factor: Tensor | None = None) -> Iterator[None]:
        """Let ``stepped`` and its gradient be there in float32 while it is stepped alone, and keep what comes of it."""
        if factor is not None and self.stepped.grad is not None:
            self.stepped.grad.mul_(factor.to(self.stepped.device))  # streamed weights are on the host
        yield
        self.show()

    def show(self) -> None:
        """Let the denoiser compute with the exact weight."""

    def drop_gradient(self) -> None:
        """Free the gradient, and what a backward pass that was cut off has left of it."""
        self.weight.grad = self.stepped.grad = None


class Master(Kept):
    """A narrower weight: gradients add up and the optimizer steps in a float32 copy; the weight is it, rounded."""

    def __init__(self, name: str, weight: nn.Parameter) -> None:
        """Copy the weight."""
        super().__init__(name, weight)
        self.stepped = nn.Parameter(weight.detach().float())

    def receive(self, weight: nn.Parameter) -> None:
        """Add the gradient to the master's, in float32."""
        assert weight.grad is not None
        if self.stepped.grad is None:
            self.stepped.grad = weight.grad.float()
        else:
            self.stepped.grad += weight.grad
        weight.grad = None

    def show(self) -> None:
        """Round the master."""
        with torch.no_grad():
            self.weight.copy_(self.stepped)


class OwnPart(Kept):
    """A float32 weight that processes share: this one's part is stepped as if it were a weight of its own.

    So do optimizers whose state is in blocks of a weight: blocks end where the part ends.
    """

    def __init__(self, name: str, weight: nn.Parameter) -> None:
        """Take the part, which stays where it is."""
        assert weight.dtype == torch.float32, "a weight of fewer bits needs a master"
        super().__init__(name, weight)
        self.stepped = nn.Parameter(local_of(weight.detach()))

    @property
    def exact(self) -> nn.Parameter:
        """The weight itself, of which ``stepped`` is a view."""
        return self.weight

    @property
    def gradient(self) -> Tensor | None:
        """Of the part."""
        return None if self.weight.grad is None else local_of(self.weight.grad)

    def settle(self) -> None:
        """Step the part where it now lies: weights move in memory."""
        self.stepped.data = local_of(self.weight.detach())
        self.stepped.grad = self.gradient


class HostMaster(Kept):
    """A weight whose master, gradient and optimizer's state are in the host's memory."""

    def __init__(self, name: str, weight: nn.Parameter, stream: "torch.cuda.Stream | None") -> None:
        """Copy the weight; gradients travel on the stream while the backward pass goes on, if there is one."""
        super().__init__(name, weight)
        device = "meta" if weight.is_meta else "cpu"
        self._stream = stream
        self._travelling = torch.empty_like(weight, device=device, pin_memory=stream is not None, requires_grad=False)
        self._arrival: torch.cuda.Event | None = None
        self._is_owed = False
        self.stepped = nn.Parameter(weight.detach().to(device, torch.float32, copy=True))

    def receive(self, weight: nn.Parameter) -> None:
        """Send the gradient to the host, behind that of the micro-batch before."""
        assert weight.grad is not None
        self.settle()
        gradient, weight.grad = weight.grad, None
        if self._stream is None:
            self._travelling.copy_(gradient)
        else:
            self._stream.wait_stream(torch.cuda.current_stream(gradient.device))
            with torch.cuda.stream(self._stream):
                self._travelling.copy_(gradient, non_blocking=True)
            gradient.record_stream(self._stream)
            self._arrival = self._stream.record_event()
        self._is_owed = True

    def settle(self) -> None:
        """Add the gradient that travels to those that came before, in float32."""
        if self._is_owed:
            self._arrive()
            if self.stepped.grad is None:
                self.stepped.grad = self._travelling.to(torch.float32, copy=True)
            else:
                self.stepped.grad += self._travelling
            self._is_owed = False

    def show(self) -> None:
        """Round the master on the host, and send it."""
        self._arrive()
        with torch.no_grad():
            self._travelling.copy_(self.stepped)
            self.weight.copy_(self._travelling, non_blocking=True)
        if self._stream is not None:
            self._arrival = torch.cuda.current_stream(self.weight.device).record_event()

    def drop_gradient(self) -> None:
        """Free the gradient, the one that travels too."""
        self._is_owed = False
        super().drop_gradient()

    def _arrive(self) -> None:
        """Wait until what travels is there, and its memory can be written."""
        if self._arrival is not None:
            self._arrival.synchronize()
            self._arrival = None


class Rounded(Kept):
    """A weight of bfloat16 without a master: float32 only while it is stepped, then rounded stochastically."""

    def __init__(self, name: str, weight: nn.Parameter) -> None:
        """Make what stands in for the weight while it is stepped; it holds nothing else."""
        super().__init__(name, weight)
        self.stepped = nn.Parameter(nothing_like(weight, weight.device))
        self._gradient: Tensor | None = None

    @property
    def exact(self) -> nn.Parameter:
        """The weight itself."""
        return self.weight

    @property
    def gradient(self) -> Tensor | None:
        """In bfloat16 after one micro-batch, in float32 after several."""
        return self._gradient

    def receive(self, weight: nn.Parameter) -> None:
        """Keep the gradient; those of several micro-batches add up in float32."""
        assert weight.grad is not None
        self._gradient = weight.grad if self._gradient is None else self._gradient.float().add_(weight.grad)
        weight.grad = None

    @contextmanager
    def in_float32(self, *seed: object, factor: Tensor | None = None) -> Iterator[None]:
        """Step in float32, and round by draws of the seed, if the step succeeds."""
        assert self._gradient is not None
        there = None if factor is None else factor.to(self.weight.device)  # streamed weights are on the host
        try:
            self.stepped.data = self.weight.detach().float()
            self.stepped.grad = self._gradient.float() if there is None else self._gradient.float() * there
            self._gradient = None
            yield
            value = self.stepped.detach()
            self.weight.copy_(round_stochastically(value, rounding_noise(value, *seed, self.name)))
        finally:
            self.stepped.grad = None
            self.stepped.data = nothing_like(self.weight, self.weight.device)

    def drop_gradient(self) -> None:
        """Free the gradient."""
        self._gradient = None
        super().drop_gradient()


def nothing_like(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Return what has the shape of a tensor, and the memory of one number."""
    return torch.zeros((), device=device, dtype=torch.float32).expand(tensor.shape)


def expect_gradient(kept: Kept) -> None:
    """Let a weight hand over the gradient of each backward pass, unless it is kept with the weight."""
    if kept.exact is not kept.weight or isinstance(kept, Rounded):
        kept.weight.register_post_accumulate_grad_hook(kept.receive)
