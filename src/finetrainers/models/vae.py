"""Pixels to normalized latents, for every VAE in one place.

Shape letters as in ``finetrainers.batch``; P and Q are pixel height and width, K pixel frames.
"""

from typing import Any

import torch
from torch import Tensor

from finetrainers.models.base import ModelAdapter
from finetrainers.models.pretrained import Pretrained
from finetrainers.models.stated import check_latents, statistic

NORMAL = ("latents_mean", "latents_std")
"""What normalizes latents, where a VAE has figures for each channel."""


def load_vae(pretrained: Pretrained) -> Any:
    """Load the VAE onto the host, with what ``memory`` asks for; it decodes latents of any data type in its own."""
    return set_up_vae(pretrained.load("vae"), pretrained)


def set_up_vae(vae: Any, pretrained: Pretrained) -> Any:
    """Give a VAE what ``memory`` asks for, and let it decode latents of any data type in its own."""
    if pretrained.memory.vae_tiling:
        vae.enable_tiling()
    if pretrained.memory.vae_slicing:
        vae.enable_slicing()
    decode = vae.decode

    def decode_any(latents: Tensor, *rest: Any, **options: Any) -> Any:
        # Some pipelines hand over latents in the transformer's type: they expect all components to share one.
        return decode(latents.to(vae.dtype), *rest, **options)

    vae.decode = decode_any  # of this object alone
    return vae


def latent_statistics(vae: Any, adapter: ModelAdapter) -> tuple[Tensor, Tensor]:
    """Shift and scale, each [C, 1, 1, 1] float32, such that (latents - shift) * scale is what the denoiser sees."""
    config = vae.config
    if adapter.latents.statistics == "config":
        mean, std = (statistic(config.get(name), name, adapter).view(-1, 1, 1, 1) for name in NORMAL)
        return mean, 1 / std
    if adapter.latents.statistics == "buffers":
        buffers = dict(vae.named_buffers())
        mean, std = (statistic(buffers.get(name), name, adapter).view(-1, 1, 1, 1) for name in NORMAL)
        return mean, config.scaling_factor / std
    stated = config.get("shift_factor")  # HunyuanVideo's VAE knows none
    constants = (0.0 if stated is None else stated, config.scaling_factor)
    shift, scale = (torch.full((adapter.grid.channels, 1, 1, 1), float(constant)) for constant in constants)
    return shift, scale


@torch.no_grad()
def encode_pixels(vae: Any, adapter: ModelAdapter, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
    """Encode uint8 pixels [B, K, P, Q, 3].

    Returns:
        Mean and standard deviation of the VAE's posterior, [B, C, F, H, W], normalized in float32 and then in the VAE's
        data type, on the CPU; the deviation is None where the model was trained on the posterior's mode.
    """
    mean, std = encode_video(vae, adapter, scale_pixels(pixels))
    return mean, std if adapter.latents.samples_posterior else None


def scale_pixels(pixels: Tensor) -> Tensor:
    """Turn uint8 pixels [B, K, P, Q, 3] into what VAEs take, [B, 3, K, P, Q] in -1..1, float32."""
    return pixels.permute(0, 4, 1, 2, 3).float() / 127.5 - 1


@torch.no_grad()
def encode_video(vae: Any, adapter: ModelAdapter, scaled: Tensor) -> tuple[Tensor, Tensor]:
    """Encode pixels [B, 3, K, P, Q] in -1..1 into the mean and the standard deviation of the posterior, normalized.

    Returns:
        Two tensors [B, C, F, H, W] on the CPU, in the VAE's data type.

    Raises:
        ModelError: If the adapter says another shape, or other statistics.
    """
    scaled = scaled.to(vae.device, vae.dtype)
    posterior = vae.encode(scaled[:, :, 0] if adapter.latents.is_image_vae else scaled).latent_dist
    mean, std = (as_video(t.float().cpu(), adapter) for t in (posterior.mean, posterior.std))
    frames, height, width = scaled.shape[2:]
    check_latents(mean, adapter, (frames, height, width))
    shift, scale = latent_statistics(vae, adapter)
    mean = ((mean - shift) * scale).to(vae.dtype)
    return mean, (std * scale).expand_as(mean).to(vae.dtype)


def as_video(x: Tensor, adapter: ModelAdapter) -> Tensor:
    """Give an image VAE's [B, C, H, W] a frame axis."""
    return x[:, :, None] if adapter.latents.is_image_vae else x
