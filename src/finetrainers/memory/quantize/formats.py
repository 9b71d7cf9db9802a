"""Formats that frozen weights rest in: how a matrix becomes numbers of fewer bits, and comes back.

Shape letters: a weight is [O, I], outputs and inputs of a linear layer; N is O times I.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from finetrainers.compat.packages import import_quietly, require

BLOCK = 64
"""Weights that share one scale in nf4."""


class Format(ABC):
    """What a weight of type ``dtype`` is stored as: numbers and, but for casts, scales."""

    package: str | None = None
    """Optional package that it needs; the extra of finetrainers has the same name."""

    @abstractmethod
    def compress(self, weight: Tensor) -> tuple[Tensor, Tensor | None]:
        """Turn a weight [O, I] into numbers and scales, on its device."""

    @abstractmethod
    def decompress(self, numbers: Tensor, scales: Tensor | None, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """Make the weight [O, I] of a type again."""


class Cast(Format):
    """Float8 without scales: each number is rounded by itself, as diffusers' layerwise casting does."""

    def __init__(self, stored: torch.dtype) -> None:
        self._stored = stored

    def compress(self, weight: Tensor) -> tuple[Tensor, Tensor | None]:
        largest = torch.finfo(self._stored).max
        return weight.clamp(-largest, largest).to(self._stored), None  # beyond, e4m3 has nothing but NaN

    def decompress(self, numbers: Tensor, scales: Tensor | None, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        return numbers.to(dtype)


class Scaled(Format):
    """torchao's weight-only formats with one scale for each row: numbers [O, I], scales [O, 1] in float32.

    Its tensors are taken apart: their product keeps the weight in full precision for the backward pass.
    """

    package = "torchao"

    def __init__(self, config: str) -> None:
        self._config = config

    def compress(self, weight: Tensor) -> tuple[Tensor, Tensor | None]:
        torchao = import_quietly("torchao.quantization")
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        layer.weight = nn.Parameter(weight, requires_grad=False)
        config = getattr(torchao, self._config)
        torchao.quantize_(layer, config(granularity=torchao.PerRow(), set_inductor_config=False, version=2))
        stored: Any = layer.weight  # one of torchao's tensors
        return stored.qdata, stored.scale

    def decompress(self, numbers: Tensor, scales: Tensor | None, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        assert scales is not None
        if numbers.dtype == torch.int8:
            return torch.mul(numbers, scales, out=torch.empty(shape, dtype=dtype, device=numbers.device))  # one kernel
        return numbers.to(dtype).mul_(scales)  # exact in dtype, and rounded once; float8 is multiplied by nothing else


class NormalFloat(Format):
    """bitsandbytes' nf4 (arXiv:2305.14314): numbers [N / 2] of two to a byte, scales [N / 64] in float32."""

    package = "bitsandbytes"

    def compress(self, weight: Tensor) -> tuple[Tensor, Tensor | None]:
        import_quietly("bitsandbytes")
        # As one row of whole blocks: for narrow matrices, and odd sizes, the kernels for CPUs have other ideas.
        flat = nn.functional.pad(weight.reshape(1, -1), (0, -weight.numel() % BLOCK))
        numbers, scales = torch.ops.bitsandbytes.quantize_4bit(flat, BLOCK, "nf4", torch.uint8)
        return numbers.flatten(), scales

    def decompress(self, numbers: Tensor, scales: Tensor | None, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        count = numbers.numel() * 2
        flat = torch.ops.bitsandbytes.dequantize_4bit(numbers, scales, BLOCK, "nf4", [1, count], dtype)
        weight: Tensor = flat[0, : shape[0] * shape[1]].view(shape)
        return weight


FORMATS: dict[str, Format] = {
    "fp8_e4m3": Cast(torch.float8_e4m3fn),
    "fp8_e5m2": Cast(torch.float8_e5m2),
    "fp8_scaled": Scaled("Float8WeightOnlyConfig"),
    "int8": Scaled("Int8WeightOnlyConfig"),
    "nf4": NormalFloat(),
}
"""By the values of ``memory.weights``, but for none."""


def check_format(key: str, name: str) -> None:
    """Refuse a format whose package is missing.

    Raises:
        ConfigError: With the command that installs it.
    """
    package = None if name == "none" else FORMATS[name].package
    if package is not None:
        require(package, key=key, value=name, way_out="set fp8_e4m3, which needs none")
