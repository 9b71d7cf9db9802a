"""Looks once, before the first step, whether control reaches the columns that were made for it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from finetrainers.batch import Batch, Medium
from finetrainers.conditioning.widen import WideLayer, WideLinear, two_parts
from finetrainers.data.conditions import CONTROL
from finetrainers.errors import ModelError
from finetrainers.models import ModelAdapter
from finetrainers.objectives.base import Predict

NOISY, SHOWN = 5.0, -7.0
"""Values that stand for noisy latents and for those of a control: exact in each data type, and no other's."""


class _LayerReachedError(Exception):
    """Ends a forward pass; no failure."""

    def __init__(self, layer: WideLayer, values: Tensor) -> None:
        super().__init__()
        self.layer, self.values = layer, values


def verify_columns(denoisers: Sequence[Any], adapter: ModelAdapter, predict: Predict, batch: Batch) -> None:
    """Predict as far as the widened layer, with one value for all that is noisy and another for all that is control.

    Args:
        denoisers: That are widened.
        adapter: Of their family.
        predict: Asks the denoisers for a batch.
        batch: One sample with a control, whose latents do not matter.

    Raises:
        ModelError: If the layer finds the control in other columns than those that ``input_layout`` says.
    """
    control = Medium(torch.full_like(batch.latents, SHOWN), torch.ones_like(batch.sigma))
    noisy, told = torch.full_like(batch.latents, NOISY), replace(batch, media={**batch.media, CONTROL: control})
    layer, values = _input_of(denoisers, lambda: predict(noisy, batch.sigma, told), adapter)
    plain, shown = two_parts(layer, values, -1 if isinstance(layer, WideLinear) else 1)
    if int((shown == SHOWN).sum()) != batch.latents.numel() or bool((plain == SHOWN).any()):
        raise ModelError(
            f"model.adapter: the control does not reach its columns of {adapter.input_layer}: {adapter.name} has "
            f"input_layout = {adapter.input_layout!r}, and denoise hands values over in another order; state the order of a "
            "token's values (channels_last for [patch, patch, c]), or None to take no control"
        )


def _input_of(denoisers: Sequence[Any], predict: Callable[[], object], adapter: ModelAdapter) -> tuple[WideLayer, Tensor]:
    """Return the first widened layer that a prediction reaches, and what it takes there; nothing more is computed."""

    def stop(layer: Any, arguments: Any) -> None:
        raise _LayerReachedError(layer, arguments[0])

    layers = [module for denoiser in denoisers for module in denoiser.modules() if isinstance(module, WideLayer)]
    hooks = [layer.register_forward_pre_hook(stop) for layer in layers]
    try:
        with torch.no_grad():
            predict()
    except _LayerReachedError as reached:
        return reached.layer, reached.values
    finally:
        for hook in hooks:
            hook.remove()
    raise ModelError(
        f"model.adapter: denoise of {adapter.name} calls no {adapter.input_layer}, which is its input_layer; name the layer "
        "that takes latents in, or set input_layout = None to take no control"
    )
