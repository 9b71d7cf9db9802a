"""What the trainer costs beyond the work itself: its step against the same step written bare, in one process.

Both corrupt, run the transformer forward and backward, clip and step AdamW on the same batches. CPU-seconds, in turns,
with the median of the ratios of pairs. Target: <= 1.03.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from finetrainers.batch import Batch, Prompt
from finetrainers.cli.commands import quiet_libraries
from finetrainers.conditioning import Conditioning
from finetrainers.config import ModelConfig, OptimizerConfig, ScheduleConfig, TrainConfig
from finetrainers.config.tuning import LoraConfig
from finetrainers.models import Model, open_model
from finetrainers.objectives.flow import FlowMatching
from finetrainers.optim.optimizers import build_optimizer
from finetrainers.optim.schedules import build_schedule
from finetrainers.testing import make_tiny
from finetrainers.training.trainer import Trainer
from finetrainers.tuning import build_tuning
from finetrainers.tuning.base import trained_parameters

SIZES = {"flux": (1, 64, 64), "ltx_video": (9, 64, 64)}
BATCH_SIZE = 4


def make_trainer(model: Model) -> Trainer:
    """A trainer of a rank-16 LoRA in float32."""
    denoiser = model.pretrained.load("transformer")
    tuning = build_tuning(LoraConfig(rank=16, alpha=16))
    tuning.apply(denoiser, model.adapter, component=model.adapter.denoiser, seed=0)
    denoiser.train()
    optimizer = build_optimizer(OptimizerConfig(), trained_parameters(denoiser).values())
    return Trainer(
        config=TrainConfig(batch_size=BATCH_SIZE, micro_batch_size=BATCH_SIZE),
        seed=0,
        adapter=model.adapter,
        denoiser=denoiser,
        conditioning=Conditioning(),
        objective=FlowMatching(),
        optimizer=optimizer,
        schedule=build_schedule(ScheduleConfig(), optimizer, steps=1000),
        device=torch.device("cpu"),
        without_adapter=tuning.without_adapter,
    )


def make_batch(model: Model, size: tuple[int, int, int]) -> Batch:
    """Random samples of the family's shapes."""
    shape = (BATCH_SIZE, *model.adapter.grid.latent_shape(size))
    pretrained = model.pretrained
    names = [name for name in model.adapter.text.components]
    pipeline = pretrained.pipeline(model.pipeline_class, {name: pretrained.load(name) for name in names})
    with torch.no_grad():
        text = model.adapter.encode_prompt(
            pipeline, ["a red ball"] * BATCH_SIZE, max_length=model.max_length, device=torch.device("cpu")
        )
    sigma = torch.rand(BATCH_SIZE, 1).expand(BATCH_SIZE, shape[2]).contiguous()
    return Batch(
        positions=torch.arange(BATCH_SIZE),
        latents=torch.randn(shape),
        noise=torch.randn(shape),
        sigma=sigma,
        loss_mask=None,
        prompt=Prompt(text, torch.full((BATCH_SIZE,), 25.0 if size[0] > 1 else 0.0)),
    )


def bare_step(trainer: Trainer, batch: Batch) -> None:
    """The same step with nothing around it."""
    sigma = batch.sigma[:, None, :, None, None]
    x = (1 - sigma) * batch.latents + sigma * batch.noise
    prediction = trainer.adapter.denoise(trainer.denoiser, x, batch.sigma, batch.prompt)
    loss = (prediction - (batch.noise - batch.latents)).square().mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trainer.parameters, 1.0)
    trainer.optimizer.step()
    trainer.schedule.step()
    trainer.optimizer.zero_grad(set_to_none=True)


def cpu_seconds(function: Any, *arguments: Any) -> float:
    """CPU time of one call, all threads."""
    start = time.process_time()
    function(*arguments)
    return time.process_time() - start


def measure(family: str, pairs: int) -> tuple[float, float, float]:
    """Median ratio of trainer step to bare step, and both medians in CPU-seconds."""
    with tempfile.TemporaryDirectory() as directory:
        model = open_model(ModelConfig(path=str(make_tiny(family, Path(directory))), dtype="float32"))
        trainer, batch = make_trainer(model), make_batch(model, SIZES[family])
        for _ in range(5):
            trainer.train_step(batch)
            bare_step(trainer, batch)
        ours, bare = [], []
        for index in range(pairs):
            # In turns, and each first in half of the pairs: drifts of the machine hit both.
            steps = [(trainer.train_step, (batch,), ours), (bare_step, (trainer, batch), bare)]
            for step, arguments, times in steps if index % 2 else reversed(steps):
                times.append(cpu_seconds(step, *arguments))
    return (
        statistics.median(a / b for a, b in zip(ours, bare, strict=True)),
        statistics.median(ours),
        statistics.median(bare),
    )


def main() -> None:
    """Print one line for each family."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--quick", action="store_true", help="two pairs: shows that it runs, no figures to quote")
    options = parser.parse_args()
    pairs = 2 if options.quick else options.pairs
    quiet_libraries()
    torch.manual_seed(0)
    for family in SIZES:
        ratio, ours, bare = measure(family, pairs)
        print(f"{family}: trainer / bare = {ratio:.3f} (medians {ours * 1e3:.2f} / {bare * 1e3:.2f} ms CPU, {pairs} pairs)")


if __name__ == "__main__":
    main()
