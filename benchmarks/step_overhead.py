"""What the trainer costs beyond the work itself: its step against the same step written bare, in one process.

Both corrupt, run the transformer forward and backward, clip and step AdamW on the same encoded batches, with a LoRA and at
full rank. CPU-seconds, in turns, with the median of the ratios of pairs. Target: <= 1.03.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from finetrainers.batch import Batch
from finetrainers.cli.imports import quiet_libraries
from finetrainers.objectives.flow import FlowMatching
from finetrainers.testing import make_tiny
from finetrainers.testing.model_under_test import ModelUnderTest
from finetrainers.training.trainer import Trainer

SIZES = {
    "cogvideox": (9, 192, 192),
    "cogview4": (1, 384, 384),
    "flux": (1, 256, 256),
    "hunyuan_video": (9, 128, 128),
    "ltx_video": (17, 512, 512),
    "wan": (9, 192, 192),
}
"""(frames, height, width): at the shapes of the tests, which step in 10 ms, the parts that do not grow would be all."""
TUNINGS: Mapping[str, Mapping[str, Any]] = {"lora": {"kind": "lora", "rank": 16, "alpha": 16}, "full": {"kind": "full"}}


def bare_step(trainer: Trainer, batch: Batch) -> None:
    """The same step with nothing around it."""
    assert isinstance(trainer.objective, FlowMatching)
    noised = trainer.objective.noised(batch)
    prediction = trainer.adapter.denoise(trainer.denoiser, noised.x, batch.sigma, batch.prompt)
    loss = (prediction - noised.target).square().mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trainer.update.parameters, 1.0)
    trainer.update.optimizer.step()
    trainer.update.schedule.step()
    trainer.update.optimizer.zero_grad(set_to_none=True)


def cpu_seconds(function: Any, *arguments: Any) -> float:
    """CPU time of one call, all threads."""
    start = time.process_time()
    function(*arguments)
    return time.process_time() - start


def measure(trainer: Trainer, batch: Batch, pairs: int) -> tuple[float, float, float]:
    """Median ratio of trainer step to bare step, and both medians in CPU-seconds."""
    cut = trainer.on_device(batch)  # prompts without padding, as the trainer cuts them in each step
    trainer.denoiser.train()
    for _ in range(3):
        trainer.train_step(batch)
        bare_step(trainer, cut)
    ours, bare = [], []
    for index in range(pairs):
        # In turns, and each first in half of the pairs: drifts of the machine hit both.
        steps = [(trainer.train_step, (batch,), ours), (bare_step, (trainer, cut), bare)]
        for step, arguments, times in steps if index % 2 else reversed(steps):
            times.append(cpu_seconds(step, *arguments))
    ratio = statistics.median(a / b for a, b in zip(ours, bare, strict=True))
    return ratio, statistics.median(ours), statistics.median(bare)


def main() -> None:
    """Print one line for each family and tuning."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--quick", action="store_true", help="two pairs: shows that it runs, no figures to quote")
    parser.add_argument("--family", choices=SIZES, action="append", help="one of them; by default all")
    options = parser.parse_args()
    pairs = 2 if options.quick else options.pairs
    quiet_libraries()
    for family in options.family or SIZES:
        with tempfile.TemporaryDirectory() as directory:
            model = {"path": str(make_tiny(family, Path(directory) / "model")), "max_sequence_length": None}
            subject = ModelUnderTest(model, SIZES[family], Path(directory))
            for name, tuning in TUNINGS.items():
                ratio, ours, bare = measure(subject.trainer(tuning), subject.batch, pairs)
                figures = f"medians {ours * 1e3:.1f} / {bare * 1e3:.1f} ms CPU, {pairs} pairs"
                print(f"{family}, {name}: trainer / bare = {ratio:.3f} ({figures})", flush=True)


if __name__ == "__main__":
    main()
