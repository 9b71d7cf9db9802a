"""Takes steps at the buckets of a run, with latents and prompts that are made up, and measures them."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Literal

import diffusers
import torch

import finetrainers
from finetrainers.batch import Batch
from finetrainers.config import Bucket, Config
from finetrainers.data.catalog.buckets import resolve_buckets
from finetrainers.distributed.launch import refuse_further_processes
from finetrainers.distributed.world import pick_device
from finetrainers.memory.out_of_memory import out_of_memory_explained
from finetrainers.memory.peak import peak_memory_gb
from finetrainers.memory.precision import matmul_precision
from finetrainers.models import Model, open_model
from finetrainers.optim.optimizers import check_optimizer
from finetrainers.training.auto import settle
from finetrainers.training.bench.clock import Moments, phases_timed
from finetrainers.training.bench.figures import BucketFigures, Memory, Product, Result, Seconds
from finetrainers.training.bench.operations import measure_product, step_tflop
from finetrainers.training.bench.settle import settle_attention, settle_memory
from finetrainers.training.build import build_trainer
from finetrainers.training.checks.parts import (
    check_buckets,
    check_computation,
    check_conditioning,
    check_start,
    check_tuning,
)
from finetrainers.training.epochs import refuse_epochs
from finetrainers.training.objective import build_objective
from finetrainers.training.synthetic import of_each_expert, synthetic_batch
from finetrainers.training.trainer import Metrics, Trainer
from finetrainers.tuning import build_tuning

CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Measuring:
    """How a bench measures."""

    steps: int = 5
    warmup: int = 2
    has_random_weights: bool = False
    """Whether the model's own are not asked for."""
    say: Callable[[str], None] = print

    @property
    def weights(self) -> Literal["stored", "random"]:
        """What the denoiser is filled with."""
        return "random" if self.has_random_weights else "stored"


def bench(config: Config, measuring: Measuring) -> Result:
    """Measure the steps of a run; its data is not looked at, and nothing is written.

    Raises:
        ConfigError: If the configuration is impossible, or memory does not suffice.
        ModelError: If the model is not there.
        NonFiniteError: If a loss or a gradient is not finite.
    """
    refuse_further_processes()
    refuse_epochs(config, "bench")
    check_optimizer(config.optimizer, config.schedule)
    check_start(config)
    config = settle(config, is_new=True).config
    config = settle_memory(config, measuring.say)
    device = pick_device(config.train.device)
    model = open_model(config.model, config.memory)
    for check in (check_buckets, check_conditioning, check_computation, check_tuning):
        check(config, model)
    config = settle_attention(config, model, device, measuring.say)
    with matmul_precision(config.train.matmul_precision):
        product = measure_product(device, model.dtype)
        measuring.say(f"{model.adapter.name} on {_name(device)}: {measuring.weights} weights")
        trainer = _load(config, model, device, measuring)
        sizes = dict.fromkeys(size for data in config.data for size in resolve_buckets(data.buckets))
        with out_of_memory_explained(config, device, "training"):
            buckets = tuple(_Bucket(config, model, trainer, size).figures(measuring, product) for size in sizes)
    return Result(
        versions={"finetrainers": finetrainers.__version__, "torch": torch.__version__, "diffusers": diffusers.__version__},
        device=_name(device),
        family=model.adapter.name,
        weights=measuring.weights,
        num_trained=sum(parameter.numel() for parameter in trainer.update.parameters),
        steps=measuring.steps,
        warmup=measuring.warmup,
        config=config.model_dump(mode="json", by_alias=True),
        product=product,
        buckets=buckets,
    )


def _load(config: Config, model: Model, device: torch.device, measuring: Measuring) -> Trainer:
    objective, tuning = build_objective(config, model), build_tuning(config.tuning)
    load = partial(build_trainer, config, model, objective=objective, tuning=tuning, device=device)
    with out_of_memory_explained(config, device, "loading"):
        return load(weights=measuring.weights)


@dataclass(frozen=True, slots=True)
class _Bucket:
    """One bucket of a run that is measured."""

    config: Config
    model: Model
    trainer: Trainer
    size: Bucket

    def figures(self, measuring: Measuring, product: Product) -> BucketFigures:
        """Take steps until all is warm, then uninterrupted ones, then some by phases."""
        measuring.say(f"{named(self.size)}: {measuring.warmup} steps to get warm, {measuring.steps} to measure, twice")
        device, (batch, *others) = self.trainer.device, self._batches()
        if device.type == "cuda":
            torch.cuda.empty_cache()  # of other sizes
            torch.cuda.reset_peak_memory_stats(device)
        first, *_ = self._whole_steps(batch, max(1, measuring.warmup))
        for other in others:
            self._take(other, 1)  # memory holds what all experts keep, as after some steps of a run
        step = statistics.median(self._whole_steps(batch, measuring.steps))
        with phases_timed(self.trainer) as stopwatch:
            self._take(batch, measuring.steps)
        phases = {
            name: statistics.median(phases[name] for phases in stopwatch.steps)
            for name in ("data", "forward", "backward", "update")
        }
        memory = _memory(device)
        samples, tokens = self.config.train.batch_size, self.model.adapter.grid.num_tokens(self.size)
        tflop = step_tflop(self.config, self.model, self.size)
        return BucketFigures(
            bucket=self.size,
            tokens=tokens,
            seconds=Seconds(step=step, first_step=first, **phases),
            samples_per_second=samples / step,
            tokens_per_second=samples * tokens / step,
            tflop=tflop,
            share=tflop / step / product.tflops,
            memory=memory,
        )

    def _batches(self) -> list[Batch]:
        """One for each expert."""
        batch = synthetic_batch(self.config, self.model, self.size, self.config.train.batch_size, device=CPU)
        batches = of_each_expert(batch, self.model)
        return [own.pin_memory() for own in batches] if self.trainer.device.type == "cuda" else batches

    def _take(self, batch: Batch, count: int) -> None:
        self.trainer.run(repeat(batch), stop=self.trainer.step + count)

    def _whole_steps(self, batch: Batch, count: int) -> list[float]:
        """Seconds of each step; within one, nobody waits but the loop itself."""
        moments, before = Moments(self.trainer.device), self.trainer.after_step

        def note(_trainer: Trainer, _metrics: Metrics) -> None:
            moments.note()

        self.trainer.after_step = (note,)
        moments.note()
        self._take(batch, count)
        self.trainer.after_step = before
        return moments.seconds()


def named(size: Bucket) -> str:
    """Name a bucket: 49x512x768."""
    return "x".join(map(str, size))


def _memory(device: torch.device) -> Memory:
    is_gpu = device.type == "cuda"
    return Memory(
        allocated=torch.cuda.max_memory_allocated(device) if is_gpu else None,
        reserved=torch.cuda.max_memory_reserved(device) if is_gpu else None,
        process=int(1e9 * peak_memory_gb(CPU)),
    )


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device} with {torch.get_num_threads()} threads"
