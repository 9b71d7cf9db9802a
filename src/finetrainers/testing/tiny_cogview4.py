"""Tiny CogView4, as ``finetrainers.testing.tiny`` has it."""

import torch
from diffusers import AutoencoderKL, CogView4Pipeline, CogView4Transformer2DModel, FlowMatchEulerDiscreteScheduler
from transformers import GlmConfig, GlmModel

from finetrainers.testing.parts import HEAD_DIM, HEADS, WORDS, aim
from finetrainers.testing.tokenizers import make_glm_tokenizer

CHANNELS, WIDE_HEAD = 4, 32
"""C: 16 in the published models, whose transformer is wider than a token's latents; so is this one."""
GLM_DIM = 48
SCHEDULE = {
    "base_image_seq_len": 256,
    "base_shift": 0.25,
    "max_image_seq_len": 4096,
    "max_shift": 0.75,
    "time_shift_type": "linear",
    "use_dynamic_shifting": True,
}


def _6b() -> CogView4Pipeline:
    """Latents at 1/8 of the picture's size, which the VAE does not scale."""
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        norm_num_groups=4,
        latent_channels=CHANNELS,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
        shift_factor=0.0,
        scaling_factor=1.0,
    )
    aim(vae.encoder.conv_out, mean=torch.zeros(CHANNELS), std=torch.ones(CHANNELS))
    transformer = CogView4Transformer2DModel(
        num_layers=2,
        num_attention_heads=HEADS,
        attention_head_dim=WIDE_HEAD,
        text_embed_dim=GLM_DIM,
        time_embed_dim=32,
        condition_dim=8,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
    )
    tokenizer = make_glm_tokenizer(WORDS.split())
    text_encoder = GlmModel(
        GlmConfig(
            vocab_size=len(tokenizer),
            hidden_size=GLM_DIM,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=HEADS,
            num_key_value_heads=1,
            head_dim=HEAD_DIM,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    return CogView4Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULE),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        transformer=transformer,
    )


COGVIEW4 = {"6b": _6b}
