"""Tiny random pipelines of the real classes, in diffusers layout on disk: what tests train instead of a download.

Structure is real (compression, latent statistics, scheduler, guidance, tokenizers), widths are not, so that code which
works on a tiny model works on the model it stands for. A new family is one factory and one line in ``FACTORIES``.
"""

import difflib
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FluxKontextPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
)

from finetrainers.errors import ConfigError
from finetrainers.files.whole import hash_file, share_mode
from finetrainers.testing.parts import CLIP_DIM, HEAD_DIM, HEADS, T5_DIM, WORDS as WORDS, aim, clip, t5
from finetrainers.testing.tiny_cogvideox import COGVIDEOX
from finetrainers.testing.tiny_cogview4 import COGVIEW4
from finetrainers.testing.tiny_hunyuan_video import HUNYUAN_VIDEO
from finetrainers.testing.tiny_ltx_video import LTX_VIDEO
from finetrainers.testing.tiny_wan import WAN
from finetrainers.testing.tokenizers import make_clip_tokenizer, make_t5_tokenizer

FLUX_SCHEDULE = {"base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256, "max_image_seq_len": 4096}
Choice = TypeVar("Choice")


def make_tiny(family: str, directory: Path, *, variant: str | None = None, seed: int = 0) -> Path:
    """Write the pipeline of a family into the directory, in float32, and return the directory.

    The files depend on nothing but the arguments, and the global random state is left as it was.
    ``variant`` picks one of the family's models; None is the first of ``FACTORIES[family]``.

    Raises:
        ConfigError: If there is no such model, or if the directory holds something else, which would be overwritten.
    """
    variants = _choose(FACTORIES, family, "family")
    factory = next(iter(variants.values())) if variant is None else _choose(variants, variant, "variant")
    directory.mkdir(parents=True, exist_ok=True)  # save_pretrained would only log that the path is a file
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        # Not torch.manual_seed: it would reseed the GPUs, whose state nobody restores here.
        torch.default_generator.manual_seed(seed)
        pipeline = factory()
    if not any(directory.iterdir()):
        pipeline.save_pretrained(directory)
        share_mode(directory, of=directory / "model_index.json")
        return directory
    with tempfile.TemporaryDirectory() as temporary:
        pipeline.save_pretrained(temporary)
        if _contents(Path(temporary)) != _contents(directory):
            raise ConfigError(f"{directory}: the folder holds something else than this pipeline; name a new one")
    return directory


def _contents(directory: Path) -> dict[str, bytes]:
    """Hashes of a folder's files by name."""
    return {str(file.relative_to(directory)): hash_file(file) for file in directory.rglob("*") if file.is_file()}


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


def _flux_kontext() -> FluxKontextPipeline:
    """All of [dev], but for the weights."""
    return FluxKontextPipeline(**{name: part for name, part in _flux_dev().components.items() if part is not None})


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
    aim(vae.encoder.conv_out, mean=torch.full([4], 0.1159), std=torch.full([4], 1 / 0.3611))
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
        text_encoder=clip(tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=t5(tokenizer_2),
        tokenizer_2=tokenizer_2,
        transformer=transformer,
    )


FACTORIES: Mapping[str, Mapping[str, Callable[[], DiffusionPipeline]]] = {
    "cogvideox": COGVIDEOX,
    "cogview4": COGVIEW4,
    "flux": {"dev": _flux_dev, "schnell": _flux_schnell, "kontext": _flux_kontext},
    "hunyuan_video": HUNYUAN_VIDEO,
    "ltx_video": LTX_VIDEO,
    "wan": WAN,
}
"""Every family's models, the default first."""
