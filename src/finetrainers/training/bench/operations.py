"""How much a step computes, and how much the device could."""

import statistics

import torch

from finetrainers.config import Bucket, CompileConfig, Config, OptimizerConfig, ScheduleConfig
from finetrainers.config.attention import AttentionConfig
from finetrainers.models import Model
from finetrainers.training.bench.clock import Moments
from finetrainers.training.bench.figures import Product
from finetrainers.training.cost import predict_step

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
    """Count the operations of one optimizer step, in 10^12, by those of one micro-batch on the meta device.

    How kernels are made and what is done with gradients changes nothing of them: it is left out.
    """
    micro_batches = config.train.batch_size // config.train.micro_batch_size
    return micro_batches * predict_step(_bare(config), model, bucket).usage.flop / 1e12


def _bare(config: Config) -> Config:
    """Leave out what changes nothing of the operations, and all micro-batches but one."""
    one = {"batch_size": config.train.micro_batch_size, "ema_decay": None}
    return config.model_copy(
        update={
            "attention": AttentionConfig(),
            "compile": CompileConfig(),
            "optimizer": OptimizerConfig(lr=1.0),
            "schedule": ScheduleConfig(),
            "train": config.train.model_copy(update=one),
        }
    )
