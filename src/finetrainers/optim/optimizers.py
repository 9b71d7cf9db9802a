"""Optimizers by name."""

import importlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from finetrainers.config import OptimizerConfig, ScheduleConfig
from finetrainers.errors import ConfigError
from finetrainers.optim.schedules import POLYNOMIAL_END_LR

EXTRAS = {"adamw_8bit": "bitsandbytes", "prodigy": "prodigyopt", "adamw_schedule_free": "schedulefree"}
"""Optimizers of optional packages; the extra of finetrainers has the package's name."""


def check_optimizer(config: OptimizerConfig, schedule: ScheduleConfig) -> None:
    """Fail before anything is loaded, if the optimizer's package is missing or two settings contradict.

    Raises:
        ConfigError: With the command that installs the package, or the key to change.
    """
    if config.name in EXTRAS:
        _optional(config.name)
    if config.name == "adamw_schedule_free" and schedule.name != "constant":
        raise ConfigError(
            f"schedule.name: {schedule.name} works against optimizer.name: adamw_schedule_free, which needs none; "
            "set schedule.name: constant"
        )
    if schedule.name == "polynomial" and config.lr <= POLYNOMIAL_END_LR:
        raise ConfigError(
            f"optimizer.lr: {config.lr} is not above {POLYNOMIAL_END_LR}, where schedule.name: polynomial ends; use linear"
        )


def build_optimizer(config: OptimizerConfig, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """Make an optimizer over float32 parameters.

    Raises:
        ConfigError: If its package is not installed.
    """
    params = list(parameters)
    kernels = kernels_for(params)
    decay: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    adam: dict[str, Any] = {**decay, "betas": (config.beta1, config.beta2), "eps": config.eps}
    match config.name:
        case "adamw":
            return torch.optim.AdamW(params, **adam, **kernels)
        case "adam":
            return torch.optim.Adam(params, **adam, **kernels)
        case "sgd":
            return torch.optim.SGD(params, momentum=config.beta1, **decay, **kernels)
        case "adafactor":
            return torch.optim.Adafactor(params, **decay)
        case "adamw_8bit":
            return cast("Optimizer", _optional(config.name).optim.AdamW8bit(params, **adam))
        case "prodigy":
            return cast("Optimizer", _optional(config.name).Prodigy(params, **adam))
        case "adamw_schedule_free":
            optimizer = _optional(config.name).AdamWScheduleFree(params, **adam)
            optimizer.train()  # schedule-free weights differ between training and use
            optimizer.state.clear()  # train() leaves empty entries, which torch's checkpoints take for a finished state
            return cast("Optimizer", optimizer)


def kernels_for(parameters: Sequence[Tensor]) -> dict[str, Any]:
    """Choose torch's kernels: one for a whole update on a GPU, and nowhere the copy of all parameters that foreach makes."""
    is_on_gpu = bool(parameters) and all(parameter.is_cuda for parameter in parameters)
    return {"fused": True} if is_on_gpu else {"foreach": False}


@contextmanager
def optimizer_eval_weights(optimizer: Optimizer) -> Iterator[None]:
    """Put the weights that are meant for use in place of those that train, where an optimizer keeps both (schedule-free)."""
    if "train_mode" not in optimizer.param_groups[0]:
        yield
        return
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    trained = [parameter.detach().clone() for parameter in parameters]
    optimizer.eval()  # type: ignore[attr-defined]  # only schedule-free optimizers have the key
    try:
        yield
    finally:
        optimizer.train()  # type: ignore[attr-defined]
        with torch.no_grad():
            for parameter, value in zip(parameters, trained, strict=True):
                parameter.copy_(value)  # the way back by train() alone rounds: looking would change the training


def _optional(name: str) -> Any:
    package = EXTRAS[name]
    try:
        return importlib.import_module(package)
    except ImportError:
        raise ConfigError(
            f"optimizer.name: {name} needs the package {package}: pip install 'finetrainers[{package}]'"
        ) from None
