"""Learning rates over the optimizer steps of a run."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from finetrainers.config import OptimizerConfig, ScheduleConfig

POLYNOMIAL_END_LR = 1e-7
"""Learning rate at which diffusers' polynomial schedule ends."""


def build_schedule(config: ScheduleConfig, optimizer: Optimizer, *, steps: int) -> LRScheduler:
    """Make a learning-rate schedule over the optimizer steps of the run; diffusers' formulas."""
    from diffusers.optimization import get_scheduler

    name = "constant_with_warmup" if config.name == "constant" else config.name
    schedule: LRScheduler = get_scheduler(
        name,
        optimizer,
        num_warmup_steps=config.warmup_steps,
        num_training_steps=max(1, steps),
        num_cycles=config.cycles,
        power=config.power,
    )
    return schedule


def learning_rate(optimizer: OptimizerConfig, schedule: ScheduleConfig, *, step: int, steps: int) -> float:
    """Learning rate of the step after ``step`` in a run of so many steps: no run's past has a part in it."""
    alone = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=optimizer.lr_value)
    made = cast("LambdaLR", build_schedule(schedule, alone, steps=steps))
    return float(made.base_lrs[0] * made.lr_lambdas[0](step))


def set_learning_rate(schedule: LRScheduler, rate: float) -> None:
    """Let the next step have a rate, in place of that which a restored schedule and optimizer have brought."""
    for group in schedule.optimizer.param_groups:
        if isinstance(group["lr"], Tensor):  # torchao's, so that nothing is compiled again
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
    schedule._last_lr = [rate for _ in schedule.optimizer.param_groups]
