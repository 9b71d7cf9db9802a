"""FLUX.1: packed tokens."""

from typing import Any

from cases import Case
from torch import Tensor

from finetrainers.models.flux import unpack


def read(pipeline: Any, told: Any, model: Any) -> tuple[Tensor, Tensor]:
    rows = int(told["img_ids"][:, 1].max()) + 1
    columns = int(told["img_ids"][:, 2].max()) + 1
    return unpack(told["hidden_states"], rows, columns)[:, :, None], told["timestep"][:, None]


def unpacked(pipeline: Any, tokens: Tensor, shape: tuple[int, ...]) -> Tensor:
    step = pipeline.vae_scale_factor
    return pipeline._unpack_latents(tokens, shape[2] * step, shape[3] * step, step)[:, :, None]


CASES = [
    Case("flux", "dev", "text-to-image", (1, 64, 96), read, unpacked, unpacked, {"guidance_scale": 1.0}),
    Case("flux", "schnell", "text-to-image", (1, 96, 64), read, unpacked, unpacked),
]
