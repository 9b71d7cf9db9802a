"""Published sizes of models, as folders in diffusers layout without weights: what is needed to count what a step takes."""

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers

IMAGE_VAE = {
    "latent_channels": 16,
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "sample_size": 1024,
}
"""Of FLUX.1 and CogView4."""
T5 = {"d_model": 4096, "d_ff": 10240, "d_kv": 64, "num_layers": 24, "num_heads": 64, "feed_forward_proj": "gated-gelu"}
CLIP = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
LLAMA = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128320,
}
GLM = {
    "hidden_size": 4096,
    "intermediate_size": 13696,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "vocab_size": 151552,
    "pad_token_id": 151329,
}
"""Sizes of text encoders."""
UMT5 = {"text_encoder": ("UMT5EncoderModel", {**T5, "vocab_size": 256384})}


@dataclass(frozen=True, slots=True)
class Published:
    """A model by its published configs: what they have besides the defaults of diffusers' classes."""

    pipeline: str
    denoiser: str
    vae: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    scheduler: str = "FlowMatchEulerDiscreteScheduler"
    schedule: Mapping[str, Any] = field(default_factory=dict)
    texts: Mapping[str, tuple[str, Mapping[str, Any]]] = field(default_factory=dict)
    """Text encoders by component: class of transformers, and config."""
    model: Mapping[str, Any] = field(default_factory=dict)
    """Keys of a run's ``model`` section with which it was measured."""

    @property
    def is_image(self) -> bool:
        """Whether it generates images, and no videos."""
        return bool(self.vae["_class_name"] == "AutoencoderKL")


PUBLISHED: Mapping[str, Published] = {
    "LTX-Video 2B": Published(
        "LTXPipeline",
        "LTXVideoTransformer3DModel",
        {
            "_class_name": "AutoencoderKLLTXVideo",
            "latent_channels": 128,
            "spatio_temporal_scaling": [True, True, True, False],
            "patch_size": 4,
            "patch_size_t": 1,
        },
        texts={"text_encoder": ("T5EncoderModel", {**T5, "vocab_size": 32128})},
    ),
    "CogVideoX-5b": Published(
        "CogVideoXPipeline",
        "CogVideoXTransformer3DModel",
        {
            "_class_name": "AutoencoderKLCogVideoX",
            "latent_channels": 16,
            "block_out_channels": [128, 256, 256, 512],
            "temporal_compression_ratio": 4,
        },
        {"num_attention_heads": 48, "num_layers": 42, "use_rotary_positional_embeddings": True},
        "CogVideoXDDIMScheduler",
        {
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "prediction_type": "v_prediction",
            "rescale_betas_zero_snr": True,
            "snr_shift_scale": 1.0,
        },
        texts={"text_encoder": ("T5EncoderModel", {**T5, "vocab_size": 32128})},
    ),
    "HunyuanVideo": Published(
        "HunyuanVideoPipeline",
        "HunyuanVideoTransformer3DModel",
        {
            "_class_name": "AutoencoderKLHunyuanVideo",
            "latent_channels": 16,
            "spatial_compression_ratio": 8,
            "temporal_compression_ratio": 4,
        },
        schedule={"shift": 7.0},
        texts={"text_encoder": ("LlamaModel", LLAMA), "text_encoder_2": ("CLIPTextModel", CLIP)},
    ),
    "Wan 2.1 1.3B": Published(
        "WanPipeline",
        "WanTransformer3DModel",
        {"_class_name": "AutoencoderKLWan", "z_dim": 16},
        {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30},
        texts=UMT5,
    ),
    "Wan 2.1 14B": Published(
        "WanPipeline", "WanTransformer3DModel", {"_class_name": "AutoencoderKLWan", "z_dim": 16}, texts=UMT5
    ),
    "FLUX.1 dev": Published(
        "FluxPipeline",
        "FluxTransformer2DModel",
        {"_class_name": "AutoencoderKL", **IMAGE_VAE},
        {"guidance_embeds": True},
        schedule={"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15, "shift": 3.0},
        texts={"text_encoder": ("CLIPTextModel", CLIP), "text_encoder_2": ("T5EncoderModel", {**T5, "vocab_size": 32128})},
    ),
    "CogView4 6B": Published(
        "CogView4Pipeline",
        "CogView4Transformer2DModel",
        {"_class_name": "AutoencoderKL", **IMAGE_VAE},
        {"num_layers": 28, "num_attention_heads": 32, "attention_head_dim": 128, "out_channels": 16},
        schedule={"use_dynamic_shifting": True, "base_shift": 0.25, "max_shift": 0.75, "shift": 1.0},
        texts={"text_encoder": ("GlmModel", GLM)},
        model={"max_sequence_length": 224},
    ),
}
"""By the names that people know."""


def write_published(name: str, directory: Path) -> Path:
    """Write the configs of a published model into a directory, from which ``open_model`` reads it; return the directory."""
    model = PUBLISHED[name]
    folders = {
        "transformer": ("config.json", {**defaults_of(model.denoiser), **model.settings}),
        "vae": ("config.json", model.vae),
        "scheduler": ("scheduler_config.json", {**model.schedule, "_class_name": model.scheduler}),
    }
    folders |= {name: ("config.json", settings) for name, (_, settings) in model.texts.items()}
    for folder, (file, settings) in folders.items():
        (directory / folder).mkdir(parents=True, exist_ok=True)
        (directory / folder / file).write_text(json.dumps(settings))
    classes = {"transformer": model.denoiser, "vae": model.vae["_class_name"], "scheduler": model.scheduler}
    index = {part: ["diffusers", class_name] for part, class_name in classes.items()}
    index |= {name: ["transformers", class_name] for name, (class_name, _) in model.texts.items()}
    (directory / "model_index.json").write_text(json.dumps({"_class_name": model.pipeline, **index}))
    return directory


def defaults_of(class_name: str) -> dict[str, Any]:
    """What a model of diffusers is made with where its config says nothing."""
    parameters = inspect.signature(getattr(diffusers, class_name).__init__).parameters.values()
    named = {parameter.name: parameter.default for parameter in parameters if parameter.default is not parameter.empty}
    return {"_class_name": class_name, **named}
