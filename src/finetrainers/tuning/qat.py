"""Training for quantisation (QAT) through torchao: the weights train as the quantised model will round them.

In a forward pass the linear layers of the blocks round their weights, and with int8_int4 what they are given; gradients pass
the rounding as if it were not there (straight through). What is exported is the quantised model.
"""

from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

import torch
from torch import nn

from finetrainers.compat.packages import import_quietly
from finetrainers.files.whole import sort_metadata_of
from finetrainers.models.blocks import is_linear_in_block

GROUP = 32
"""Weights of a row that share one scale, where they have 4 bits."""


def train_rounded(denoiser: nn.Module, kind: str, blocks: Sequence[str]) -> None:
    """Let the layers of the blocks compute with rounded weights; weights and names of parameters stay.

    Layers whose rows are no whole groups stay as they are.

    Args:
        denoiser: What trains.
        kind: As ``tuning.qat`` says.
        blocks: Class names of its repeated blocks.
    """
    step = 1 if kind == "int8" else GROUP
    layers = {name: layer for name, layer in denoiser.named_modules() if is_linear_in_block(denoiser, name, blocks)}
    whole = {name for name, layer in layers.items() if isinstance(layer, nn.Linear) and layer.in_features % step == 0}
    _change(denoiser, kind, "prepare", whole)


def rounded_layers(denoiser: nn.Module) -> frozenset[str]:
    """Names of the layers that compute with rounded weights."""
    layer_class = import_quietly("torchao.quantization.qat").FakeQuantizedLinear
    return frozenset(name for name, layer in denoiser.named_modules() if isinstance(layer, layer_class))


def save_quantized(denoiser: Any, directory: Path, *, kind: str, layers: Set[str]) -> None:
    """Quantise layers of a denoiser that does not train, and write it so that diffusers loads it, without pickles."""
    for step in ("prepare", "convert"):
        _change(denoiser, kind, step, layers)
    config = import_quietly("diffusers").TorchAoConfig(_format(kind))
    denoiser.hf_quantizer = import_quietly("diffusers.quantizers.torchao").TorchAoHfQuantizer(config, pre_quantized=True)
    denoiser.hf_quantizer.validate_environment(torch_dtype=denoiser.dtype)
    denoiser.register_to_config(quantization_config=config)
    denoiser.save_pretrained(directory, safe_serialization=True)
    for file in directory.glob("*.safetensors"):
        sort_metadata_of(file)


def _format(kind: str) -> Any:
    torchao = import_quietly("torchao.quantization")
    group, int4 = torchao.PerGroup(GROUP), torch.int4  # type: ignore[attr-defined]  # torch's own stubs lack it
    match kind:
        case "int8":
            return torchao.IntxWeightOnlyConfig(weight_dtype=torch.int8, granularity=torchao.PerAxis(0))
        case "int4":
            return torchao.IntxWeightOnlyConfig(weight_dtype=int4, granularity=group)
        case _:
            return torchao.Int8DynamicActivationIntxWeightConfig(weight_dtype=int4, weight_granularity=group)


def _change(denoiser: nn.Module, kind: str, step: str, layers: Set[str]) -> None:
    torchao, qat = import_quietly("torchao.quantization"), import_quietly("torchao.quantization.qat")
    torchao.quantize_(denoiser, qat.QATConfig(_format(kind), step=step), filter_fn=lambda _, name: name in layers)
