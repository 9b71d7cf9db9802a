"""Optimizers and schedules by name: each trains, goes on after a checkpoint to the bit, and says what it lacks."""

import importlib.util
import math
import sys
import tomllib
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from finetrainers.config import OptimizerConfig, ScheduleConfig, TrainConfig
from finetrainers.config.optim import OwnOptimizer
from finetrainers.errors import ConfigError
from finetrainers.optim.optimizers import EXTRAS, build_optimizer, check_optimizer, kernels_for, optimizer_eval_weights
from finetrainers.optim.schedules import build_schedule, learning_rate
from finetrainers.optim.state import load_optimizer_state, optimizer_state, tensors_of
from finetrainers.optim.update import Update
from finetrainers.training.checkpoint.checkpoints import Checkpoints
from finetrainers.training.trainer import Trainer

LR = {
    "adamw": 0.01,
    "adam": 0.01,
    "sgd": 0.003,
    "adafactor": 0.02,
    "prodigy": 1.0,
    "adamw_schedule_free": 0.02,
    "adamw_8bit": 0.01,
    "adamw_4bit": 0.01,
    "adamw_fp8": 0.01,
    "muon": 0.01,
}
NAMES = get_args(OwnOptimizer)
WIDTH = 64
"""A weight of 64 x 64 is the smallest that bitsandbytes keeps in 8 bits."""


def config_of(name: str, **settings: Any) -> OptimizerConfig:
    return OptimizerConfig(**{"name": name, "lr": LR[name], **settings})


def trainer_with(name: str, *, seed: int = 0, total: int = 10, warmup: int = 2, **settings: Any) -> Trainer:
    """A trainer of one layer; of the trainer only what checkpoints hold matters here."""
    torch.manual_seed(seed)
    layer = nn.Linear(WIDTH, WIDTH)
    shape = "constant" if name == "adamw_schedule_free" else "cosine"
    update = Update(
        layer,
        dict(layer.named_parameters()),
        make_optimizer=partial(build_optimizer, config_of(name, **settings)),
        make_schedule=partial(build_schedule, ScheduleConfig(name=shape, warmup_steps=warmup), steps=total),
        clip_norm=1.0,
    )
    unused: Any = None
    return Trainer(
        config=TrainConfig(), seed=0, adapter=unused, denoiser=layer, conditioning=unused, objective=unused,
        update=update, device=torch.device("cpu"), without_adapter=unused,
    )  # fmt: skip


def quadratic(layer: nn.Module, step: int) -> Tensor:
    """Distance from a fixed linear map, on inputs that depend on the step."""
    x = torch.randn(32, WIDTH, generator=torch.Generator().manual_seed(step))
    goal = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(99)) / math.sqrt(WIDTH)
    return (layer(x) - x @ goal).square().sum(1).mean()


def take_steps(trainer: Trainer, stop: int) -> list[float]:
    losses = []
    while trainer.step < stop:
        loss = quadratic(trainer.denoiser, trainer.step)
        loss.backward()
        trainer.update.optimizer.step()
        trainer.update.schedule.step()
        trainer.update.optimizer.zero_grad(set_to_none=True)
        trainer.step += 1
        losses.append(loss.item())
    return losses


def contents(trainer: Trainer) -> list[Tensor]:
    """Weights and all tensors of the optimizer's state."""
    states = [dict(sorted(trainer.update.optimizer.state[p].items())) for p in trainer.denoiser.parameters()]
    return [p.detach() for p in trainer.denoiser.parameters()] + [tensor for _, tensor in tensors_of(states)]


def test_an_update_on_a_gpu_is_one_kernel_and_no_update_copies_all_parameters() -> None:
    on_cpu, on_gpu, on_meta = torch.zeros(1), SimpleNamespace(is_cuda=True, is_meta=False), torch.zeros(1, device="meta")
    assert kernels_for([on_cpu]) == kernels_for([on_meta]) == {"foreach": False}
    assert kernels_for([on_gpu]) == kernels_for([on_gpu, on_cpu]) == {"fused": True}  # type: ignore[list-item]
    for name in ("adamw", "adam", "sgd"):
        group = build_optimizer(config_of(name), [nn.Parameter(on_cpu)]).param_groups[0]
        assert (group["foreach"], group["fused"]) == (False, None)


