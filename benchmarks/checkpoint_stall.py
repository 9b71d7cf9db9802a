"""How long training stands still for a checkpoint: staging it, against staging and writing it, in one process on the CPU.

The state is that of float32 weights with AdamW and averages, 16 bytes a weight. Seconds of the clock, the disk's flush
included; medians. On a CPU staging is a copy in memory; on a GPU it is one over PCIe into pinned memory.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from finetrainers.config import TrainConfig
from finetrainers.optim.update import Update
from finetrainers.training.checkpoint.checkpoints import Checkpoints
from finetrainers.training.trainer import Trainer

WIDTH = 1024
"""Of a layer, which has so many rows of so many weights."""


def make_trainer(num_layers: int) -> Trainer:
    """A trainer of layers that never train: nothing but its state matters here."""
    layers = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(num_layers)))
    update = Update(
        layers,
        dict(layers.named_parameters()),
        make_optimizer=torch.optim.AdamW,
        make_schedule=lambda made: torch.optim.lr_scheduler.LambdaLR(made, lambda _: 1.0),
        clip_norm=1.0,
        ema_decay=0.9,
    )
    update.begin_state()
    nothing: Any = None
    return Trainer(
        config=TrainConfig(),
        seed=0,
        adapter=nothing,
        denoiser=layers,
        conditioning=nothing,
        objective=nothing,
        update=update,
        device=torch.device("cpu"),
        without_adapter=nothing,
    )


def measure(checkpoints: Checkpoints, trainer: Trainer) -> tuple[float, float]:
    """Seconds of the first phase, and of both."""
    trainer.step += 1
    start = time.perf_counter()
    staged = checkpoints.stage(trainer)
    stalled = time.perf_counter() - start
    checkpoints.write(staged)
    return stalled, time.perf_counter() - start


def main() -> None:
    """Print one line for each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="on the disk that is measured")
    parser.add_argument(
        "--quick", action="store_true", help="one small state, once: shows that it runs, no figures to quote"
    )
    options = parser.parse_args()
    for num_layers in (2,) if options.quick else (8, 32, 128):
        trainer = make_trainer(num_layers)
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            checkpoints = Checkpoints(Path(folder), keep=1)
            times = [measure(checkpoints, trainer) for _ in range(1 if options.quick else 5)]
        stalled, both = (statistics.median(column) for column in zip(*times, strict=True))
        size = 4 * sum(parameter.numel() for parameter in trainer.update.parameters) * 4 / 1e9
        print(f"{size:.2f} GB  training stands still {stalled:.3f} s of {both:.3f} s: {stalled / both:.1%}")


if __name__ == "__main__":
    main()
