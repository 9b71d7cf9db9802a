"""The training loop. There is one."""

import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from finetrainers.batch import Batch, cast_floats
from finetrainers.conditioning import Conditioning
from finetrainers.config import TrainConfig
from finetrainers.data.order.draws import seed_of
from finetrainers.errors import NonFiniteError
from finetrainers.models import ModelAdapter
from finetrainers.objectives.base import Objective, Predict, losses_of
from finetrainers.tuning.base import trained_parameters


@dataclass(frozen=True, slots=True)
class Metrics:
    """What one optimizer step was like."""

    step: int
    """Number of the step, the first is 1; ``Trainer.step`` does not count one that stopped the run."""
    loss: float
    """Mean over the samples."""
    sample_losses: Tensor
    """[batch_size], still on the device."""
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
    optimizer: Optimizer
    schedule: LRScheduler
    device: torch.device
    without_adapter: Callable[[nn.Module], AbstractContextManager[None]]
    """Lets the denoiser answer as the base model does."""
    ema: Any = None
    """diffusers' EMAModel over the trained parameters, or None."""
    after_step: tuple[AfterStep, ...] = ()
    """Log, save, validate: called in this order, each deciding whether it is due."""
    dtype: torch.dtype = torch.float32
    """Of the frozen weights and of all computation with them."""
    needs_autocast: bool = False
    attention: Callable[[], AbstractContextManager[None]] = nullcontext
    predict: Predict = field(init=False)
    """Asks the denoiser as it is now."""
    step: int = 0
    """Optimizer steps taken; a restored one is where training goes on."""
    num_skipped: int = 0
    """Steps whose update was left out because it was not finite."""
    is_whole: bool = True
    """Whether weights, optimizer, averages and schedule are those after ``step`` steps, and so may be saved."""

    def __post_init__(self) -> None:
        self.parameters = list(trained_parameters(self.denoiser).values())
        self.predict = Denoising(self)

    def run(self, batches: Iterator[Batch], *, stop: int) -> None:
        """Train until ``stop`` optimizer steps are taken, one batch each.

        Raises:
            NonFiniteError: If a loss or a gradient is not finite, and such steps are not skipped.
        """
        self.denoiser.train()
        while self.step < stop:
            start = time.perf_counter()
            batch = next(batches)
            metrics = self.train_step(batch, data_seconds=time.perf_counter() - start)
            is_taken = self._is_taken(metrics)
            self.step += is_taken
            self.is_whole = True
            for callback in self.after_step:
                callback(self, metrics)
            if not is_taken:
                raise NonFiniteError(f"step {metrics.step}: the loss or the gradient is not finite")

    def train_step(self, batch: Batch, *, data_seconds: float = 0.0) -> Metrics:
        """One optimizer step over a whole batch, taken in micro-batches; the weights see only what is finite."""
        start = time.perf_counter()
        with self.attention():  # the backward pass too: gradient checkpointing computes attention again in it
            micros = batch.split(self.config.micro_batch_size)
            losses = [self._backward(micro, index) for index, micro in enumerate(micros)]
        sample_losses = torch.cat(losses)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm)
        # The step's one wait for the device, before the update: one that is not finite could not be taken back.
        loss, grad_norm = torch.stack([sample_losses.mean(), norm]).tolist()
        metrics = Metrics(
            step=self.step + 1,
            loss=loss,
            sample_losses=sample_losses,
            grad_norm=grad_norm,
            positions=batch.positions,
            lr=float(self.schedule.get_last_lr()[0]),
            num_tokens=len(batch.positions) * self.adapter.grid.tokens_of_latents(tuple(batch.latents.shape[2:])),
            data_seconds=data_seconds,
            began=start - data_seconds,
        )
        if self._is_taken(metrics):
            self._update(metrics)
        self.optimizer.zero_grad(set_to_none=True)
        return metrics

    def _is_taken(self, metrics: Metrics) -> bool:
        """Whether a step counts, be it without an update."""
        return metrics.is_finite or self.config.non_finite == "skip"

    def _update(self, metrics: Metrics) -> None:
        """Change what is trained; whoever counts the step makes the state whole again."""
        self.is_whole = False
        if metrics.is_finite:
            self.optimizer.step()
            if self.ema is not None:
                self.ema.step(self.parameters)
        else:
            self.num_skipped += 1
        self.schedule.step()

    def _backward(self, micro: Batch, index: int) -> Tensor:
        """Add the gradient of one micro-batch; return the detached loss of each of its samples."""
        # Dropout draws belong to the step, so that a resumed run needs no saved state and validation disturbs none.
        seed_device(self.device, seed_of(self.seed, "dropout", self.step, index) >> 1)
        losses = self.micro_losses(micro.to(self.device))
        losses.backward(
            losses.new_full(losses.shape, 1 / self.config.batch_size)
        )  # of their sum over the whole batch, / size
        return losses.detach()

    def micro_losses(self, batch: Batch) -> Tensor:
        """Loss of each sample, shape [B], in float32."""
        return losses_of(self.objective, self.predict, batch)

    def autocast(self) -> AbstractContextManager[None]:
        """Make the context of one forward pass; null where all weights share a type."""
        # One autocast for each forward pass: its cache of cast weights would hide updates from the next step.
        if self.needs_autocast and self.dtype != torch.float32:
            return _mixed(self.device, self.dtype)
        return nullcontext()


@dataclass(frozen=True, slots=True)
class Denoising:
    """What a trainer hands to its objective as ``predict``."""

    trainer: Trainer

    def __call__(self, x: Tensor, sigma: Tensor, batch: Batch) -> Tensor:
        """Velocity [B, C, F, H, W] that the denoiser answers."""
        trainer = self.trainer
        seen, told = trainer.conditioning.model_input(x, batch)
        text, image = ({k: cast_floats(v, trainer.dtype) for k, v in part.items()} for part in (told.text, told.image))
        references = tuple(reference.to(trainer.dtype) for reference in told.references)
        told = replace(told, text=text, image=image, references=references)
        with trainer.autocast():
            return trainer.adapter.denoise(trainer.denoiser, seen.to(trainer.dtype), sigma, told)

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


@contextmanager
def _mixed(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Autocast; torch's remark that a norm's float32 weight meets a narrower input is what mixed precision means."""
    with warnings.catch_warnings(), torch.autocast(device.type, dtype):
        warnings.filterwarnings("ignore", "Mismatch dtype between input and weight", UserWarning)
        yield
