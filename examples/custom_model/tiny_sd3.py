"""A tiny random Stable Diffusion 3 of the real classes: what the adapter is tried on, without a download.

Structure is real (16 latent channels at 1/8 of the picture, shift and scale, three text encoders, the scheduler's shift),
widths are not. All widths differ, so that a mix-up does not go unnoticed.
"""

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from finetrainers.testing import make_clip_tokenizer, make_t5_tokenizer

WORDS = "a the of on in photo red green blue yellow round square ball dog cat grass house".split()
CLIP_WIDTHS, T5_WIDTH = (16, 24), 48


def make_tiny_sd3(directory, seed=0):
    """Write the pipeline into a directory, in diffusers layout, and return the directory."""
    torch.manual_seed(seed)
    clip_tokenizer, t5_tokenizer = make_clip_tokenizer(WORDS), make_t5_tokenizer(WORDS)
    pipeline = StableDiffusion3Pipeline(
        transformer=_transformer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(),
        text_encoder=_clip(clip_tokenizer, CLIP_WIDTHS[0]),
        tokenizer=clip_tokenizer,
        text_encoder_2=_clip(clip_tokenizer, CLIP_WIDTHS[1]),
        tokenizer_2=clip_tokenizer,
        text_encoder_3=_t5(t5_tokenizer),
        tokenizer_3=t5_tokenizer,
    )
    pipeline.save_pretrained(directory)
    return directory


def _transformer():
    return SD3Transformer2DModel(
        sample_size=16,
        in_channels=16,
        out_channels=16,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        caption_projection_dim=32,  # the model's own width, 2 heads of 16
        joint_attention_dim=T5_WIDTH,
        pooled_projection_dim=sum(CLIP_WIDTHS),
        pos_embed_max_size=12,
    )


def _vae():
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=4,
        latent_channels=16,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.0609,
        scaling_factor=1.5305,
    )


def _clip(tokenizer, width):
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModelWithProjection(config)


def _t5(tokenizer):
    shape = {"d_model": T5_WIDTH, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
    return T5EncoderModel(T5Config(vocab_size=len(tokenizer), feed_forward_proj="gated-gelu", **shape))
