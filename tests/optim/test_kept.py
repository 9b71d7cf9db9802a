"""Stochastic rounding, steps inside backward, and masters on the host: what each of them promises."""

import math
import time
from threading import Thread
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from updates import clip

from finetrainers.config import OptimizerConfig, ScheduleConfig
from finetrainers.optim.optimizers import build_optimizer
from finetrainers.optim.rounding import round_stochastically, rounding_noise
from finetrainers.optim.schedules import build_schedule
from finetrainers.optim.update import Update

UNIT = 2.0**-7
"""Distance of 1 from the next larger number of bfloat16."""


def update_of(
    layer: nn.Module, *, clip_norm: float = math.inf, optimizer: dict[str, Any] | None = None, **how: Any
) -> Update:
    config = OptimizerConfig(**{"name": "sgd", "lr": 1.0, "beta1": 0.0, "weight_decay": 0.0, **(optimizer or {})})
    return Update(
        layer,
        dict(layer.named_parameters()),
        make_optimizer=lambda parameters: build_optimizer(config, parameters),
        make_schedule=lambda made: build_schedule(ScheduleConfig(), made, steps=1000),
        clip_norm=clip_norm,
        **how,
    )


def ones(width: int = 4, dtype: torch.dtype = torch.bfloat16) -> nn.Linear:
    layer = nn.Linear(width, 1, bias=False, dtype=dtype)
    nn.init.ones_(layer.weight)
    return layer


def backward(update: Update, layer: nn.Module, x: Tensor) -> None:
    """Let x be the gradient of the only weight."""
    update.backward(layer(x)[:, 0].float(), batch_size=1)


def descend(update: Update, layer: nn.Module, x: Tensor) -> Tensor:
    backward(update, layer, x)
    norm = clip(update)
    update.step(is_finite=bool(norm.isfinite()))
    update.drop_gradients()
    return norm


# -- stochastic rounding ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [0.0, 0.125, 0.5, 0.875])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_rounding_is_right_in_the_mean(part: float, sign: float) -> None:
    count = 100_000
    x = torch.full((count,), sign * (1 + part * UNIT))
    rounded = round_stochastically(x, rounding_noise(x, 0, "mean")).double()
    assert rounded.unique().tolist() == ([sign] if part == 0 else sorted([sign, sign * (1 + UNIT)]))
    sigma = UNIT * math.sqrt(part * (1 - part) / count)
    assert abs(rounded.mean() - x[0].double()) <= 4 * sigma


def test_what_bfloat16_has_is_not_rounded_and_what_is_not_finite_stays() -> None:
    everything = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16).float()
    most = torch.full(everything.shape, 2**16 - 1, dtype=torch.int32)
    rounded = round_stochastically(everything, most)
    assert torch.equal(rounded.nan_to_num(7.0), everything.bfloat16().nan_to_num(7.0))
    assert round_stochastically(torch.tensor([math.nan, math.inf, -math.inf]), most[:3]).isfinite().sum() == 0


def test_small_updates_move_rounded_weights_as_far_as_they_should() -> None:
    """100 steps of a hundredth of the spacing: one spacing in the mean, where rounding to the nearest stays at 1."""
    width = 4096
    layer = ones(width)
    update = update_of(layer, optimizer={"lr": UNIT / 200}, rounding_seed=0)  # below 1 the spacing is half as wide
    for _ in range(100):
        descend(update, layer, torch.ones(1, width, dtype=torch.bfloat16))
    moved = 1 - layer.weight.detach().double()
    sigma = UNIT / 2 * math.sqrt(100 * 0.01 * 0.99 / width)
    assert abs(moved.mean() - UNIT / 2) < 4 * sigma
    assert layer.weight.dtype == torch.bfloat16


def test_nothing_of_rounded_weights_is_held_in_float32_between_steps() -> None:
    layer = ones(4096)
    update = update_of(layer, optimizer={"name": "adamw_8bit", "lr": 0.1, "beta1": 0.9}, rounding_seed=0)
    assert update.parameters == [layer.weight]
    for _ in range(2):
        backward(update, layer, torch.ones(1, 4096, dtype=torch.bfloat16))
        held = [p for group in update.optimizer.param_groups for p in group["params"]]
        assert sum(p.untyped_storage().nbytes() for p in held) == 4
        assert [p.grad for p in held] == [layer.weight.grad] == [None]
        update.step(is_finite=True)
    assert not layer.weight.equal(torch.ones_like(layer.weight))


def test_a_step_that_fails_leaves_rounded_weights_as_they_are_and_nothing_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer = ones(4096)
    update = update_of(layer, rounding_seed=0)
    backward(update, layer, torch.ones(1, 4096, dtype=torch.bfloat16))

    def fail() -> None:
        held[0].data.zero_()
        raise RuntimeError("out of memory")

    held = [p for group in update.optimizer.param_groups for p in group["params"]]
    monkeypatch.setattr(update.optimizer, "step", fail)
    with pytest.raises(RuntimeError):
        update.step(is_finite=True)
    assert [(p.untyped_storage().nbytes(), p.grad) for p in held] == [(4, None)]
    assert layer.weight.equal(torch.ones_like(layer.weight))


