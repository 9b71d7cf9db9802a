"""Tiny random pipelines of the real classes, in diffusers layout on disk: what tests train instead of a download.

Structure is real (compression, latent statistics, scheduler, guidance, tokenizers), widths are not, so that code which
works on a tiny model works on the model it stands for. A new family is one factory and one line in ``FACTORIES``.
"""

import difflib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLLTXVideo,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    LTXPipeline,
    LTXVideoTransformer3DModel,
)
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerBase, T5Config, T5EncoderModel

from finetrainers.errors import ConfigError
from finetrainers.testing.tokenizers import make_clip_tokenizer, make_t5_tokenizer

WORDS = """
    a an the of on in at with and to is are it no photo picture video clip scene style red green blue yellow orange
    purple black white grey brown small large round square circle triangle star cube ball cat dog horse bird fish person
    man woman child robot car train boat house tree flower mountain river sea sky sun moon left right above below
    walking running jumping turning moving slowly quickly holding crushing
"""
"""What the tokenizers know whole; any other word is spelled."""
FLUX_SCHEDULE = {"base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256, "max_image_seq_len": 4096}
LTX_SCHEDULE = {
    "use_dynamic_shifting": True,
    "base_shift": 0.95,
    "max_shift": 2.05,
    "base_image_seq_len": 1024,
    "max_image_seq_len": 4096,
    "shift_terminal": 0.1,
}
HEADS, HEAD_DIM = 2, 16
T5_DIM, CLIP_DIM = 48, 16
"""Unlike each other and unlike the transformer's 32: a mix-up does not go unnoticed."""
SILU_POWER = 0.3558
"""Mean of silu(x)**2 for x of the standard normal distribution: what reaches an encoder's last convolution."""
POSTERIOR_STD = 0.1
"""Standard deviation of the encoder's posterior, relative to that of the latents: sample() and mode() differ."""

Choice = TypeVar("Choice")


def make_tiny(family: str, directory: Path, *, variant: str | None = None, seed: int = 0) -> Path:
    """Write the pipeline of a family into the directory, in float32, and return the directory.

    The files depend on nothing but the arguments, and the global random state is left as it was.
    ``variant`` picks one of the family's models; None is the first of ``FACTORIES[family]``.
    """
    variants = _choose(FACTORIES, family, "family")
    factory = next(iter(variants.values())) if variant is None else _choose(variants, variant, "variant")
    directory.mkdir(parents=True, exist_ok=True)  # save_pretrained would only log that the path is a file
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        # Not torch.manual_seed: it would reseed the GPUs, whose state nobody restores here.
        torch.default_generator.manual_seed(seed)
        pipeline = factory()
    pipeline.save_pretrained(directory)
    return directory


def _choose(choices: Mapping[str, Choice], name: str, key: str) -> Choice:
    """Look a name up; an unknown one is answered with the nearest."""
    if name not in choices:
        nearest = difflib.get_close_matches(name, choices, n=1, cutoff=0.0)[0]
        raise ConfigError(f"{key}: there is no tiny {name!r}; did you mean {nearest!r}? There are: {', '.join(choices)}")
    return choices[name]


def _flux_dev() -> FluxPipeline:
    scheduler = FlowMatchEulerDiscreteScheduler(**FLUX_SCHEDULE, use_dynamic_shifting=True, shift=3.0)
    return _flux(scheduler, guidance_embeds=True)


def _flux_schnell() -> FluxPipeline:
    return _flux(FlowMatchEulerDiscreteScheduler(**FLUX_SCHEDULE), guidance_embeds=False)


def _flux(scheduler: FlowMatchEulerDiscreteScheduler, *, guidance_embeds: bool) -> FluxPipeline:
    """4 latent channels at 1/8 of the picture's size, packed 2x2 into 16."""
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        norm_num_groups=4,
        latent_channels=4,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.1159,
        scaling_factor=0.3611,
    )
    _aim(vae.encoder.conv_out, mean=torch.full([4], 0.1159), std=torch.full([4], 1 / 0.3611))
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        num_attention_heads=HEADS,
        attention_head_dim=HEAD_DIM,
        joint_attention_dim=T5_DIM,
        pooled_projection_dim=CLIP_DIM,
        axes_dims_rope=(4, 6, 6),
        guidance_embeds=guidance_embeds,
    )
    tokenizer, tokenizer_2 = make_clip_tokenizer(WORDS.split()), make_t5_tokenizer(WORDS.split())
    return FluxPipeline(
        scheduler=scheduler,
        vae=vae,
        text_encoder=_clip(tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=_t5(tokenizer_2),
        tokenizer_2=tokenizer_2,
        transformer=transformer,
    )


def _ltx_video() -> LTXPipeline:
    """16 latent channels at 1/32 of the frame's size and 1/8 of the frames, each with its own mean and deviation."""
    # One layer a block; everything else, compression included, is the class's default: release 0.9.0.
    narrow = {"block_out_channels": (8, 8, 16, 16), "layers_per_block": (1,) * 5}
    vae = AutoencoderKLLTXVideo(latent_channels=16, **narrow, **{f"decoder_{key}": value for key, value in narrow.items()})
    vae.latents_mean.copy_(0.5 * torch.randn(16))
    vae.latents_std.copy_(0.5 + torch.rand(16))
    _aim(vae.encoder.conv_out.conv, mean=vae.latents_mean, std=vae.latents_std)
    transformer = LTXVideoTransformer3DModel(
        in_channels=16,
        out_channels=16,
        num_layers=2,
        num_attention_heads=HEADS,
        attention_head_dim=HEAD_DIM,
        cross_attention_dim=HEADS * HEAD_DIM,
        caption_channels=T5_DIM,
    )
    tokenizer = make_t5_tokenizer(WORDS.split(), max_length=128)
    return LTXPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**LTX_SCHEDULE),
        vae=vae,
        text_encoder=_t5(tokenizer),
        tokenizer=tokenizer,
        transformer=transformer,
    )


def _t5(tokenizer: PreTrainedTokenizerBase) -> T5EncoderModel:
    """T5 1.1's encoder, which is what both families use."""
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=T5_DIM,
        d_kv=HEAD_DIM,
        d_ff=64,
        num_layers=2,
        num_heads=HEADS,
        feed_forward_proj="gated-gelu",
    )
    return T5EncoderModel(config)


def _clip(tokenizer: PreTrainedTokenizerBase) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=CLIP_DIM,
        intermediate_size=2 * CLIP_DIM,
        projection_dim=CLIP_DIM,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        # The pooled embedding is read at the first end of text: a wrong id would read position 0 for every caption.
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


@torch.no_grad()
def _aim(head: nn.Conv2d | nn.Conv3d, *, mean: Tensor, std: Tensor) -> None:
    """Draw an encoder's last convolution so that its latents have about this mean and deviation, [C] each.

    The channels that follow are log variances of the posterior; they become a constant.
    """
    assert head.bias is not None
    num_latents = len(mean)
    weight = torch.randn_like(head.weight[:num_latents])
    scale = std / math.sqrt(SILU_POWER * weight[0].numel())
    head.weight.zero_()
    head.weight[:num_latents] = weight * scale.view(-1, *[1] * (weight.ndim - 1))
    head.bias[:num_latents] = mean
    head.bias[num_latents:] = 2 * torch.log(POSTERIOR_STD * std.mean())


FACTORIES: Mapping[str, Mapping[str, Callable[[], DiffusionPipeline]]] = {
    "flux": {"dev": _flux_dev, "schnell": _flux_schnell},
    "ltx_video": {"0.9.0": _ltx_video},
}
"""Every family's models, the default first."""
