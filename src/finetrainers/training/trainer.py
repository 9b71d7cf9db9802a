"""The training loop. There is one."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from finetrainers.batch import Batch, cast_floats
from finetrainers.conditioning import Conditioning
from finetrainers.config import TrainConfig
from finetrainers.data.order.draws import seed_of
from finetrainers.distributed.world import World, alone
from finetrainers.errors import ConfigError, NonFiniteError
from finetrainers.models import ModelAdapter
from finetrainers.models.experts import expert_of
from finetrainers.models.padding import trim_padding
from finetrainers.models.stated import about_given, check_velocity
from finetrainers.objectives.base import Objective, Predict, losses_of
from finetrainers.optim.update import Update


class Asked(NamedTuple):
    """What a process, or any of them, is asked for."""

    stop: bool = False
    save: bool = False
    is_writing: bool = False
    """Whether a checkpoint is still being written."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """What one optimizer step was like."""

    step: int
    """Number of the step, the first is 1; ``Trainer.step`` does not count one that stopped the run."""
    loss: float
    """Mean over the samples, each times what it counts."""
    sample_losses: Tensor
    """[batch_size], each times what it counts; still on the device."""
    grad_norm: float
    """Norm of the whole gradient before clipping."""
    positions: Tensor
    """[batch_size] int64, on the CPU."""
    lr: float
    num_tokens: int
    """Latent tokens of all samples."""
    data_seconds: float
    """Time that the step waited for its batch."""
    began: float
    """When the step asked for its batch, by time.perf_counter()."""
    asked: Asked
    """What any of the processes was asked for before the step was done."""

    @property
    def is_finite(self) -> bool:
        """Whether the step could be taken."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


AfterStep = Callable[["Trainer", Metrics], None]


