"""From losses to new weights: precision, accumulation, clipping, the finite check and averages."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from finetrainers.optim.optimizers import optimizer_eval_weights

MakeOptimizer = Callable[[Sequence[nn.Parameter]], Optimizer]
MakeSchedule = Callable[[Optimizer], LRScheduler]


class Update:
    """Owns what changes the weights of a denoiser, and all state of it.

    The denoiser computes with weights of the type that it was loaded in. Where that is narrower than float32, each weight
    that trains has a float32 master: gradients of all micro-batches add up there, the optimizer steps there, and the weight
    is its master, rounded. So updates of a small learning rate do not round to nothing, and training computes what sampling
    does.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        weights: Mapping[str, nn.Parameter],
        *,
        make_optimizer: MakeOptimizer,
        make_schedule: MakeSchedule,
        clip_norm: float,
        ema_decay: float | None = None,
    ) -> None:
        """Take the weights that train, by their names in the denoiser, and make what they are updated by."""
        self._denoiser = denoiser
        self._clip_norm = clip_norm
        self._masters = {name: _master_of(weight) for name, weight in weights.items()}
        self._rounded = {name: weight for name, weight in weights.items() if self._masters[name] is not weight}
        for name, weight in self._rounded.items():
            weight.register_post_accumulate_grad_hook(partial(_hand_over_gradient, self._masters[name]))
        self.parameters = list(self._masters.values())
        """What the optimizer steps: float32."""
        self.optimizer = make_optimizer(self.parameters)
        self.schedule = make_schedule(self.optimizer)
        self.ema = _make_ema(self.parameters, ema_decay)
        """diffusers' EMAModel over the parameters, or None."""
        self.num_skipped = 0
        """Steps whose update was left out because it was not finite."""
        self.is_whole = True
        """Whether weights, optimizer, averages and schedule are those after one number of steps, and so may be saved."""

    def backward(self, losses: Tensor, *, batch_size: int) -> None:
        """Add the gradient of the losses [b] of one micro-batch, as a part of the mean over a whole batch."""
        losses.backward(losses.new_full(losses.shape, 1 / batch_size))

    def clip(self) -> Tensor:
        """Clip the gradient of the whole batch; return its norm before that, still on the device."""
        return nn.utils.clip_grad_norm_(self.parameters, self._clip_norm)

    def step(self, *, is_finite: bool) -> None:
        """Change what is trained, unless the step is not finite, and go on in the schedule.

        Whoever counts the step sets ``is_whole`` again.
        """
        self.is_whole = False
        if is_finite:
            self.optimizer.step()
            self.round()
            if self.ema is not None:
                self.ema.step(self.parameters)
        else:
            self.num_skipped += 1
        self.schedule.step()

    def drop_gradients(self) -> None:
        """Free the gradients."""
        self.optimizer.zero_grad(set_to_none=True)
        for weight in self._rounded.values():
            weight.grad = None  # left where a backward pass was cut off

    def round(self) -> None:
        """Let the denoiser compute with what the masters are now."""
        with torch.no_grad():
            for name, weight in self._rounded.items():
                weight.copy_(self._masters[name])

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Put the weights that are meant for use (averaged ones, if there are) in the place of those that train."""
        self.is_whole = False  # until those that train are back
        with ExitStack() as stack:
            stack.callback(self.round)  # the last of all
            stack.enter_context(optimizer_eval_weights(self.optimizer))
            if self.ema is not None:
                self.ema.store(self.parameters)
                stack.callback(self.ema.restore, self.parameters)
                self.ema.copy_to(self.parameters)
            self.round()
            back = stack.pop_all()
        try:
            yield
        finally:
            back.close()
            self.is_whole = True

    @contextmanager
    def masters(self) -> Iterator[None]:
        """Let the denoiser hold the masters themselves, to be saved or restored; it is not asked meanwhile."""
        for name in self._rounded:
            _set_parameter(self._denoiser, name, self._masters[name])
        try:
            yield
        finally:
            for name, weight in self._rounded.items():
                _set_parameter(self._denoiser, name, weight)
            self.round()


def _master_of(weight: nn.Parameter) -> nn.Parameter:
    return weight if weight.dtype == torch.float32 else nn.Parameter(weight.detach().float())


def _hand_over_gradient(master: nn.Parameter, weight: nn.Parameter) -> None:
    """Add the gradient of one backward pass to the master's, in float32."""
    assert weight.grad is not None
    if master.grad is None:
        master.grad = weight.grad.float()
    else:
        master.grad += weight.grad
    weight.grad = None


def _set_parameter(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
    owner, _, own = name.rpartition(".")
    setattr(module.get_submodule(owner), own, parameter)


def _make_ema(parameters: Sequence[nn.Parameter], decay: float | None) -> Any:
    if decay is None:
        return None
    from diffusers.training_utils import EMAModel

    return EMAModel(parameters, decay=decay)
