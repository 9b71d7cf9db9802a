"""From losses to new weights: precision, accumulation, clipping, the finite check and averages."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from finetrainers.distributed.parallelize import Sharing, local_of
from finetrainers.distributed.world import World, alone
from finetrainers.optim.gathered import Gathered
from finetrainers.optim.kept import HostMaster, Kept, Master, OwnPart, Rounded, expect_gradient
from finetrainers.optim.one_by_one import OneByOne, Seed, groups_of, norm_of, split_groups
from finetrainers.optim.optimizers import optimizer_eval_weights
from finetrainers.optim.state import load_optimizer_state, no_learning_rate, optimizer_state

CLIP_EPS = 1e-6
"""As in torch's clip_grad_norm_."""

MakeOptimizer = Callable[[Sequence[nn.Parameter]], Optimizer]
MakeSchedule = Callable[[Optimizer], LRScheduler]


class Update:
    """Owns what changes the weights of a denoiser, and all state of it.

    The denoiser computes with weights of the type that it was loaded in. Where that is narrower than float32, each weight
    that trains has a float32 master: gradients of all micro-batches add up there, the optimizer steps there, and the weight
    is its master, rounded. So updates of a small learning rate do not round to nothing, and training computes what sampling
    does. Without masters, a weight is rounded stochastically after each step.
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
        rounding_seed: int | None = None,
        is_on_host: bool = False,
        is_in_backward: bool = False,
        steps_parts: bool = False,
        gathers: bool = False,
        world: World | None = None,
    ) -> None:
        """Take the weights that train, by their names in the denoiser, and make what they are updated by.

        Args:
            denoiser: Has the weights, and is asked with them.
            weights: All that trains.
            make_optimizer: Given float32 parameters.
            make_schedule: Of the optimizer's learning rate.
            clip_norm: Largest norm of the gradient; inf clips nothing.
            ema_decay: Of averages of the weights.
            rounding_seed: Narrow weights have no masters, and are rounded by draws of this seed.
            is_on_host: Masters, gradients and the optimizer's state are in the host's memory, and it takes the steps.
            is_in_backward: Each weight is stepped as soon as its gradient is there, which is then freed.
            steps_parts: Of weights that processes share, each steps its part as a weight of its own.
            gathers: Of weights that processes share, each steps the whole, one after the other, and keeps its part.
            world: Processes that each see other samples, or other tokens of the same; None alone.
        """
        self._denoiser = denoiser
        self._world = alone() if world is None else world
        self._clip_norm = clip_norm
        self._rounding_seed = rounding_seed
        self.is_in_backward = is_in_backward
        """Whether ``backward`` takes the step."""
        of_shared = OwnPart if steps_parts else Gathered if gathers else None
        self._kept = _keep(weights, rounds=rounding_seed is not None, is_on_host=is_on_host, of_shared=of_shared)
        self._shared = [kept for kept in self._kept if isinstance(kept.weight, DTensor)]
        """Of which each process has a part, and whose gradients are added up in the backward pass."""
        self._whole = [kept for kept in self._kept if not isinstance(kept.weight, DTensor)]
        self._sharing = Sharing(denoiser, weights.values()) if self._shared else None
        self.parameters = [kept.exact for kept in self._kept]
        """What is trained, as exactly as it is kept: in float32, unless weights are rounded stochastically."""
        self.optimizer = make_optimizer([kept.stepped for kept in self._kept])
        self._one_by_one: OneByOne | None = None
        """Steps one weight after the other, where the optimizer does not step all of them at once."""
        if is_in_backward or rounding_seed is not None:
            self._one_by_one = OneByOne(self.optimizer, split_groups(self.optimizer))
        elif gathers and self._shared:
            groups = groups_of(self.optimizer)  # as one process has them, which may go on with the run
            self._one_by_one = OneByOne(self.optimizer, groups)
        for kept in self._kept:
            expect_gradient(kept)
            if is_in_backward:
                kept.weight.register_post_accumulate_grad_hook(partial(self._step_in_backward, kept))
        self.schedule = make_schedule(self.optimizer)
        self.ema = _make_ema(self.parameters, ema_decay)
        """diffusers' EMAModel over the parameters, or None."""
        self.num_skipped = 0
        """Steps whose update was left out because it was not finite."""
        self.is_whole = True
        """Whether weights, optimizer, averages and schedule are those after one number of steps, and so may be saved."""

    def backward(self, losses: Tensor, *, batch_size: int, is_last: bool = True) -> None:
        """Add the gradient of the losses [b] of one micro-batch, as a part of the mean over a whole batch.

        Args:
            losses: Of this process.
            batch_size: Samples of the whole batch.
            is_last: Whether it is the last micro-batch of the step.
        """
        if self._sharing is not None:
            self._sharing.before_backward(is_last=is_last)
        self.is_whole = self.is_whole and not self.is_in_backward
        losses.backward(losses.new_full(losses.shape, 1 / batch_size))

    def reduce(self, figures: Tensor) -> tuple[Tensor, Tensor]:
        """Add up over all processes the gradients of the whole batch, and figures that each has for its own samples.

        Args:
            figures: [n] float32, on the device.

        Returns:
            The sums [n], and the norm of the whole gradient; both are on the device, and nobody has waited for them.
        """
        for kept in self._kept:
            kept.settle()
        self._world.sums([kept.gradient for kept in self._whole if kept.gradient is not None])
        if not self._shared:
            self._world.sums([figures])
            return figures, self._norm().to(figures.device)
        # Of each part there are as many as there are copies of the weights.
        squares = [norm_of(gradient).square() for gradient in self._gradients(self._shared)]
        square = torch.stack(squares).sum() / self._world.layout.replicate if squares else torch.zeros(())
        told = torch.cat([figures, square.to(figures)[None]])
        self._world.sums([told])
        norms = [norm_of(gradient).to(told.device) for gradient in self._gradients(self._whole)]
        return told[:-1], norm_of(torch.stack([told[-1].sqrt(), *norms]))

    @staticmethod
    def _gradients(kept: Sequence[Kept]) -> list[Tensor]:
        """Gradients of these weights, as far as they are in this process."""
        return [local_of(own.gradient) for own in kept if own.gradient is not None]

    def clip(self, norm: Tensor) -> None:
        """Clip the gradient of the whole batch, which has this norm."""
        if not self._shared and self._one_by_one is None:
            nn.utils.clip_grads_with_norm_(self.parameters, self._clip_norm, norm)
            return
        factor = (self._clip_norm / (norm + CLIP_EPS)).clamp(max=1.0)
        if self._shared or self._one_by_one is None:
            for gradient in self._gradients(self._kept):
                gradient.mul_(factor.to(gradient.device))
        else:
            self._one_by_one.factor = factor

    def _norm(self) -> Tensor:
        """Norm of the gradients that are in this process."""
        if self._one_by_one is None:
            return nn.utils.get_total_norm([kept.gradient for kept in self._kept if kept.gradient is not None])
        return self._one_by_one.norm(self._kept)

    def step(self, *, is_finite: bool) -> None:
        """Change what is trained, unless the step is not finite, and go on in the schedule.

        Whoever counts the step sets ``is_whole`` again.
        """
        self.is_whole = False
        if is_finite:
            self._step()
            if self.ema is not None:
                self.ema.step(self.parameters)
        else:
            self.num_skipped += 1
        self.schedule.step()

    def drop_gradients(self) -> None:
        """Free the gradients, those too that a backward pass has left that was cut off."""
        for kept in self._kept:
            kept.drop_gradient()

    def round(self) -> None:
        """Let the denoiser compute with what the masters are now."""
        for kept in self._kept:
            kept.show()
        if self._sharing is not None:
            self._sharing.let_go()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Put the weights that are meant for use (averaged ones, if there are) in the place of those that train."""
        was_whole, self.is_whole = self.is_whole, False  # until those that train are back
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
            self.is_whole = was_whole

    @contextmanager
    def masters(self) -> Iterator[None]:
        """Let the denoiser hold the masters themselves, to be saved or restored; it is not asked meanwhile."""
        away = [kept for kept in self._kept if kept.exact is not kept.weight]
        for kept in away:
            _set_parameter(self._denoiser, kept.name, kept.exact)
        try:
            yield
        finally:
            for kept in away:
                _set_parameter(self._denoiser, kept.name, kept.weight)
            self.round()

    def optimizer_state(self) -> dict[str, Any]:
        """Return the optimizer's state by the names of the weights, as files know it."""
        cut = {own.name: own.weight for own in self._shared if isinstance(own, OwnPart) and isinstance(own.weight, DTensor)}
        return optimizer_state(self.optimizer, {kept.stepped: kept.name for kept in self._kept}, cut)

    def load_optimizer_state(self, saved: Mapping[str, Any]) -> None:
        """Put the optimizer's state back.

        Raises:
            ValueError: If it is that of other weights.
        """
        load_optimizer_state(self.optimizer, {kept.stepped: kept.name for kept in self._kept}, saved)

    def begin_state(self) -> None:
        """Let the optimizer make all the state that it will ever have, by a step that changes no weight."""
        with no_learning_rate(self.optimizer):
            for kept in self._kept:
                kept.weight.grad = torch.zeros_like(kept.weight)
                kept.receive(kept.weight)
                kept.settle()
                if self._one_by_one is not None:
                    self._one_by_one.step(kept, self._seed())
            if self._one_by_one is None:
                self.optimizer.step()
        self.drop_gradients()

    def _step(self) -> None:
        """Step all weights, unless the backward pass has."""
        if self._one_by_one is None:
            self.optimizer.step()
            self.round()
        elif not self.is_in_backward:
            self._one_by_one.step_all(self._kept, self._seed())
            if self._shared:
                self.round()

    def _step_in_backward(self, kept: Kept, _: nn.Parameter) -> None:
        assert self._one_by_one is not None
        self._one_by_one.step_if_finite(kept, self._seed())

    def _seed(self) -> Seed:
        """Of the draws by which this step rounds."""
        return self._rounding_seed, "rounding", self.schedule.last_epoch