@dataclass(kw_only=True)
class Trainer:
    """Takes optimizer steps; knows nothing of any model family, data set or tracker."""

    config: TrainConfig
    seed: int
    adapter: ModelAdapter
    denoiser: nn.Module
    conditioning: Conditioning
    objective: Objective
    update: Update
    device: torch.device
    without_adapter: Callable[[nn.Module], AbstractContextManager[None]]
    """Lets the denoiser answer as the base model does."""
    after_step: tuple[AfterStep, ...] = ()
    """Log, save, validate: called in this order, each deciding whether it is due."""
    dtype: torch.dtype = torch.float32
    """Of all computation."""
    attention: Callable[[], AbstractContextManager[None]] = nullcontext
    attention_in_validation: Callable[[], AbstractContextManager[None]] = nullcontext
    trims_prompts: bool = True
    """Whether prompts are cut to the longest of their micro-batch, where the family masks the rest."""
    explained: Callable[[Sequence[int]], AbstractContextManager[object]] = nullcontext
    """Says of an error in a forward pass, by the shape of its latents, what it means to the user."""
    world: World = field(default_factory=alone)
    """Processes that each take some of the samples."""
    asked: Callable[[], Asked] = Asked
    """Says what this process is asked for."""
    predict: Predict = field(init=False)
    """Asks the denoiser as it is now."""
    step: int = 0
    """Optimizer steps taken; a restored one is where training goes on."""
    is_over: bool = False
    """Whether no further step is to be taken."""

    def __post_init__(self) -> None:
        self.predict = Denoising(self)

    def run(self, batches: Iterator[Batch], *, stop: int) -> None:
        """Train until ``stop`` optimizer steps are taken, one batch each, or training is over.

        Raises:
            NonFiniteError: If a loss or a gradient is not finite, and such steps are not skipped.
        """
        self.denoiser.train()
        while self.step < stop and not self.is_over:
            start = time.perf_counter()
            batch = next(batches)
            metrics = self.train_step(batch, data_seconds=time.perf_counter() - start)
            is_taken = self._is_taken(metrics)
            self.step += is_taken
            self.update.is_whole = is_taken or not self.update.is_in_backward  # which has stepped what is finite
            for callback in self.after_step:
                callback(self, metrics)
            if not is_taken:
                raise NonFiniteError(f"step {metrics.step}: the loss or the gradient is not finite")

    def train_step(self, batch: Batch, *, data_seconds: float = 0.0) -> Metrics:
        """One optimizer step over a whole batch, taken in micro-batches; the weights see only what is finite."""
        start = time.perf_counter()
        count = len(batch.positions) * self.world.layout.data_size
        rows = self.world.rows(count)
        with self.attention():  # the backward pass too: gradient checkpointing computes attention again in it
            micros = batch.split(self.config.micro_batch_size)
            first = rows.start // self.config.micro_batch_size
            losses = [self._backward(micro, first + n, is_last=n + 1 == len(micros)) for n, micro in enumerate(micros)]
        own = torch.cat(losses)
        figures, norm = self.update.reduce(self._figures(own, rows, count))
        self.update.clip(norm)
        sample_losses, asked = figures[:count], figures[count:]
        # The step's one wait for the device, before the update: one that is not finite could not be taken back.
        loss, grad_norm, *flags = torch.cat([sample_losses.mean()[None], norm[None], asked]).tolist()
        metrics = Metrics(
            step=self.step + 1,
            loss=loss,
            sample_losses=sample_losses,
            grad_norm=grad_norm,
            positions=batch.positions if self.world.is_alone else torch.arange(count) + batch.positions[0] - rows.start,
            lr=float(self.update.schedule.get_last_lr()[0]),
            num_tokens=count * self.adapter.grid.tokens_of_latents(tuple(batch.latents.shape[2:])),
            data_seconds=data_seconds,
            began=start - data_seconds,
            asked=Asked(*(flag > 0 for flag in flags)),
        )
        if self._is_taken(metrics):
            self.update.step(is_finite=metrics.is_finite)
        self.update.drop_gradients()
        return metrics

    def _is_taken(self, metrics: Metrics) -> bool:
        """Whether a step counts, be it without an update."""
        return metrics.is_finite or self.config.non_finite == "skip"

    def _figures(self, losses: Tensor, rows: slice, count: int) -> Tensor:
        """What is added up over the processes: losses of all samples, 0 here for those of others, and what is asked for."""
        figures = losses.new_zeros(count + len(Asked._fields))
        if self.world.context_rank == 0:  # the others have the same samples
            figures[rows] = losses
        for place, is_so in enumerate(self.asked(), start=count):
            figures[place].fill_(float(is_so))  # a copy from the host would wait for the backward pass
        return figures

    def _backward(self, micro: Batch, index: int, *, is_last: bool) -> Tensor:
        """Add the gradient of one micro-batch; return the detached loss of each of its samples.

        Args:
            micro: Samples of this process.
            index: Of the micro-batch, among those of all processes.
            is_last: Whether it is the last of the step.
        """
        # Dropout draws belong to the step, so that a resumed run needs no saved state and validation disturbs none.
        seed_device(self.device, seed_of(self.seed, "dropout", self.step, index) >> 1)
        losses = self.micro_losses(self.on_device(micro))
        self.update.backward(losses, batch_size=self.config.batch_size, is_last=is_last)
        return losses.detach()

    def on_device(self, micro: Batch) -> Batch:
        """Copy a micro-batch to the device; the padding of its prompts is cut off before, where lengths are known."""
        if self.trims_prompts:
            micro = replace(micro, prompt=replace(micro.prompt, text=trim_padding(micro.prompt.text, self.adapter.text)))
        return micro.to(self.device)

    def micro_losses(self, batch: Batch) -> Tensor:
        """Loss of each sample, shape [B], in float32, times what it counts."""
        losses = losses_of(self.objective, self.predict, batch)
        if torch.is_grad_enabled() and not losses.requires_grad:
            raise ConfigError(
                f"objective.kind: {type(self.objective).__name__}.losses has no gradient; let it depend on what predict "
                "answers, without detach() or no_grad()"
            )
        return losses if batch.weight is None else losses * batch.weight


@dataclass(frozen=True, slots=True)
class Denoising:
    """What a trainer hands to its objective as ``predict``."""

    trainer: Trainer

    def __call__(self, x: Tensor, sigma: Tensor, batch: Batch) -> Tensor:
        """Velocity [B, C, F, H, W] that the denoiser answers.

        Raises:
            ModelError: If the adapter returns something else.
        """
        trainer = self.trainer
        seen, told = trainer.conditioning.model_input(x, batch)
        text, image = ({k: cast_floats(v, trainer.dtype) for k, v in part.items()} for part in (told.text, told.image))
        references = tuple(reference.to(trainer.dtype) for reference in told.references)
        told = replace(told, text=text, image=image, references=references)
        assert batch.level is not None
        denoiser = expert_of(trainer.denoiser, batch.level)
        with trainer.explained(x.shape):
            try:
                answer = trainer.adapter.denoise(denoiser, seen.to(trainer.dtype), sigma, told)
            except (RuntimeError, ValueError, TypeError, IndexError, KeyError) as error:
                error.add_note(about_given(seen, told))
                raise
        return check_velocity(answer, trainer.adapter, x.shape)

    def base(self, x: Tensor, sigma: Tensor, batch: Batch) -> Tensor:
        """What the base model answers, [B, C, F, H, W].

        Raises:
            ConfigError: If the tuning has left nothing of it.
        """
        # Without a gradient: gradient checkpointing would compute it again after the adapter is back.
        with self.trainer.without_adapter(self.trainer.denoiser), torch.no_grad():
            return self(x, sigma, batch)


def seed_device(device: torch.device, seed: int) -> None:
    """Seed the generator that modules on the device draw from; torch.manual_seed asks all backends there are, each time."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)