def rounded_run(seed: int, name: str = "weight", before: int = 0) -> Tensor:
    """The weight after one step, behind others whose learning rate was nothing."""
    layer = nn.Module()
    layer.register_parameter(name, nn.Parameter(torch.ones(1, 256, dtype=torch.bfloat16)))
    update = update_of(layer, optimizer={"lr": UNIT / 4}, rounding_seed=seed)
    weight = layer.get_parameter(name)
    for step in range(before + 1):
        (weight.float().sum() * (step == before)).backward()
        clip(update)
        update.step(is_finite=True)
    return weight.detach().clone()


def test_draws_depend_on_seed_step_and_name_alone() -> None:
    one = rounded_run(0)
    torch.rand(7)
    assert torch.equal(one, rounded_run(0))
    others = [rounded_run(1), rounded_run(0, "other"), rounded_run(0, before=1)]
    assert not any(torch.equal(one, other) for other in others)


def test_gradients_of_micro_batches_add_up_in_float32_without_masters_and_are_clipped() -> None:
    layer = ones()
    update = update_of(layer, clip_norm=0.5, rounding_seed=0)
    for value in (1.0, *[2.0**-9] * 4):  # each of which bfloat16 would round away
        backward(update, layer, torch.full((1, 4), value, dtype=torch.bfloat16))
    assert float(clip(update)) == pytest.approx(2 * (1 + 2.0**-7))
    update.step(is_finite=True)
    assert layer.weight.tolist() == [[pytest.approx(0.75, abs=2.0**-7)] * 4]


def test_averages_of_rounded_weights_move_by_less_than_their_spacing() -> None:
    layer = ones()
    update = update_of(layer, ema_decay=0.999, rounding_seed=0)
    for _ in range(3):
        descend(update, layer, torch.full((1, 4), UNIT, dtype=torch.bfloat16))
    (average,) = update.ema.shadow_params
    assert average.dtype == torch.float32
    assert ((average < 1) & (average > layer.weight)).all()
    trained = layer.weight.detach().clone()
    with update.in_use():
        assert torch.equal(layer.weight, average.bfloat16())
    assert torch.equal(layer.weight, trained)


# -- inside backward --------------------------------------------------------------------------------------------------

HOW = {"plain": {}, "rounded": {"rounding_seed": 0}}


def two_layers(dtype: torch.dtype) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8, dtype=dtype), nn.Linear(8, 1, dtype=dtype))


@pytest.mark.parametrize("how", HOW)
def test_a_gradient_is_gone_before_the_next_is_made(how: str) -> None:
    layers = two_layers(torch.bfloat16)
    update = update_of(layers, is_in_backward=True, **HOW[how])
    seen = []

    def look(_: nn.Parameter) -> None:  # of the last gradient, before it is taken
        seen.append([kept.gradient is None for kept in update._kept[2:]])

    before = layers[1].weight.detach().clone()
    layers[0].weight.register_hook(look)
    backward(update, layers, torch.ones(1, 8, dtype=torch.bfloat16))
    assert seen == [[True, True]]
    assert not torch.equal(layers[1].weight, before)
    assert all(kept.gradient is None for kept in update._kept)
    assert not update.is_whole


