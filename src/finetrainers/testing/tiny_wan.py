"""Tiny Wan, by variant: 2.1 with one denoiser, 2.2 with two experts, and 2.2 with a VAE of 16 x 16 pixels a latent.

Sources of the structures: diffusers' ``scripts/convert_wan_to_diffusers.py`` and the defaults of its classes; of
``flow_shift``, the schedulers' configurations in the models' repositories.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    DiffusionPipeline,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

from finetrainers.testing.parts import CLIP_DIM, HEAD_DIM, HEADS, T5_DIM, WORDS, aim
from finetrainers.testing.tokenizers import make_t5_tokenizer

CHANNELS, CONDITION_CHANNELS = 16, 20
"""Of the latents; of a mask (one for each frame of a latent) and the latents of given frames."""
CLIP_TOKENS = 257
"""Of a picture of 224 x 224 pixels in patches of 14, and one for all of it."""
TI2V_CHANNELS = 48
HEAD_WIDTH = 24
"""Of the transformer, whose heads together are as wide as a token's latents: a narrower one could not hand noise through."""


def _text_to_video(*, flow_shift: float, boundary: float | None = None) -> WanPipeline:
    return WanPipeline(**_parts(_vae(), _transformer, flow_shift, boundary))


def _image_to_video(
    *, flow_shift: float, boundary: float | None = None, clip_positions: int | None = None
) -> DiffusionPipeline:
    """2.1 sees the given pictures through CLIP, too; 2.2, which has a boundary, does not."""
    channels: dict[str, Any] = {"in_channels": CHANNELS + CONDITION_CHANNELS, "out_channels": CHANNELS}
    clip: dict[str, Any] = {}
    if boundary is None:
        channels |= {"image_dim": CLIP_DIM, "added_kv_proj_dim": 3 * HEAD_WIDTH, "pos_embed_seq_len": clip_positions}
        clip = {"image_encoder": _clip(), "image_processor": CLIPImageProcessor()}
    return WanImageToVideoPipeline(**_parts(_vae(), partial(_transformer, **channels), flow_shift, boundary), **clip)


def _ti2v_5b() -> WanPipeline:
    """48 latent channels at 1/16 of the frame's size; a time step for each token."""
    vae = _vae(
        z_dim=TI2V_CHANNELS,
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
        latents_mean=torch.linspace(-1.0, 1.0, TI2V_CHANNELS).tolist(),
        latents_std=torch.linspace(0.5, 1.5, TI2V_CHANNELS).tolist(),
    )
    make = partial(_transformer, heads=8, in_channels=TI2V_CHANNELS, out_channels=TI2V_CHANNELS)
    return WanPipeline(**_parts(vae, make, flow_shift=5.0), expand_timesteps=True)


def _parts(
    vae: AutoencoderKLWan,
    make_transformer: Callable[[], WanTransformer3DModel],
    flow_shift: float,
    boundary: float | None = None,
) -> dict[str, Any]:
    """What all pipelines have; two transformers if there is a noise level that they meet at."""
    tokenizer = make_t5_tokenizer(WORDS.split())
    return {
        "vae": vae,
        "transformer": make_transformer(),
        "transformer_2": None if boundary is None else make_transformer(),
        "boundary_ratio": boundary,
        "tokenizer": tokenizer,
        "text_encoder": UMT5EncoderModel(
            UMT5Config(vocab_size=len(tokenizer), d_model=T5_DIM, d_kv=HEAD_DIM, d_ff=64, num_layers=2, num_heads=HEADS)
        ),
        "scheduler": UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=flow_shift
        ),
    }


def _transformer(*, heads: int = 3, **channels: Any) -> WanTransformer3DModel:
    return WanTransformer3DModel(
        num_attention_heads=heads,
        attention_head_dim=HEAD_WIDTH,
        text_dim=T5_DIM,
        ffn_dim=64,
        num_layers=2,
        **channels,
    )


def _vae(**structure: Any) -> AutoencoderKLWan:
    """One residual block each and few channels; compression and latent statistics are the class's: release 2.1."""
    vae = AutoencoderKLWan(base_dim=8, num_res_blocks=1, **structure)
    mean, std = torch.tensor(vae.config.latents_mean), torch.tensor(vae.config.latents_std)
    aim(vae.encoder.conv_out, mean=mean, std=std)
    with torch.no_grad():  # what follows the encoder's last convolution keeps what that was aimed at
        vae.quant_conv.weight.copy_(torch.eye(2 * len(mean))[:, :, None, None, None])
        vae.quant_conv.bias.zero_()
    return vae


def _clip() -> CLIPVisionModel:
    """CLIP's picture encoder at its real number of tokens."""
    config = CLIPVisionConfig(
        hidden_size=CLIP_DIM,
        intermediate_size=2 * CLIP_DIM,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        image_size=224,
        patch_size=14,
    )
    return CLIPVisionModel(config)


WAN: Mapping[str, Callable[[], DiffusionPipeline]] = {
    "2.1-t2v": partial(_text_to_video, flow_shift=3.0),
    "2.1-i2v": partial(_image_to_video, flow_shift=3.0),
    "2.1-flf2v": partial(_image_to_video, flow_shift=5.0, clip_positions=2 * CLIP_TOKENS),
    "2.2-t2v-a14b": partial(_text_to_video, flow_shift=3.0, boundary=0.875),
    "2.2-i2v-a14b": partial(_image_to_video, flow_shift=3.0, boundary=0.9),
    "2.2-ti2v-5b": _ti2v_5b,
}
"""The family's models, the default first."""