def _keep(
    weights: Mapping[str, nn.Parameter],
    *,
    rounds: bool,
    is_on_host: bool,
    of_shared: Callable[[str, nn.Parameter], Kept] | None,
) -> list[Kept]:
    """Decide for each weight how it is kept."""
    if is_on_host:
        devices = {weight.device for weight in weights.values() if weight.is_cuda}  # streamed weights are on the host
        streams = {device: torch.cuda.Stream(device) for device in devices}
        return [HostMaster(name, weight, streams.get(weight.device)) for name, weight in weights.items()]
    narrow = Rounded if rounds else Master

    def keep(name: str, weight: nn.Parameter) -> Kept:
        if of_shared is not None and isinstance(weight, DTensor):
            return of_shared(name, weight)
        return Kept(name, weight) if weight.dtype == torch.float32 else narrow(name, weight)

    return [keep(name, weight) for name, weight in weights.items()]


def _set_parameter(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
    owner, _, own = name.rpartition(".")
    setattr(module.get_submodule(owner), own, parameter)


def _make_ema(parameters: Sequence[nn.Parameter], decay: float | None) -> Any:
    if decay is None:
        return None
    from diffusers.training_utils import EMAModel

    ema = EMAModel(parameters, decay=decay)
    ema.shadow_params = [average.float() for average in ema.shadow_params]  # else it would not move in bfloat16
    return ema
