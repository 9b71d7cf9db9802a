"""Room for control in a pretrained denoiser: zero columns in the projection that takes latents in.

Shape letters as in ``finetrainers.batch``; E is the number of control channels.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from finetrainers.errors import ModelError
from finetrainers.models.base import ModelAdapter, Settings


class WideLinear(nn.Linear):
    """A linear layer with columns for control, which computes in the type of its input; weights may train in float32."""

    columns: tuple[int, int, int]
    """Inputs that are noisy latents, control, and a task's own."""
    repeats: int = 1
    """How often these three follow each other: with channels last, once for each latent that a token has of a channel."""

    def forward(self, input: Tensor) -> Tensor:
        return _in_two_parts(self, input, nn.functional.linear, dim=-1)


class WideConv2d(nn.Conv2d):
    """As ``WideLinear``."""

    columns: tuple[int, int, int]
    repeats: int = 1

    def forward(self, input: Tensor) -> Tensor:
        return _in_two_parts(self, input, self._conv_forward, dim=1)


class WideConv3d(nn.Conv3d):
    """As ``WideLinear``."""

    columns: tuple[int, int, int]
    repeats: int = 1

    def forward(self, input: Tensor) -> Tensor:
        return _in_two_parts(self, input, self._conv_forward, dim=1)


Layer = nn.Linear | nn.Conv2d | nn.Conv3d
WideLayer = WideLinear | WideConv2d | WideConv3d


def widen_input(denoiser: Any, adapter: ModelAdapter, extra: int) -> None:
    """Let the input projection take E more channels, behind the C noisy ones; before training they change no bit.

    The weights for them are zero, and stand before those for the channels that an image task adds. Names, types and devices
    of the parameters, and whether they train, stay as they were, and so does ``denoiser.config``: ``widened_settings`` tells
    what that of an exported model is.

    Args:
        denoiser: One of the components that are trained, not yet wrapped: neither by LoRA nor by FSDP.
        adapter: Of its family; ``input_layer``, ``input_layout`` and ``grid`` say what is widened, and where.
        extra: E.

    Raises:
        ModelError: If the layer is no linear layer and no convolution, takes too few channels, or is widened already.
    """
    layer: nn.Module = denoiser.get_submodule(adapter.input_layer)
    if type(layer) is nn.Linear:
        values = adapter.grid.values_per_channel
    elif type(layer) in (nn.Conv2d, nn.Conv3d) and layer.groups == 1:
        values = 1
    else:
        raise ModelError(
            f"{type(denoiser).__name__}.{adapter.input_layer} is a {type(layer).__name__}: "
            "control can widen nn.Linear, and nn.Conv2d and nn.Conv3d without groups"
        )
    assert isinstance(layer, Layer)
    repeats = values if adapter.input_layout == "channels_last" else 1
    noisy, control, inputs = values * adapter.grid.channels, values * extra, layer.weight.shape[1]
    if inputs < noisy or inputs % repeats:
        raise ModelError(
            f"{type(denoiser).__name__}.{adapter.input_layer} takes {inputs} values, but grid and input_layout of "
            f"{adapter.name} say that {noisy} are noisy latents ({adapter.grid.channels} channels, {values} of each); fix "
            "them, or set input_layout = None to take no control"
        )
    columns = noisy // repeats, control // repeats, (inputs - noisy) // repeats
    wide = _like(layer, columns, repeats).train(layer.training)
    wide.weight = nn.Parameter(_insert_zeros(layer.weight, wide), requires_grad=layer.weight.requires_grad)
    wide.bias = layer.bias
    denoiser.set_submodule(adapter.input_layer, wide)


def widened_settings(settings: Settings, adapter: ModelAdapter, extra: int) -> dict[str, int]:
    """Tell what of a denoiser's config differs once its input is widened by E channels.

    Args:
        settings: ``denoiser.config``, with the defaults that a config.json may leave out.
        adapter: Of its family.
        extra: E.
    """
    arranged = adapter.arrange(torch.empty(1, extra, adapter.grid.frame_patch, *[adapter.grid.patch] * 2, device="meta"))
    changes = {"in_channels": settings["in_channels"] + arranged.shape[adapter.channel_dim]}
    if "out_channels" in settings and settings["out_channels"] is None:  # which means: as many as go in
        changes["out_channels"] = settings["in_channels"]
    return changes


def two_parts(layer: WideLayer, values: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Split what a layer takes, or its weights, along a dimension: what the plain layer has, and what is control's.

    Where columns repeat, the layer is a linear one, and the dimension the last.
    """
    if layer.repeats == 1:
        noisy, control, own = values.split(layer.columns, dim)
        return _join(noisy, own, dim), control
    noisy, control, own = values.unflatten(-1, (layer.repeats, -1)).split(layer.columns, -1)
    return _join(noisy, own, -1).flatten(-2), control.flatten(-2)


def _like(layer: Layer, columns: tuple[int, int, int], repeats: int) -> WideLayer:
    """Make a layer that takes control, too, as yet without weights."""
    inputs, has_bias = repeats * sum(columns), layer.bias is not None
    wide: WideLayer
    if isinstance(layer, nn.Linear):
        wide = WideLinear(inputs, layer.out_features, has_bias, device="meta")
    else:
        kind: Any = WideConv2d if isinstance(layer, nn.Conv2d) else WideConv3d  # arguments are tuples of 2 or of 3
        wide = kind(
            inputs,
            layer.out_channels,
            layer.kernel_size,
            stride=layer.stride,
            padding=layer.padding,
            dilation=layer.dilation,
            bias=has_bias,
            padding_mode=layer.padding_mode,
            device="meta",
        )
    wide.columns, wide.repeats = columns, repeats
    return wide


def _insert_zeros(weight: Tensor, layer: WideLayer) -> Tensor:
    """Insert a layer's columns for control: [O, I, ...] to [O, I', ...]."""
    noisy, control, own = layer.columns
    plain = weight.detach().unflatten(1, (layer.repeats, noisy + own))
    zeros = plain.new_zeros(*plain.shape[:2], control, *plain.shape[3:])
    return torch.cat([plain[:, :, :noisy], zeros, plain[:, :, noisy:]], dim=2).flatten(1, 2)


def _in_two_parts(layer: WideLayer, x: Tensor, product: Callable[..., Tensor], *, dim: int) -> Tensor:
    """Compute what the plain layer makes of its own inputs, and add the control's part, which is zero before training.

    In one product over all inputs, kernels would sum the first part in another order, which changes its last bits.
    """
    weight, bias = layer.weight.to(x.dtype), None if layer.bias is None else layer.bias.to(x.dtype)
    (plain, control), (plain_weight, control_weight) = two_parts(layer, x, dim), two_parts(layer, weight, 1)
    return product(plain, plain_weight, bias) + product(control, control_weight, None)


def _join(noisy: Tensor, own: Tensor, dim: int) -> Tensor:
    """Join what the plain layer has, in the memory layout that it would have there: kernels are chosen by it."""
    return torch.cat([noisy, own], dim) if own.shape[dim] else noisy.clone()