def test_every_name_is_tried_here() -> None:
    assert set(NAMES) == set(LR)


@pytest.mark.parametrize("name", NAMES)
def test_each_optimizer_lowers_a_quadratic(name: str) -> None:
    steps = 100 if name in ("adamw_4bit", "adamw_fp8", "muon") else 300  # not compiled, they take longer
    trainer = trainer_with(name, total=steps)
    losses = take_steps(trainer, steps)
    with optimizer_eval_weights(trainer.update.optimizer):
        assert quadratic(trainer.denoiser, 1000).item() < 0.5 * losses[0]


def test_checkpoints_of_8_bit_states_of_earlier_versions_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, begun = (trainer_with("adamw_8bit", seed=seed) for seed in (0, 1))
    take_steps(whole, 5)
    today = whole.update.optimizer_state()
    nested = {name: {"__bnb_optimizer_quant_state__": own} for name, own in today["state"].items()}
    with monkeypatch.context() as patch:
        patch.setattr(whole.update, "optimizer_state", lambda: {**today, "state": nested})
        Checkpoints(tmp_path, keep=1).save(whole)
    Checkpoints(tmp_path, keep=1).restore(begun, 5)
    assert take_steps(begun, 10) == take_steps(whole, 10)
    assert all(torch.equal(a, b) for a, b in zip(contents(whole), contents(begun), strict=True))


@pytest.mark.parametrize("warmup", [0, 2])
@pytest.mark.parametrize("name", NAMES)
def test_five_steps_a_checkpoint_and_five_more_are_ten_steps(name: str, warmup: int, tmp_path: Path) -> None:
    whole, first, second = (trainer_with(name, seed=seed, warmup=warmup) for seed in (0, 0, 1))
    losses = take_steps(whole, 10)
    take_steps(first, 5)
    with optimizer_eval_weights(first.update.optimizer):  # as validation does, between two steps
        pass
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(first)
    checkpoints.restore(second, 5)
    assert take_steps(second, 10) == losses[5:]
    pairs = list(zip(contents(whole), contents(second), strict=True))
    assert len(pairs) > 2
    assert all(torch.equal(a, b) for a, b in pairs)
    groups = [{k: v for k, v in t.update.optimizer.param_groups[0].items() if k != "params"} for t in (whole, second)]
    assert groups[0] == groups[1]


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "adamw_8bit", "prodigy", "adamw_schedule_free", "adafactor"])
def test_settings_reach_the_optimizer(name: str) -> None:
    keys = {"sgd": ["beta1"], "adafactor": []}.get(name, ["beta1", "beta2", "eps"])
    given = {"lr": 0.25, "weight_decay": 0.125, **dict(zip(keys, (0.5, 0.75, 0.0625), strict=False))}
    group = build_optimizer(OptimizerConfig(name=name, **given), [nn.Parameter(torch.zeros(3))]).param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.25, 0.125)
    if name == "sgd":
        assert group["momentum"] == 0.5
    elif name != "adafactor":
        assert (*group["betas"], group["eps"]) == (0.5, 0.75, 0.0625)


@pytest.mark.parametrize(("name", "is_decoupled"), [("adamw", True), ("adam", False)])
def test_weight_decay_is_decoupled_from_the_gradient_or_not(name: str, is_decoupled: bool) -> None:
    """With no gradient, decoupled decay takes lr * decay of the weight; an L2 penalty takes a step of Adam's own size."""
    parameter = nn.Parameter(torch.tensor([10.0, 1.0]))
    optimizer = build_optimizer(OptimizerConfig(name=name, lr=0.1, weight_decay=0.5), [parameter])
    parameter.grad = torch.zeros(2)
    optimizer.step()
    expected = torch.tensor([9.5, 0.95]) if is_decoupled else torch.tensor([9.9, 0.9])
    torch.testing.assert_close(parameter.detach(), expected)


