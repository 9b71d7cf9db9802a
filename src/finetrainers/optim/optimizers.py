"""Optimizers by name."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from finetrainers.compat.packages import import_quietly, install_extra
from finetrainers.config import OptimizerConfig, ScheduleConfig
from finetrainers.config.base import AUTO
from finetrainers.errors import ConfigError
from finetrainers.optim.low_bit import low_bit_adamw
from finetrainers.optim.muon import MuonWithAdamW
from finetrainers.optim.own import check_own, own_optimizer
from finetrainers.optim.registry import check_options, registered
from finetrainers.optim.schedules import POLYNOMIAL_END_LR

EXTRAS = {
    "adamw_8bit": "bitsandbytes",
    "adamw_4bit": "torchao",
    "adamw_fp8": "torchao",
    "prodigy": "prodigyopt",
    "adamw_schedule_free": "schedulefree",
}
"""Optimizers of optional packages; the extra of finetrainers has the package's name."""
USUAL_LR = 1e-4


IN_BLOCKS = ("adamw_8bit", "adamw_4bit", "adamw_fp8")
"""Optimizers whose states are numbers of few bits in blocks, with a scale for each."""
OF_WHOLE_WEIGHTS = ("adafactor",)
"""Optimizers that need all of a weight to step it, and keep little of it."""


def check_optimizer(config: OptimizerConfig, schedule: ScheduleConfig) -> None:
    """Fail before anything is loaded, if the optimizer's package is missing or two settings contradict.

    Raises:
        ConfigError: With the command that installs the package, or the key to change.
    """
    if config.lr == AUTO:  # a rate that is settled later decides nothing here
        config = config.model_copy(update={"lr": USUAL_LR})
    if config.is_of_registry:
        registered(config)
    elif config.name in EXTRAS:
        _optional(config.name)
    elif config.name == "muon":
        check_options(config, torch.optim.Muon, given=("adjust_lr_fn", "eps"))
    if config.is_of_user:
        check_own(config)
    elif config.options:
        _try_options(config)
    if config.name == "adamw_schedule_free" and schedule.name != "constant":
        raise ConfigError(
            f"schedule.name: {schedule.name} works against optimizer.name: adamw_schedule_free, which needs none; "
            "set schedule.name: constant"
        )
    if schedule.name == "polynomial" and config.lr_value <= POLYNOMIAL_END_LR:
        raise ConfigError(
            f"optimizer.lr: {config.lr} is not above {POLYNOMIAL_END_LR}, where schedule.name: polynomial ends; use linear"
        )


def _try_options(config: OptimizerConfig) -> None:
    """Take one step of a small matrix: packages say no by whatever their code raises, some of it in the first step.

    Raises:
        ConfigError: With what the optimizer says of its options.
    """
    matrix = nn.Parameter(torch.ones(4, 4))
    matrix.grad = torch.ones(4, 4)
    try:
        build_optimizer(config, [matrix]).step()
    except Exception as error:  # of whatever kind: it is the options' fault, since defaults do step
        said = str(error).splitlines()[:1] or [type(error).__name__]
        raise ConfigError(f"optimizer.options: {config.options} is not what {config.name} accepts: {said[0]}") from error


def build_optimizer(config: OptimizerConfig, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """Make an optimizer over float32 parameters.

    Raises:
        ConfigError: If its package is not installed, or does not take its options.
    """
    params = list(parameters)
    kernels = kernels_for(params, is_on_host=config.state == "cpu")
    decay: dict[str, Any] = {"lr": config.lr_value, "weight_decay": config.weight_decay}
    adam: dict[str, Any] = {**decay, "betas": (config.beta1, config.beta2), "eps": config.eps}
    if config.is_of_registry or config.is_of_user:
        make, settings = registered(config) if config.is_of_registry else own_optimizer(config)
        return make(params, **settings)
    match config.name:
        case "adamw":
            return torch.optim.AdamW(params, **adam, **kernels)
        case "adam":
            return torch.optim.Adam(params, **adam, **kernels)
        case "sgd":
            has_parts = any(isinstance(parameter, DTensor) for parameter in params)  # for which its kernel is not made
            return torch.optim.SGD(params, momentum=config.beta1, **decay, **({"foreach": False} if has_parts else kernels))
        case "adafactor":
            return torch.optim.Adafactor(params, **decay)
        case "muon":
            return MuonWithAdamW(params, muon={**decay, **config.options}, adamw={**adam, **kernels})
    return _of_a_package(config.name, params, adam)


def _of_a_package(name: str, params: list[nn.Parameter], adam: dict[str, Any]) -> Optimizer:
    package = _optional(name)
    match name:
        case "adamw_8bit":
            return cast("Optimizer", package.optim.AdamW8bit(params, **adam))
        case "prodigy":
            return cast("Optimizer", package.Prodigy(params, **adam))
        case "adamw_schedule_free":
            optimizer: Optimizer = package.AdamWScheduleFree(params, **adam)
            optimizer.train()  # type: ignore[attr-defined]  # schedule-free weights differ between training and use
            optimizer.state.clear()  # train() leaves empty entries, which are no state
            return optimizer
    return low_bit_adamw(name, params, **adam)


def kernels_for(parameters: Sequence[Tensor], *, is_on_host: bool = False) -> dict[str, Any]:
    """Choose torch's kernels: fused on a GPU and for states on the host, and nowhere foreach's copy of all parameters.

    No kernel takes parameters of which this process has a part beside those of which it has all.
    """
    if len({isinstance(parameter, DTensor) for parameter in parameters}) > 1:
        return {"foreach": False}
    is_on_gpu = any(parameter.is_cuda for parameter in parameters)  # what is streamed beside it is on the host
    has_kernels = (is_on_gpu or is_on_host) and not any(parameter.is_meta for parameter in parameters)
    return {"fused": True} if has_kernels else {"foreach": False}


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
        return import_quietly(package)
    except ImportError:
        raise ConfigError(f"optimizer.name: {name} needs the package {package}: {install_extra(package)}") from None
