"""Optimizers of the user's own, from a file of theirs, and what one has to do so that a run can stop and go on."""

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from finetrainers.config import OptimizerConfig
from finetrainers.config.user_code import read_user_code
from finetrainers.errors import ConfigError
from finetrainers.optim.registry import OWN_KEYS, check_options
from finetrainers.optim.state import load_optimizer_state, no_learning_rate, optimizer_state

SETTING = "optimizer.name"
NAME = "weight"
PLAIN = (Tensor, str, int, float, bool, type(None))
"""What a checkpoint holds, beside lists, tuples and dicts of it."""


def own_optimizer(config: OptimizerConfig) -> tuple[Callable[..., Optimizer], dict[str, Any]]:
    """Load what a name stands for, and find the arguments that it is to be made with.

    Raises:
        ConfigError: If the file has no such thing, or if it does not take what is configured.
    """
    code = read_user_code(SETTING, config.name)
    made = code.load()
    if not callable(made):
        raise ConfigError(
            f"{SETTING}: {code.file} has no Optimizer {code.name!r}; define it, derived from torch.optim.Optimizer, or name "
            "another one"
        )
    if "lr" not in inspect.signature(made).parameters:
        raise ConfigError(
            f"{SETTING}: {code.file}: {code.name} takes no lr, which a schedule changes; take an argument lr, and give "
            "it to Optimizer.__init__ in defaults"
        )
    taken = check_options(config, made, given=())
    return made, {key: getattr(config, key) for key in OWN_KEYS if key in taken} | config.options


def check_own(config: OptimizerConfig) -> None:
    """Let an optimizer step a small matrix, stop and go on.

    Raises:
        ConfigError: If it is none, or if it would not go on as it would have without the stop.
    """
    name = config.name.rpartition(":")[2]
    first = nn.Parameter(torch.linspace(-1, 1, 16).view(4, 4))
    optimizer = _made(config, first)
    with no_learning_rate(optimizer):  # as a checkpoint is read, so that there is a place for all that it has
        before = first.detach().clone()
        _step(optimizer, first, factor=0.0)
    if not torch.equal(first, before):
        raise ConfigError(
            f"{SETTING}: {name} changes weights at a learning rate of 0; let all of a step be in its proportion"
        )
    for _ in range(2):
        _step(optimizer, first)
    state = optimizer_state(optimizer, {first: NAME})
    if not _is_plain(state):
        raise ConfigError(
            f"{SETTING}: {name} keeps what no checkpoint can hold; keep tensors, numbers and text alone in self.state and "
            "self.param_groups"
        )
    second = nn.Parameter(first.detach().clone())
    later = _made(config, second)
    load_optimizer_state(later, {second: NAME}, copy.deepcopy(state))
    for _ in range(2):
        _step(optimizer, first)
        _step(later, second)
    if not torch.equal(first, second):
        raise ConfigError(
            f"{SETTING}: {name} would not continue after a stop as it would have without: keep all that a step depends on "
            "in self.state[parameter] and self.param_groups, which checkpoints hold"
        )


def _made(config: OptimizerConfig, parameter: nn.Parameter) -> Optimizer:
    make, settings = own_optimizer(config)
    made: object = make([parameter], **settings)
    if not isinstance(made, Optimizer):
        raise ConfigError(
            f"{SETTING}: {config.name.rpartition(':')[2]} makes a {type(made).__name__}, which is no torch.optim.Optimizer; "
            "derive it from that"
        )
    if any("lr" not in group for group in made.param_groups):
        raise ConfigError(
            f"{SETTING}: {config.name.rpartition(':')[2]} has no lr in its param_groups, which a schedule changes; "
            "give it to Optimizer.__init__ in defaults"
        )
    return made


def _step(optimizer: Optimizer, parameter: nn.Parameter, *, factor: float = 1.0) -> None:
    """Step by the same gradient each time, and by the same draws if it draws."""
    parameter.grad = factor * torch.linspace(1, -2, 16).view(4, 4)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        optimizer.step()


def _is_plain(value: object) -> bool:
    match value:
        case Mapping():
            return all(map(_is_plain, value.values()))
        case list() | tuple():
            return all(map(_is_plain, value))
    return isinstance(value, PLAIN)
