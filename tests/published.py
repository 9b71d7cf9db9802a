"""Models of published sizes without weights: config files, tokenizers and schedulers, as a laptop has them from the Hub."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetrainers.testing.real_sizes import defaults_of

T5 = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "vocab_size": 32128}
CLIP = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "projection_dim": 768,
}  # fmt: skip
LLAMA = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128,
}  # fmt: skip
GLM = {**LLAMA, "intermediate_size": 13696, "num_hidden_layers": 40, "num_key_value_heads": 2}
VISION = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16}
IMAGE_VAE = {
    "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "norm_num_groups": 32, "latent_channels": 16,
}  # fmt: skip
COG = {"num_attention_heads": 48, "attention_head_dim": 64, "num_layers": 42, "time_embed_dim": 512, "text_embed_dim": 4096}
COG_SIZE = {"sample_height": 60, "sample_width": 90, "sample_frames": 49, "max_text_seq_length": 226}
WAN = {"num_attention_heads": 40, "attention_head_dim": 128, "ffn_dim": 13824, "num_layers": 40, "text_dim": 4096}

Sizes = Mapping[str, Mapping[str, Any]]
PUBLISHED: Mapping[str, Sizes] = {
    "flux": {
        "transformer": {
            "in_channels": 64, "num_layers": 19, "num_single_layers": 38, "num_attention_heads": 24,
            "attention_head_dim": 128, "joint_attention_dim": 4096, "pooled_projection_dim": 768,
            "axes_dims_rope": [16, 56, 56],
        },
        "vae": IMAGE_VAE, "text_encoder": CLIP, "text_encoder_2": T5,
    },
    "ltx_video": {
        "transformer": defaults_of("LTXVideoTransformer3DModel"), "vae": defaults_of("AutoencoderKLLTXVideo"),
        "text_encoder": T5,
    },
    "wan": {"transformer": WAN | {"in_channels": 16, "out_channels": 16}, "vae": defaults_of("AutoencoderKLWan"),
            "text_encoder": T5 | {"vocab_size": 256384}},
    "wan i2v": {
        "transformer": WAN | {"in_channels": 36, "out_channels": 16, "image_dim": 1280, "added_kv_proj_dim": 5120},
        "vae": defaults_of("AutoencoderKLWan"), "text_encoder": T5 | {"vocab_size": 256384}, "image_encoder": VISION,
    },
    "hunyuan_video": {
        "transformer": {
            "num_layers": 20, "num_single_layers": 40, "num_refiner_layers": 2, "num_attention_heads": 24,
            "attention_head_dim": 128, "text_embed_dim": 4096, "pooled_projection_dim": 768, "rope_axes_dim": [16, 56, 56],
        },
        "vae": {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "norm_num_groups": 32},
        "text_encoder": LLAMA, "text_encoder_2": CLIP,
    },
    "cogvideox": {
        "transformer": COG | COG_SIZE | {"in_channels": 16, "out_channels": 16},
        "vae": {"block_out_channels": [128, 256, 256, 512], "layers_per_block": 3, "norm_num_groups": 32,
                "latent_channels": 16},
        "text_encoder": T5,
    },
    "cogview4": {
        "transformer": {
            "num_layers": 28, "num_attention_heads": 32, "attention_head_dim": 128, "in_channels": 16, "out_channels": 16,
            "text_embed_dim": 4096, "time_embed_dim": 512, "condition_dim": 256,
        },
        "vae": IMAGE_VAE, "text_encoder": GLM,
    },
}  # fmt: skip
"""By family: what the config of each component says besides that of a tiny pipeline."""


def write_published(tiny: Path, directory: Path, sizes: Sizes) -> Path:
    """Write a folder as a Hub repository without its weights has it: a tiny pipeline's, with the published sizes."""
    shutil.copytree(tiny, directory, ignore=shutil.ignore_patterns("*.safetensors"))
    for component, changes in sizes.items():
        for folder in (directory / component, directory / f"{component}_2"):
            if component == "transformer" or folder.name == component:
                file = folder / "config.json"
                if file.is_file():
                    tree = json.loads(file.read_text())
                    file.write_text(json.dumps(_with(tree, changes)))
    return directory


def _with(tree: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Put the sizes into a config; of LLaVA, into that of its language model."""
    if "text_config" in tree:
        return {**tree, "text_config": {**tree["text_config"], **changes}}
    return {**tree, **changes}
