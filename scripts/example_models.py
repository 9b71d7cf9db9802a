"""Folders of the models that the examples train, of published sizes and without weights: what a plan reads of them.

Structures are those of the tiny pipelines of ``finetrainers.testing``; sizes are those of the configs on the Hub, which
``scripts/convert_*_to_diffusers.py`` of diffusers state, or the defaults of diffusers' classes.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from finetrainers.testing import make_tiny
from finetrainers.testing.real_sizes import CLIP, GLM, IMAGE_VAE, LLAMA, T5, defaults_of

Sizes = Mapping[str, Mapping[str, Any]]


class Known(NamedTuple):
    """A model of the Hub."""

    family: str
    variant: str
    """Of the tiny pipeline that has its structure."""
    sizes: Sizes
    """What the config of each component says besides that of the tiny pipeline."""


T5_XXL = {**T5, "vocab_size": 32128}
UMT5_XXL = {**T5, "vocab_size": 256384}
LLAVA = {
    "text_config": LLAMA,
    "vision_config": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
}
FLUX: Sizes = {
    "transformer": defaults_of("FluxTransformer2DModel"),
    "vae": IMAGE_VAE,
    "text_encoder": CLIP,
    "text_encoder_2": T5_XXL,
}
COG_VAE = {
    "block_out_channels": [128, 256, 256, 512], "layers_per_block": 3, "norm_num_groups": 32, "latent_channels": 16,
}  # fmt: skip
COG = {
    **defaults_of("CogVideoXTransformer3DModel"), "num_attention_heads": 48, "num_layers": 42,
    "use_rotary_positional_embeddings": True,
}  # fmt: skip
COG_1_5 = {
    "in_channels": 32, "patch_size_t": 2, "patch_bias": False, "ofs_embed_dim": 512, "sample_height": 300,
    "sample_width": 300, "sample_frames": 81,
}  # fmt: skip
COGVIEW4 = {
    **defaults_of("CogView4Transformer2DModel"), "num_layers": 28, "num_attention_heads": 32, "attention_head_dim": 128,
    "out_channels": 16,
}  # fmt: skip
LTX = defaults_of("LTXVideoTransformer3DModel")
LTX_VAE_095 = {
    "latent_channels": 128, "block_out_channels": [128, 256, 512, 1024, 2048], "layers_per_block": [4, 6, 6, 2, 2],
    "decoder_block_out_channels": [256, 512, 1024], "decoder_layers_per_block": [5, 5, 5, 5],
}  # fmt: skip
WAN = defaults_of("WanTransformer3DModel")
WAN_VAE = defaults_of("AutoencoderKLWan")
IMAGE_TO_VIDEO = {"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120}
VISION = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16}
"""The picture encoder of Wan 2.1: CLIP ViT-H."""
HUNYUAN = defaults_of("HunyuanVideoTransformer3DModel")
HUNYUAN_VAE = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "norm_num_groups": 32}


def _wan(*, vae: Mapping[str, Any] = WAN_VAE, **transformer: Any) -> Sizes:
    pictures = {"image_encoder": VISION} if "image_dim" in transformer else {}
    return {"transformer": {**WAN, **transformer}, "vae": vae, "text_encoder": UMT5_XXL, **pictures}


def _cog(**transformer: Any) -> Sizes:
    return {"transformer": {**COG, **transformer}, "vae": COG_VAE, "text_encoder": T5_XXL}


def _hunyuan(text_encoder: Mapping[str, Any]) -> Sizes:
    return {"transformer": HUNYUAN, "vae": HUNYUAN_VAE, "text_encoder": text_encoder, "text_encoder_2": CLIP}


def _ltx(vae: Mapping[str, Any], **transformer: Any) -> Sizes:
    return {"transformer": {**LTX, **transformer}, "vae": vae, "text_encoder": T5_XXL}


KNOWN: Mapping[str, Known] = {
    "black-forest-labs/FLUX.1-dev": Known("flux", "dev", FLUX),
    "black-forest-labs/FLUX.1-schnell": Known("flux", "schnell", FLUX),
    "black-forest-labs/FLUX.1-Kontext-dev": Known("flux", "kontext", FLUX),
    "THUDM/CogView4-6B": Known("cogview4", "6b", {"transformer": COGVIEW4, "vae": IMAGE_VAE, "text_encoder": GLM}),
    "THUDM/CogVideoX-2b": Known(
        "cogvideox", "2b", _cog(num_attention_heads=30, num_layers=30, use_rotary_positional_embeddings=False)
    ),
    "THUDM/CogVideoX-5b": Known("cogvideox", "5b", _cog()),
    "THUDM/CogVideoX1.5-5B-I2V": Known("cogvideox", "1.5-5b-i2v", _cog(**COG_1_5)),
    "hunyuanvideo-community/HunyuanVideo": Known("hunyuan_video", "t2v", _hunyuan(LLAMA)),
    "hunyuanvideo-community/HunyuanVideo-I2V": Known("hunyuan_video", "i2v", _hunyuan(LLAVA)),
    "Lightricks/LTX-Video": Known("ltx_video", "0.9.0", _ltx(defaults_of("AutoencoderKLLTXVideo"))),
    "Lightricks/LTX-Video-0.9.7-dev": Known(
        "ltx_video",
        "0.9.7",
        _ltx(LTX_VAE_095, attention_head_dim=128, cross_attention_dim=4096, num_layers=48),
    ),
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": Known(
        "wan", "2.1-t2v", _wan(num_attention_heads=12, ffn_dim=8960, num_layers=30)
    ),
    "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers": Known("wan", "2.1-i2v", _wan(**IMAGE_TO_VIDEO)),
    "Wan-AI/Wan2.1-FLF2V-14B-720P-diffusers": Known("wan", "2.1-flf2v", _wan(**IMAGE_TO_VIDEO, pos_embed_seq_len=514)),
    "Wan-AI/Wan2.2-T2V-A14B-Diffusers": Known("wan", "2.2-t2v-a14b", _wan()),
    "Wan-AI/Wan2.2-TI2V-5B-Diffusers": Known(
        "wan",
        "2.2-ti2v-5b",
        _wan(
            vae={"base_dim": 160, "decoder_base_dim": 256, "num_res_blocks": 2},
            num_attention_heads=24, ffn_dim=14336, num_layers=30, in_channels=48, out_channels=48,
        ),
    ),
}  # fmt: skip
"""By their names on the Hub."""
KEPT = ("guidance_embeds", "image_condition_type")
"""Keys in which releases differ, as the tiny pipeline has them."""


def folder_of(name: str) -> Path:
    """Write the folder of a model of the Hub."""
    family, variant, sizes = KNOWN[name]
    folder = Path(tempfile.mkdtemp()) / "model"
    make_tiny(family, folder, variant=variant)
    for weights in folder.rglob("*.safetensors"):
        weights.unlink()
    for component, changes in sizes.items():
        twin = folder / f"{component}_2"  # of two experts; a second text encoder is another model
        for own in (folder / component, *([twin] if component == "transformer" and twin.is_dir() else [])):
            file = own / "config.json"
            tree = json.loads(file.read_text())
            kept = {key: tree[key] for key in KEPT if key in tree}
            file.write_text(json.dumps(merged(tree, {**changes, **kept})))
    return folder


def merged(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Put changes into a config, sections of it by key."""
    found = dict(tree)
    for key, value in changes.items():
        found[key] = merged(found[key], value) if isinstance(found.get(key), dict) else value
    return found


def forget(folder: Path) -> None:
    """Remove what was written."""
    shutil.rmtree(folder.parent)