def test_8_bit_adam_keeps_its_state_in_8_bits() -> None:
    trainer = trainer_with("adamw_8bit")
    take_steps(trainer, 1)
    state = trainer.update.optimizer.state[trainer.denoiser.weight]
    assert state["state1"].dtype == state["state2"].dtype == torch.uint8


# -- packages that are missing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXTRAS)
def test_a_missing_package_names_the_command_that_installs_it(name: str, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, EXTRAS[name], None)
    said = rf"^optimizer.name: {name} needs the package {EXTRAS[name]}: pip install '\./finetrainers\[{EXTRAS[name]}\]' \("
    with pytest.raises(ConfigError, match=said):
        check_optimizer(OptimizerConfig(name=name, lr=1.0), ScheduleConfig())
    with pytest.raises(ConfigError, match=said):
        build_optimizer(OptimizerConfig(name=name, lr=1.0), [nn.Parameter(torch.zeros(3))])


@pytest.mark.parametrize("name", NAMES)
def test_what_is_installed_passes_the_check(name: str) -> None:
    check_optimizer(OptimizerConfig(name=name, lr=1.0), ScheduleConfig())


def test_the_extras_are_those_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    for package in EXTRAS.values():
        assert [r.split(">")[0] for r in project["optional-dependencies"][package]] == [package]
        assert importlib.util.find_spec(package) is not None


def test_a_state_of_another_machine_brings_its_numbers_and_not_its_kernels() -> None:
    """Earlier versions left kernels to torch; with the state of fused ones, its other kernels wait at each weight."""
    weights = {name: nn.Parameter(torch.ones(2, 2)) for name in ("one", "other")}
    optimizer = build_optimizer(OptimizerConfig(name="adamw", lr=0.5), weights.values())
    names = {weight: name for name, weight in weights.items()}
    saved = optimizer_state(optimizer, names)
    saved["param_groups"][0] |= {"foreach": None, "fused": True, "lr": 0.25}
    load_optimizer_state(optimizer, names, saved)
    (group,) = optimizer.param_groups
    assert (group["foreach"], group["fused"], group["lr"]) == (False, None, 0.25)


def test_the_other_optimizers_need_no_package(monkeypatch) -> None:
    for package in EXTRAS.values():
        monkeypatch.setitem(sys.modules, package, None)
    for name in set(NAMES) - set(EXTRAS):
        check_optimizer(OptimizerConfig(name=name), ScheduleConfig())
        build_optimizer(OptimizerConfig(name=name, lr=0.1), [nn.Parameter(torch.zeros(3))])


@pytest.mark.parametrize("shape", ["linear", "cosine", "cosine_with_restarts", "polynomial"])
def test_schedule_free_takes_no_schedule(shape: str) -> None:
    with pytest.raises(ConfigError, match=f"schedule.name: {shape} works against .* set schedule.name: constant"):
        check_optimizer(OptimizerConfig(name="adamw_schedule_free"), ScheduleConfig(name=shape))


# -- schedules --------------------------------------------------------------------------------------------------------


def rates(steps: int = 100, **settings: Any) -> list[float]:
    """Learning rate of each step, as a part of its peak, and after the last."""
    optimizer = build_optimizer(OptimizerConfig(name="sgd", lr=0.5), [nn.Parameter(torch.zeros(1))])
    schedule = build_schedule(ScheduleConfig(**settings), optimizer, steps=steps)
    found = []
    for _ in range(steps + 1):
        found.append(schedule.get_last_lr()[0] / 0.5)
        optimizer.step()
        schedule.step()
    return found


SHAPES = {  # part of the way through the run after the warm-up -> part of the peak
    "constant": ({}, lambda t: 1),
    "linear": ({}, lambda t: 1 - t),
    "cosine": ({}, lambda t: (1 + math.cos(math.pi * t)) / 2),
    "cosine_with_restarts": ({"cycles": 2}, lambda t: (1 + math.cos(math.pi * (2 * t % 1))) / 2 if t < 1 else 0),
    "polynomial": ({"power": 2.0}, lambda t: (1 - t) ** 2),
}


