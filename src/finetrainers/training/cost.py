"""What one optimizer step will take, counted before a weight is read."""

from dataclasses import dataclass

import torch

from finetrainers.config import Bucket, Config
from finetrainers.memory.meta import META, fused_attention
from finetrainers.memory.meter import Meter, Usage
from finetrainers.models import Model
from finetrainers.training.build import build_trainer
from finetrainers.training.objective import build_objective
from finetrainers.training.synthetic import synthetic_batch
from finetrainers.training.trainer import Trainer
from finetrainers.tuning import build_tuning


@dataclass(frozen=True, slots=True)
class StepCost:
    """What one optimizer step takes."""

    usage: Usage
    num_trained: int
    """Weights that train."""

    @property
    def peak_bytes(self) -> int:
        """The most bytes that are in memory at once."""
        return self.usage.peak_bytes


def predict_step(config: Config, model: Model, bucket: Bucket) -> StepCost:
    """Take two steps of a run's own trainer on the meta device; the second has all that the first has made.

    Not counted: what a CUDA context and libraries hold, and what kernels allocate inside.
    """
    with torch.random.fork_rng(devices=[]):
        return measure_steps(build_meta_trainer(config, model), config, model, bucket)


def build_meta_trainer(config: Config, model: Model) -> Trainer:
    """Build a run's trainer without any memory."""
    tuning = build_tuning(config.tuning.model_copy(update={"start_from": None}))
    return build_trainer(config, model, objective=build_objective(config, model), tuning=tuning, device=META, weights="none")


def measure_steps(trainer: Trainer, config: Config, model: Model, bucket: Bucket) -> StepCost:
    """Take two steps of a trainer on the meta device, and count the second."""
    batch = synthetic_batch(config, model, bucket, config.train.batch_size, device=torch.device("cpu"))
    trainer.denoiser.train()
    update, meter = trainer.update, Meter()
    meter.label("weights", [*trainer.denoiser.parameters(), *trainer.denoiser.buffers()])
    meter.label("masters", update.parameters)
    meter.label("trained", [own for own in trainer.denoiser.parameters() if own.requires_grad])
    for _ in range(2):
        meter.reset()
        with fused_attention(), meter:
            trainer.train_step(batch)
        states = [
            own for state in update.optimizer.state.values() for own in state.values() if isinstance(own, torch.Tensor)
        ]
        meter.label("states", states)
    return StepCost(meter.usage(), sum(own.numel() for own in update.parameters))
