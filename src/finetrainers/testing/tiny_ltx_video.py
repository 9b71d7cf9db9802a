"""Tiny LTX-Video, by release: each with its VAE's structure, its scheduler and the pipeline class that it names.

Source of the structures: diffusers' ``scripts/convert_ltx_to_diffusers.py``. 0.9.8 is built like 0.9.7, and the VAE of 0.9.7
like that of 0.9.5.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import (
    AutoencoderKLLTXVideo,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    LTXConditionPipeline,
    LTXPipeline,
    LTXVideoTransformer3DModel,
)

from finetrainers.testing.parts import HEAD_DIM, HEADS, T5_DIM, WORDS, aim, t5
from finetrainers.testing.tokenizers import make_t5_tokenizer

CHANNELS = 16
DYNAMIC_SHIFT = {
    "use_dynamic_shifting": True,
    "base_shift": 0.95,
    "max_shift": 2.05,
    "base_image_seq_len": 1024,
    "max_image_seq_len": 4096,
    "shift_terminal": 0.1,
}
NO_SHIFT = {"use_dynamic_shifting": False}
# One layer a block; everything else, compression included, is the class's default: release 0.9.0.
ENCODER_090: dict[str, Any] = {"block_out_channels": (8, 8, 16, 16), "layers_per_block": (1,) * 5}
VAE_090 = {**ENCODER_090, **{f"decoder_{key}": value for key, value in ENCODER_090.items()}}
TIMESTEP_DECODER: dict[str, Any] = {
    "decoder_block_out_channels": (8, 16, 32),  # each twice the one before, and 8 sub-pixels of one channel
    "decoder_layers_per_block": (1,) * 4,
    "decoder_spatio_temporal_scaling": (True,) * 3,
    "upsample_residual": (True,) * 3,
    "upsample_factor": (2,) * 3,
    "timestep_conditioning": True,
}
VAE_091 = {
    **ENCODER_090,
    **TIMESTEP_DECODER,
    "block_out_channels": (8, 8, 8, 8),
    "decoder_inject_noise": (True, True, True, False),
}
VAE_095 = {
    **TIMESTEP_DECODER,
    "block_out_channels": (8, 8, 8, 8, 8),
    "layers_per_block": (1,) * 5,
    "down_block_types": ("LTXVideo095DownBlock3D",) * 4,
    "downsample_type": ("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
    "spatio_temporal_scaling": (True,) * 4,
    "decoder_inject_noise": (False,) * 4,
    "spatial_compression_ratio": 32,  # the first two blocks halve half of it: the default would say 64 and 16
    "temporal_compression_ratio": 8,
}


def _release_090() -> DiffusionPipeline:
    return _make(LTXPipeline, VAE_090, DYNAMIC_SHIFT)


def _release_091() -> DiffusionPipeline:
    return _make(LTXPipeline, VAE_091, DYNAMIC_SHIFT)


def _release_095() -> DiffusionPipeline:
    return _make(LTXPipeline, VAE_095, NO_SHIFT)


def _release_097() -> DiffusionPipeline:
    """Of 13 instead of 2 billion parameters: its heads are wider."""
    return _make(LTXConditionPipeline, VAE_095, NO_SHIFT, head_dim=HEAD_DIM + 4)


def _make(
    pipeline: type[DiffusionPipeline], vae_settings: Mapping[str, Any], schedule: Mapping[str, Any], head_dim: int = HEAD_DIM
) -> DiffusionPipeline:
    """16 latent channels at 1/32 of the frame's size and 1/8 of the frames, each with its own mean and deviation."""
    vae = AutoencoderKLLTXVideo(latent_channels=CHANNELS, **vae_settings)
    vae.latents_mean.copy_(0.5 * torch.randn(CHANNELS))
    vae.latents_std.copy_(0.5 + torch.rand(CHANNELS))
    aim(vae.encoder.conv_out.conv, mean=vae.latents_mean, std=vae.latents_std)
    transformer = LTXVideoTransformer3DModel(
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_layers=2,
        num_attention_heads=HEADS,
        attention_head_dim=head_dim,
        cross_attention_dim=HEADS * head_dim,
        caption_channels=T5_DIM,
    )
    tokenizer = make_t5_tokenizer(WORDS.split(), max_length=128)
    return pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**schedule),
        vae=vae,
        text_encoder=t5(tokenizer),
        tokenizer=tokenizer,
        transformer=transformer,
    )


LTX_VIDEO: Mapping[str, Callable[[], DiffusionPipeline]] = {
    "0.9.0": _release_090,
    "0.9.1": _release_091,
    "0.9.5": _release_095,
    "0.9.7": _release_097,
}
"""Every release's factory, the default first."""