@pytest.mark.parametrize("warmup", [0, 20])
@pytest.mark.parametrize("name", SHAPES)
def test_schedules_have_their_shapes(name: str, warmup: int) -> None:
    settings, shape = SHAPES[name]
    found = rates(name=name, warmup_steps=warmup, **settings)
    assert found[:warmup] == pytest.approx([step / warmup for step in range(warmup)])
    expected = [shape((step - warmup) / (100 - warmup)) for step in range(warmup, 101)]
    assert found[warmup:] == pytest.approx(expected, abs=1e-6)


def test_every_name_of_a_schedule_is_tried_here() -> None:
    assert set(get_args(ScheduleConfig.model_fields["name"].annotation)) == set(SHAPES)


def test_the_first_step_of_a_warm_up_changes_nothing() -> None:
    trainer = trainer_with("adamw")
    before = [p.detach().clone() for p in trainer.denoiser.parameters()]
    take_steps(trainer, 1)
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.denoiser.parameters(), strict=True))
    take_steps(trainer, 2)
    assert not any(torch.equal(a, b) for a, b in zip(before, trainer.denoiser.parameters(), strict=True))


@pytest.mark.parametrize("warmup", [0, 20])
@pytest.mark.parametrize("name", SHAPES)
def test_a_learning_rate_depends_on_its_step_alone(name: str, warmup: int) -> None:
    """The closed form has the bits of a schedule that came there step by step."""
    config = ScheduleConfig(name=name, warmup_steps=warmup, **SHAPES[name][0])
    optimizer = OptimizerConfig(name="sgd", lr=0.3)
    schedule = build_schedule(config, build_optimizer(optimizer, [nn.Parameter(torch.zeros(1))]), steps=100)
    for step in range(100):
        assert learning_rate(optimizer, config, step=step, steps=100) == schedule.get_last_lr()[0]
        schedule.optimizer.step()
        schedule.step()


@pytest.mark.parametrize("name", SHAPES)
def test_a_run_of_no_steps_has_a_schedule(name: str) -> None:
    assert rates(steps=0, name=name) == [1.0]


def test_a_polynomial_schedule_needs_a_learning_rate_above_its_end() -> None:
    """diffusers' ends at 1e-7 and refuses to start there, with an error that names no key."""
    polynomial = ScheduleConfig(name="polynomial")
    with pytest.raises(ConfigError, match="^optimizer.lr: 1e-07 is not above 1e-07, where .* polynomial ends; use linear"):
        check_optimizer(OptimizerConfig(lr=1e-7), polynomial)
    config = OptimizerConfig(lr=1.01e-7)
    check_optimizer(config, polynomial)
    optimizer = build_optimizer(config, [nn.Parameter(torch.zeros(1))])
    assert build_schedule(polynomial, optimizer, steps=10).get_last_lr() == [1.01e-7]


# -- weights that are meant for use -----------------------------------------------------------------------------------


def test_schedule_free_weights_for_use_are_others_and_training_does_not_notice() -> None:
    trainer = trainer_with("adamw_schedule_free")
    take_steps(trainer, 5)
    before = [p.detach().clone() for p in trainer.denoiser.parameters()]
    with optimizer_eval_weights(trainer.update.optimizer):
        assert not any(torch.equal(a, b) for a, b in zip(before, trainer.denoiser.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.denoiser.parameters(), strict=True))
    take_steps(trainer, 6)  # which schedule-free refuses in evaluation mode


def test_weights_for_use_go_back_after_an_error() -> None:
    trainer = trainer_with("adamw_schedule_free")
    take_steps(trainer, 5)
    before = [p.detach().clone() for p in trainer.denoiser.parameters()]
    with pytest.raises(RuntimeError), optimizer_eval_weights(trainer.update.optimizer):
        raise RuntimeError
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.denoiser.parameters(), strict=True))


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"adamw_schedule_free"}))
def test_other_optimizers_train_the_weights_that_are_used(name: str) -> None:
    trainer = trainer_with(name)
    take_steps(trainer, 3)
    before = [p.detach().clone() for p in trainer.denoiser.parameters()]
    with optimizer_eval_weights(trainer.update.optimizer):
        assert all(torch.equal(a, b) for a, b in zip(before, trainer.denoiser.parameters(), strict=True))