class Poisoned(torch.autograd.Function):
    """Hands on what it gets, and a gradient that is not finite."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return gradient * math.inf


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", ["adamw", "adamw_8bit", "adamw_4bit", "muon"])
def test_a_gradient_that_is_not_finite_changes_nothing_of_its_parameter(name: str, how: str, is_first: bool) -> None:
    layers = nn.Sequential(nn.Linear(64, 64, dtype=torch.bfloat16), nn.Linear(64, 1, dtype=torch.bfloat16))
    optimizer = {"name": name, "lr": 0.1, "beta1": 0.9}
    update = update_of(layers, is_in_backward=True, optimizer=optimizer, ema_decay=0.5, **HOW[how])
    x = torch.randn(2, 64, dtype=torch.bfloat16)
    if not is_first:
        descend(update, layers, x)
    before = [p.detach().clone() for p in (*update.parameters, *layers.parameters(), *update.ema.shadow_params)]
    state = {key: _of_first(update, key) for key in ("exp_avg", "momentum_buffer", "state1", "step")}
    hidden = Poisoned.apply(layers[0](x))
    update.backward(layers[1](hidden)[:, 0].float(), batch_size=2)
    assert not clip(update).isfinite()
    update.step(is_finite=False)
    after = [*update.parameters, *layers.parameters(), *update.ema.shadow_params]
    is_equal = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert is_equal == [True, True, False, False, True, True, False, False, True, True, True, True]
    assert state == {key: _of_first(update, key) for key in state}
    assert update.num_skipped == 1
    assert descend(update, layers, x).isfinite()
    assert not torch.equal(layers[0].weight, before[4])


def _of_first(update: Update, key: str) -> list[float] | None:
    """What the optimizer keeps of the first weight under a key."""
    value = update.optimizer_state()["state"].get("0.weight", {}).get(key)
    if isinstance(value, dict):
        value = value["codes"]
    return value.flatten().tolist() if isinstance(value, Tensor) else None


# -- where blocks are streamed, what trains of them is on the host, and all else on the device -----------------------------

TWO_PLACES: dict[str, dict[str, Any]] = {
    "rounded": {"rounding_seed": 0, "clip_norm": 0.01},
    "inside backward": {"is_in_backward": True},
    "on the host": {"is_on_host": True, "clip_norm": 0.01},
}


def test_norms_of_weights_in_two_places_are_one_norm() -> None:
    layers = nn.Sequential(nn.Linear(8, 8, device="meta"), nn.Linear(8, 1))
    update = update_of(layers, is_in_backward=True)
    for parameter in layers.parameters():
        update.backward(parameter.sum()[None], batch_size=1)
    assert clip(update).is_meta


@pytest.mark.gpu
@pytest.mark.parametrize("how", TWO_PLACES)
def test_weights_in_two_places_are_stepped_together(how: str) -> None:
    layers, plain = two_layers(torch.bfloat16), two_layers(torch.bfloat16)
    layers[0].cuda()
    plain.cuda()
    updates = [update_of(module, **TWO_PLACES[how]) for module in (layers, plain)]
    for update, module in zip(updates, (layers, plain), strict=True):
        for parameter in module.parameters():
            update.backward(parameter.float().square().sum()[None], batch_size=1)
    norms = [clip(update) for update in updates]
    torch.testing.assert_close(*norms)
    for update in updates:
        update.step(is_finite=True)
        update.drop_gradients()
    for one, other in zip(layers.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.cuda(), other, rtol=2 * UNIT, atol=1e-3)


def test_weights_of_two_threads_are_stepped_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autograd hands over gradients of weights on the host and of those on a device in different threads."""
    layers = nn.ModuleDict({name: ones(dtype=torch.float32) for name in ("host", "device")})
    update = update_of(layers, is_in_backward=True, optimizer={"lr": 0.25})
    groups, step = list(update.optimizer.param_groups), update.optimizer.step

    def slow() -> None:
        time.sleep(0.05)
        step()

    monkeypatch.setattr(update.optimizer, "step", slow)
    threads = [Thread(target=backward, args=(update, layer, torch.ones(1, 4))) for layer in layers.values()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [own.tolist() for own in layers.parameters()] == [[[0.75] * 4]] * 2
    assert list(map(id, update.optimizer.param_groups)) == list(map(id, groups))


# -- on the host ------------------------------------------------------------------------------------------------------


def test_the_host_holds_masters_gradients_and_state() -> None:
    layer = ones()
    update = update_of(layer, is_on_host=True, optimizer={"name": "adamw", "lr": 2.0**-12, "beta1": 0.9})
    (master,) = update.parameters
    assert master.dtype == torch.float32
    assert master is not layer.weight
    for _ in range(2):  # micro-batches
        backward(update, layer, torch.ones(1, 4, dtype=torch.bfloat16))
        assert layer.weight.grad is None
    assert float(clip(update)) == 4.0
    update.step(is_finite=True)
    assert master.tolist() == [[pytest.approx(1 - 2.0**-12)] * 4]
    assert layer.weight.tolist() == [[1.0] * 4]
    update.drop_gradients()
    backward(update, layer, torch.ones(1, 4, dtype=torch.bfloat16))
    update.drop_gradients()  # one that travels too
    assert clip(update) == 0


def test_float32_weights_have_masters_on_the_host_too() -> None:
    layer = ones(dtype=torch.float32)
    update = update_of(layer, is_on_host=True, optimizer={"lr": 0.25})
    descend(update, layer, torch.ones(1, 4))
    assert layer.weight.tolist() == update.parameters[0].tolist() == [[0.75] * 4]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_on_the_host_trains_what_is_on_the_device(dtype: torch.dtype) -> None:
    layers, plain = two_layers(dtype).cuda(), two_layers(dtype).cuda()
    optimizer = {"name": "adamw", "lr": 0.01, "beta1": 0.9}
    updates = (
        update_of(layers, is_on_host=True, optimizer={**optimizer, "state": "cpu"}),
        update_of(plain, optimizer=optimizer),
    )
    for step in range(5):
        x = torch.randn(3, 8, generator=torch.Generator().manual_seed(step)).to("cuda", dtype)
        for update, module in zip(updates, (layers, plain), strict=True):
            for _ in range(2):
                backward(update, module, x)
            assert clip(update).is_cuda
            update.step(is_finite=True)
            update.drop_gradients()
    assert all(p.device.type == "cpu" for p in updates[0].parameters)
    for one, other in zip(layers.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=2 * UNIT if dtype == torch.bfloat16 else 1e-4, atol=1e-5)
