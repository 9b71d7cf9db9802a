"""Tiny CogVideoX: as ``finetrainers.testing.tiny`` has it, one factory for each published model."""

from typing import Any

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)

from finetrainers.testing.parts import HEADS, T5_DIM, WORDS, aim, t5
from finetrainers.testing.tokenizers import make_t5_tokenizer

CHANNELS, WIDE_HEAD = 4, 32
"""C: 16 in the published models, whose transformers are wider than a token's latents; so is this one."""
MAX_TEXT = 16
"""Prompt tokens: 226 in the published models."""
SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "clip_sample": False,
    "timestep_spacing": "trailing",
}
ROTARY = {"use_rotary_positional_embeddings": True}
V1_5 = {**ROTARY, "patch_size_t": 2, "patch_bias": False, "sample_height": 12, "sample_width": 14}


def _2b() -> CogVideoXPipeline:
    return _text_to_video(CogVideoXDDIMScheduler(**SCHEDULE, snr_shift_scale=3.0), scaling_factor=1.15258426)


def _5b() -> CogVideoXPipeline:
    return _text_to_video(_dpm(), **ROTARY)


def _1_5_5b() -> CogVideoXPipeline:
    return _text_to_video(_dpm(), invert_scale_latents=True, **V1_5)


def _5b_i2v() -> CogVideoXImageToVideoPipeline:
    return _image_to_video(_dpm(), **ROTARY, use_learned_positional_embeddings=True)


def _1_5_5b_i2v() -> CogVideoXImageToVideoPipeline:
    return _image_to_video(_dpm(), invert_scale_latents=True, ofs_embed_dim=32, **V1_5)


def _dpm() -> CogVideoXDPMScheduler:
    return CogVideoXDPMScheduler(**SCHEDULE, snr_shift_scale=1.0)


def _text_to_video(scheduler: Any, **settings: Any) -> CogVideoXPipeline:
    return CogVideoXPipeline(scheduler=scheduler, **_components(in_channels=CHANNELS, **settings))


def _image_to_video(scheduler: Any, **settings: Any) -> CogVideoXImageToVideoPipeline:
    return CogVideoXImageToVideoPipeline(scheduler=scheduler, **_components(in_channels=2 * CHANNELS, **settings))


def _components(*, scaling_factor: float = 0.7, invert_scale_latents: bool = False, **transformer: Any) -> dict[str, Any]:
    """Latents at 1/8 of the frame's size and 1/4 of the frames; a native size of 9 frames 64 x 96."""
    vae = AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=CHANNELS,
        scaling_factor=scaling_factor,
        invert_scale_latents=invert_scale_latents,
    )
    aim(vae.encoder.conv_out.conv, mean=torch.zeros(CHANNELS), std=torch.full([CHANNELS], 1 / scaling_factor))
    native = {"sample_height": 8, "sample_width": 12, "sample_frames": 9}
    denoiser = CogVideoXTransformer3DModel(
        num_layers=2,
        num_attention_heads=HEADS,
        attention_head_dim=WIDE_HEAD,
        text_embed_dim=T5_DIM,
        time_embed_dim=32,
        out_channels=CHANNELS,
        max_text_seq_length=MAX_TEXT,
        **(native | transformer),
    )
    if transformer.get("use_learned_positional_embeddings"):
        denoiser.patch_embed.pos_embedding.copy_(torch.randn_like(denoiser.patch_embed.pos_embedding))  # no sines
    tokenizer = make_t5_tokenizer(WORDS.split(), max_length=226)
    return {"vae": vae, "transformer": denoiser, "tokenizer": tokenizer, "text_encoder": t5(tokenizer)}


COGVIDEOX = {"2b": _2b, "5b": _5b, "1.5-5b": _1_5_5b, "5b-i2v": _5b_i2v, "1.5-5b-i2v": _1_5_5b_i2v}
