"""Optimizers of the package pytorch_optimizer, by its names: pytorch_optimizer:lion."""

import inspect
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any

from torch.optim import Optimizer

from finetrainers.compat.packages import install_extra
from finetrainers.config import REGISTRY, OptimizerConfig
from finetrainers.errors import ConfigError

EXTRA = "pytorch-optimizer"
OWN_KEYS = ("lr", "weight_decay")
"""Arguments that are keys of the section ``optimizer`` itself."""
UNFIT = {
    "needs the loss again inside its step": ("alig", "bsam", "lbfgs"),
    "needs gradients of gradients": ("adahessian", "sophiah"),
    "wants the model, and to take over its backward pass": ("adalomo", "adammini", "lomo"),
    "is made for several processes": ("demo", "distributedmuon"),
    "wants parameters that somebody has sorted; take muon": (
        "adago", "adamuon", "lorarite", "muon", "muonclip", "normuon", "spectralsphere",
    ),
    "keeps two sets of weights; take adamw_schedule_free": (
        "schedulefreeadamw", "schedulefreeradam", "schedulefreesgd", "splus",
    ),
    "has a learning rate of its own; take prodigy, or another": ("a2grad", "ranger21"),
    "keeps state that no checkpoint can hold, so that a run could not be resumed": (
        "adashift", "aggmo", "asgd", "conda", "gravity", "kron", "madgrad", "magma", "rose", "sara", "scalableshampoo",
        "spam", "stablespam",
    ),
}  # fmt: skip
"""Why names of the registry are refused."""


def registered(config: OptimizerConfig) -> tuple[Callable[..., Optimizer], dict[str, Any]]:
    """Find the class that a name stands for, and the arguments that it is to be made with.

    Raises:
        ConfigError: If the package is missing, has no such optimizer or one that cannot train here, or if it does not take
            what is configured.
    """
    try:
        import pytorch_optimizer
    except ImportError:
        raise ConfigError(f"optimizer.name: {config.name} needs the package {EXTRA}: {install_extra(EXTRA)}") from None
    name, known = config.registered_name, pytorch_optimizer.get_supported_optimizers()
    if name not in known:
        close = get_close_matches(name, known, n=1)
        hint = f"did you mean {REGISTRY}{close[0]}?" if close else "its documentation lists them"
        raise ConfigError(f"optimizer.name: pytorch_optimizer has no {name!r}; {hint}")
    for reason, names in UNFIT.items():
        if name in names:
            raise ConfigError(f"optimizer.name: {config.name} {reason}; set another name")
    made = pytorch_optimizer.load_optimizer(name)
    taken = check_options(config, made, given=("foreach",))
    settings: dict[str, Any] = {"lr": config.lr_value, "weight_decay": config.weight_decay, "foreach": False}
    return made, {key: value for key, value in settings.items() if key in taken} | config.options


def check_options(config: OptimizerConfig, made: Callable[..., Optimizer], *, given: Sequence[str]) -> list[str]:
    """Return the arguments that an optimizer takes, if they have a place for all that is configured.

    Raises:
        ConfigError: Naming the key, and the nearest argument.
    """
    parameters = list(inspect.signature(made).parameters.values())[1:]  # the first are the weights
    taken = [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    open_to = [name for name in taken if name not in (*OWN_KEYS, *given)]
    for key in config.options:
        if key in OWN_KEYS:
            raise ConfigError(f"optimizer.options.{key}: has a key of its own; set optimizer.{key}")
        if key not in open_to:
            close = get_close_matches(key, open_to, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(open_to)}"
            raise ConfigError(f"optimizer.options.{key}: {config.name} has no such argument; {hint}")
    switches = [p.name for p in parameters if isinstance(p.default, bool)]
    for key in config.options.keys() & switches:
        if not isinstance(config.options[key], bool):  # text such as no would be taken for true
            raise ConfigError(
                f"optimizer.options.{key}: {config.options[key]!r} is neither true nor false; write one of them"
            )
    for key in OWN_KEYS:
        if key not in taken and key in config.model_fields_set:
            raise ConfigError(f"optimizer.{key}: has no effect with name: {config.name}, which does not use it; remove it")
    needed = [p.name for p in parameters if p.default is p.empty and p.name in open_to and p.name not in config.options]
    if needed:
        raise ConfigError(f"optimizer.options: {config.name} needs {', '.join(needed)}; add it")
    return taken
