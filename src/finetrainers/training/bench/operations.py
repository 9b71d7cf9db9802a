"""How much a step computes, and how much the device could."""

import statistics

import torch
from torch.utils.flop_counter import FlopCounterMode

from finetrainers.config import Bucket, CompileConfig, Config, MemoryConfig, OptimizerConfig, ScheduleConfig
from finetrainers.config.attention import AttentionConfig
from finetrainers.models import Model, open_model
from finetrainers.training.bench.clock import Moments
from finetrainers.training.bench.figures import Product
from finetrainers.training.build import build_trainer
from finetrainers.training.objective import build_objective
from finetrainers.training.synthetic import synthetic_batch
from finetrainers.tuning import build_tuning

META = torch.device("meta")
GPU_SIZE, CPU_SIZE = 8192, 512
"""Rows and columns of the matrices that are multiplied."""
REPEATS = 10


def measure_product(device: torch.device, dtype: torch.dtype) -> Product:
    """Time a matrix product in the type that a model computes in."""
    size = GPU_SIZE if device.type == "cuda" else CPU_SIZE
    one, other = torch.randn(2, size, size, device=device).to(dtype)
    moments = Moments(device)
    for repeat in range(2 * REPEATS):  # the first half to get warm
        if repeat == REPEATS:
            moments.note()
        one @ other
        if repeat >= REPEATS:
            moments.note()
    seconds = statistics.median(moments.seconds())
    return Product(size=size, dtype=str(dtype).removeprefix("torch."), tflops=2 * size**3 / seconds / 1e12)


def step_tflop(config: Config, model: Model, bucket: Bucket) -> float:
    """Count the operations of matrix products in one optimizer step, in 10^12, on the meta device.

    What trades time for memory, but for gradient checkpointing, changes nothing of them: it is left out.
    """
    config, model = _bare(config), _with_one_expert(config, model)
    objective, tuning = build_objective(config, model), build_tuning(config.tuning)
    trainer = build_trainer(config, model, objective=objective, tuning=tuning, device=META, weights="none")
    trainer.denoiser.train()
    size = config.train.micro_batch_size
    batch = synthetic_batch(config, model, bucket, size, device=META)
    with FlopCounterMode(display=False) as counter:
        trainer.update.backward(trainer.micro_losses(batch), batch_size=config.train.batch_size)
    of_one: int = counter.get_total_flops()
    return of_one * (config.train.batch_size // size) / 1e12


def _bare(config: Config) -> Config:
    """Leave out what does not change the operations, and may not exist on the meta device."""
    return config.model_copy(
        update={
            "attention": AttentionConfig(),
            "compile": CompileConfig(),
            "memory": MemoryConfig(),
            "optimizer": OptimizerConfig(),
            "schedule": ScheduleConfig(),
            "train": config.train.model_copy(update={"ema_decay": None}),
            "tuning": config.tuning.model_copy(update={"start_from": None}),
        }
    )


def _with_one_expert(config: Config, model: Model) -> Model:
    """Of experts, which of them answers a row depends on its noise level; all have one shape."""
    if len(model.denoisers.trained) == 1:
        return model
    first = next(iter(model.adapter.experts()))
    return open_model(config.model.model_copy(update={"expert": first}), config.memory)
