"""From losses to new weights: what is held in float32, what a step that is not finite leaves, and what is in use."""

from functools import partial

import pytest
import torch
from torch import nn
from updates import clip

from finetrainers.config import OptimizerConfig, ScheduleConfig
from finetrainers.optim.optimizers import build_optimizer
from finetrainers.optim.schedules import build_schedule
from finetrainers.optim.update import Update


def update_of(layer: nn.Module, *, lr: float = 1e-6, ema_decay: float | None = None, clip_norm: float = 1e9) -> Update:
    return Update(
        layer,
        dict(layer.named_parameters()),
        make_optimizer=partial(build_optimizer, OptimizerConfig(name="sgd", lr=lr, beta1=0.0, weight_decay=0.0)),
        make_schedule=partial(build_schedule, ScheduleConfig(), steps=1000),
        clip_norm=clip_norm,
        ema_decay=ema_decay,
    )


def ones(dtype: torch.dtype) -> nn.Linear:
    layer = nn.Linear(4, 1, bias=False, dtype=dtype)
    nn.init.ones_(layer.weight)
    return layer


def descend(update: Update, layer: nn.Module, x: torch.Tensor) -> None:
    """One step that adds x to the gradient of the only weight."""
    update.backward(layer(x)[:, 0].float(), batch_size=1)
    update.step(is_finite=True)
    update.drop_gradients()
    update.is_whole = True


def test_small_updates_add_up_below_the_spacing_of_bfloat16() -> None:
    layer = ones(torch.bfloat16)
    update = update_of(layer, lr=2.0**-12)
    x = torch.ones(1, 4, dtype=torch.bfloat16)
    for _ in range(2):
        descend(update, layer, x)
    assert layer.weight.dtype == torch.bfloat16
    assert layer.weight.tolist() == [[1.0] * 4]  # 2 ** -8 lies between 1 and the next value below
    for _ in range(14):
        descend(update, layer, x)
    assert layer.weight.tolist() == [[1 - 2.0**-8] * 4]


def test_gradients_of_micro_batches_add_up_in_float32() -> None:
    layer = ones(torch.bfloat16)
    update = update_of(layer)
    for value in (1.0, *[2.0**-9] * 4):  # each of which bfloat16 would round away
        update.backward(layer(torch.full((1, 4), value, dtype=torch.bfloat16))[:, 0].float(), batch_size=1)
    (master,) = update.parameters
    assert master.grad is not None
    assert master.grad.tolist() == [[1 + 2.0**-7] * 4]
    assert layer.weight.grad is None
    assert float(clip(update)) == pytest.approx(2 * (1 + 2.0**-7))


def test_weights_in_float32_are_their_own_masters() -> None:
    layer = ones(torch.float32)
    assert update_of(layer).parameters == [layer.weight]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_that_is_not_finite_changes_no_weight_and_no_average(dtype: torch.dtype) -> None:
    layer = ones(dtype)
    update = update_of(layer, lr=0.5, ema_decay=0.5)
    descend(update, layer, torch.ones(1, 4, dtype=dtype))
    before = [layer.weight.clone(), update.parameters[0].detach().clone(), update.ema.shadow_params[0].clone()]
    update.backward(layer(torch.full((1, 4), torch.inf, dtype=dtype))[:, 0].float(), batch_size=1)
    assert not torch.isfinite(clip(update))
    update.step(is_finite=False)
    update.drop_gradients()
    after = [layer.weight, update.parameters[0].detach(), update.ema.shadow_params[0]]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert update.num_skipped == 1
    descend(update, layer, torch.ones(1, 4, dtype=dtype))  # and nothing of it is left in the next
    assert torch.isfinite(layer.weight).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_averages_are_in_use_and_then_what_trains_is_back(dtype: torch.dtype) -> None:
    layer = ones(dtype)
    update = update_of(layer, lr=0.5, ema_decay=0.5)
    for _ in range(3):
        descend(update, layer, torch.ones(1, 4, dtype=dtype))
    trained, average = layer.weight.detach().clone(), update.ema.shadow_params[0].to(dtype)
    with update.in_use():
        assert torch.equal(layer.weight, average)
        assert not torch.equal(layer.weight, trained)
        assert not update.is_whole
    with pytest.raises(RuntimeError), update.in_use():
        raise RuntimeError
    assert torch.equal(layer.weight, trained)
    assert update.is_whole


def test_masters_stand_in_the_model_only_while_they_are_saved() -> None:
    layer = ones(torch.bfloat16)
    update, weight = update_of(layer), layer.weight
    with update.masters():
        assert list(layer.parameters()) == update.parameters
        with torch.no_grad():
            layer.weight.fill_(3.0)  # as restoring does
    assert layer.weight is weight
    assert weight.tolist() == [[3.0] * 4]
