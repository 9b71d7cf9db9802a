"""Optimizers of pytorch_optimizer by name: what trains goes on from a checkpoint to the bit, and the others are refused."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from updates import clip

from finetrainers.compat.packages import install_extra
from finetrainers.config import OptimizerConfig, ScheduleConfig
from finetrainers.config.optim import ONE_BY_ONE, REGISTRY
from finetrainers.errors import ConfigError
from finetrainers.optim.optimizers import build_optimizer, check_optimizer
from finetrainers.optim.registry import UNFIT
from finetrainers.optim.schedules import build_schedule
from finetrainers.optim.state import tensors_of
from finetrainers.optim.update import Update
from finetrainers.training.checkpoint.staging import write_state
from finetrainers.training.checkpoint.state import load_into, read_state

pytorch_optimizer = pytest.importorskip("pytorch_optimizer")
REFUSED = {name: reason for reason, names in UNFIT.items() for name in names}
NAMES = sorted(set(pytorch_optimizer.get_supported_optimizers()) - set(REFUSED))


def layers() -> nn.Sequential:
    """A matrix, another, and a convolution, with and without biases."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 8, bias=False), nn.Unflatten(1, (2, 2, 2)), nn.Conv2d(2, 3, 2))


def update_of(name: str, module: nn.Module, *, is_in_backward: bool = False) -> Update:
    config = OptimizerConfig(name=REGISTRY + name, lr=0.01)
    return Update(
        module,
        dict(module.named_parameters()),
        make_optimizer=lambda parameters: build_optimizer(config, parameters),
        make_schedule=lambda made: build_schedule(ScheduleConfig(), made, steps=10),
        clip_norm=float("inf"),
        is_in_backward=is_in_backward,
    )


def take_steps(update: Update, module: nn.Module, steps: range) -> None:
    for step in steps:
        x = torch.randn(8, 32, generator=torch.Generator().manual_seed(step))
        update.backward((module(x).flatten(1) - x[:, :3]).square().mean(1), batch_size=8)
        clip(update)
        update.step(is_finite=True)
        update.drop_gradients()


def contents(update: Update) -> list[Tensor]:
    state = update.optimizer_state()["state"]
    return [*(p.detach().clone() for p in update.parameters), *(t for _, t in tensors_of(state))]


@pytest.mark.parametrize("name", NAMES)
def test_each_goes_on_from_a_checkpoint_to_the_bit(name: str, tmp_path: Path) -> None:
    (whole, one), (begun, other) = ((update_of(name, module), module) for module in (layers(), layers()))
    untrained = contents(whole)
    take_steps(whole, one, range(4))
    write_state({"optimizer": whole.optimizer_state()}, tmp_path)
    begun.begin_state()
    begun.load_optimizer_state(load_into({"optimizer": begun.optimizer_state()}, read_state(tmp_path))["optimizer"])
    other.load_state_dict(one.state_dict())
    for update, module in ((whole, one), (begun, other)):
        take_steps(update, module, range(4, 8))
    pairs = list(zip(contents(whole), contents(begun), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not all(torch.equal(a, b) for a, b in zip(untrained, contents(whole), strict=False))


@pytest.mark.parametrize("name", ONE_BY_ONE)
def test_some_take_the_same_steps_inside_backward(name: str) -> None:
    found = []
    for is_in_backward in (False, True):
        module = layers()
        update = update_of(name, module, is_in_backward=is_in_backward)
        take_steps(update, module, range(8))
        found.append(contents(update))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def refused(name: str, **settings: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        check_optimizer(OptimizerConfig(name=name, **settings), ScheduleConfig())
    return str(caught.value)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_train_here_is_refused_with_the_reason(name: str) -> None:
    assert refused(REGISTRY + name) == f"optimizer.name: {REGISTRY}{name} {REFUSED[name]}; set another name"


def test_unknown_names_and_arguments_are_refused_with_the_nearest() -> None:
    lion = "pytorch_optimizer:Lion"
    check_optimizer(OptimizerConfig(name=lion, options={"betas": [0.95, 0.98], "maximize": False}), ScheduleConfig())
    assert refused("pytorch_optimizer:lionn").endswith("has no 'lionn'; did you mean pytorch_optimizer:lion?")
    assert refused(lion, options={"beta": 1}).endswith(f"options.beta: {lion} has no such argument; did you mean 'betas'?")
    assert refused(lion, options={"lr": 1}) == "optimizer.options.lr: has a key of its own; set optimizer.lr"
    assert "optimizer.options.foreach: " in refused(lion, options={"foreach": True})
    assert refused("pytorch_optimizer:fromage", weight_decay=0.1).startswith("optimizer.weight_decay: has no effect")
    assert refused("muon", options={"nesterow": True}).endswith("muon has no such argument; did you mean 'nesterov'?")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("muon", {"nesterov": "no"}, "optimizer.options.nesterov: 'no' is neither true nor false; write one of them"),
        (
            "muon",
            {"momentum": -1.0},
            "optimizer.options: {'momentum': -1.0} is not what muon accepts: momentum should be >= 0",
        ),
        ("muon", {"ns_coefficients": [1.0]}, "optimizer.options: {'ns_coefficients': (1.0,)} is not what muon accepts: "),
        (
            "pytorch_optimizer:lion",
            {"betas": [0.9, 2]},
            "is not what pytorch_optimizer:lion accepts: beta2 must be in the range",
        ),
        ("pytorch_optimizer:lion", {"betas": "x"}, "optimizer.options: {'betas': 'x'} is not what pytorch_optimizer:lion"),
    ],
)
def test_values_that_an_optimizer_does_not_take_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    assert message in refused(name, options=options)


def test_options_reach_the_optimizer() -> None:
    config = OptimizerConfig(name="pytorch_optimizer:lion", lr=0.5, options={"betas": [0.95, 0.98]})
    (group,) = build_optimizer(config, [nn.Parameter(torch.zeros(3))]).param_groups
    assert (group["lr"], tuple(group["betas"]), group["weight_decay"], group["foreach"]) == (0.5, (0.95, 0.98), 1e-4, False)
    config = OptimizerConfig(name="muon", lr=0.5, options={"momentum": 0.5, "ns_steps": 3})
    matrices, others = build_optimizer(config, [nn.Parameter(torch.zeros(3, 3)), nn.Parameter(torch.zeros(3))]).param_groups
    assert (matrices["momentum"], matrices["ns_steps"], matrices["lr"], others["lr"]) == (0.5, 3, 0.5, 0.5)


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    assert refused("pytorch_optimizer:lion").endswith(install_extra("pytorch-optimizer"))
