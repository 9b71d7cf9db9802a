"""FLUX.1: packed 2x2 latents, T5 and CLIP prompts, optional guidance embedding.

FLUX.1 Kontext [dev] is shown references: their tokens stand behind the noisy ones, and the first of their three rotary
coordinates says which picture they are of.

Shape letters as in ``finetrainers.batch``; N is the number of packed latent tokens, ``H/2 * W/2``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from finetrainers.batch import Prompt, Text
from finetrainers.distributed.context import ContextPlan
from finetrainers.models import Grid, ModelAdapter, Request, Settings, register_model
from finetrainers.models.facts import LatentFacts, PictureFacts, RecipeFacts, TextFacts, TrainingFacts
from finetrainers.models.noise import NoiseLevels

KONTEXT_PIPELINE = "FluxKontextPipeline"
NEUTRAL_GUIDANCE = 1.0
"""Guidance scale that the distilled model is told in training: the one at which guidance changes nothing."""


@register_model("flux")
class Flux(ModelAdapter):
    """Black Forest Labs' FLUX.1 [dev], [schnell] and Kontext [dev]."""

    pipelines = {"text-to-image": "FluxPipeline", "image-to-image": KONTEXT_PIPELINE}
    blocks = ("FluxTransformerBlock", "FluxSingleTransformerBlock")
    joins_attention = ("FluxSingleTransformerBlock",)
    input_layer = "x_embedder"
    channel_dim = -1
    # The attention projections of both kinds of block, as diffusers' own FLUX LoRA script has them.
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")

    latents = LatentFacts(statistics="shift_scale", is_image_vae=True)
    text = TextFacts(
        components=("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2"),
        main_tokenizer="tokenizer_2",
        largest_length=512,
        has_negative_prompt=False,  # guidance is distilled into the model
    )
    training = TrainingFacts(
        noise_levels=NoiseLevels("logit_normal"),  # rectified flow as in arXiv:2403.03206, on which FLUX.1 builds
        shift="scheduler",
    )
    recipe = RecipeFacts(
        lr=1e-4,  # DiffSynth-Studio's scripts for [dev] and Kontext, and diffusers' own
        full_lr=1e-5,  # DiffSynth-Studio's scripts
        rank=32,  # DiffSynth-Studio's scripts
        size=(1, 1024, 1024),  # what the pipeline draws by default
    )
    pictures = PictureFacts(
        control_pipelines={"text-to-image": "FluxControlPipeline"},
        draws_control=True,
        reference_pipelines=dict.fromkeys(pipelines, KONTEXT_PIPELINE),
    )

    @property
    def architecture(self) -> str:
        return "flux-1-dev" if self.settings.get("guidance_embeds", False) else "flux-1-schnell"

    def make_grid(self, vae: Settings, denoiser: Settings) -> Grid:
        vae_step = 2 ** (len(vae["block_out_channels"]) - 1)
        return Grid(channels=vae["latent_channels"], vae_step=vae_step, patch=2, has_video=False)

    def encode_prompt(self, pipeline: Any, captions: Sequence[str], *, max_length: int, device: torch.device) -> Text:
        embeds, pooled, _ = pipeline.encode_prompt(
            list(captions), prompt_2=None, device=device, max_sequence_length=max_length
        )
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    def blank_text(self, length: int) -> Text:
        widths = self.settings["joint_attention_dim"], self.settings["pooled_projection_dim"]
        return {"prompt_embeds": torch.zeros(length, widths[0]), "pooled_prompt_embeds": torch.zeros(widths[1])}

    def arrange(self, x: Tensor) -> Tensor:
        return pack(x[:, :, 0])

    def denoise(self, denoiser: nn.Module, x: Tensor, sigma: Tensor, prompt: Prompt) -> Tensor:
        rows, columns = x.shape[-2] // 2, x.shape[-1] // 2
        guidance = None
        if denoiser.config.guidance_embeds:  # type: ignore[union-attr]  # as every model of diffusers has
            guidance = x.new_full((len(x),), NEUTRAL_GUIDANCE, dtype=torch.float32)
        told = {
            "hidden_states": self.arrange(x),
            "timestep": sigma[:, 0],  # FLUX scales by 1000 itself; rounding here would cost noise levels
            "guidance": guidance,
            "encoder_hidden_states": prompt.text["prompt_embeds"],
            "pooled_projections": prompt.text["pooled_prompt_embeds"],
            "img_ids": latent_ids(rows, columns, like=x),
            "txt_ids": x.new_zeros(prompt.text["prompt_embeds"].shape[1], 3),
            "return_dict": False,
        }
        tokens: Tensor = denoiser(**self.append_references(told, prompt.references))[0]
        return unpack(tokens[:, : rows * columns], rows, columns)[:, :, None]

    def append_references(self, told: Mapping[str, Any], references: Sequence[Tensor]) -> dict[str, Any]:
        hidden, ids = told["hidden_states"], told["img_ids"]
        for number, reference in enumerate(references, 1):
            tokens = self.arrange(reference).to(hidden)
            rows, columns = reference.shape[-2] // 2, reference.shape[-1] // 2
            hidden = torch.cat([hidden, tokens.expand(len(hidden), -1, -1)], dim=1)
            ids = torch.cat([ids, latent_ids(rows, columns, picture=number, like=ids)])
        return {**told, "hidden_states": hidden, "img_ids": ids}

    def context_plan(self) -> ContextPlan:
        from diffusers import FluxTransformer2DModel
        from diffusers.models._modeling_parallel import ContextParallelInput as Split

        told = {name: rule for name, rule in FluxTransformer2DModel._cp_plan[""].items() if name != "hidden_states"}
        # Behind the layer that takes all in: control is looked for there.
        split = {"": told, self.input_layer: {0: Split(1, 3, split_output=True)}}
        modules = {**FluxTransformer2DModel._cp_plan, **split}
        return ContextPlan(num_heads=self.settings["num_attention_heads"], modules=modules, splits_prompt=True)

    def sampling_arguments(self, request: Request) -> dict[str, Any]:
        if not request.references:
            return {}
        # Else Kontext's pipeline scales what it draws to an area of 1024 x 1024, and the picture to one of its own sizes.
        return {"max_area": request.size[1] * request.size[2], "_auto_resize": False}


def pack(x: Tensor) -> Tensor:
    """Fold 2x2 latents [B, C, H, W] into tokens [B, N, 4 C]."""
    batch, channels, height, width = x.shape
    folded = x.reshape(batch, channels, height // 2, 2, width // 2, 2)
    return folded.permute(0, 2, 4, 1, 3, 5).reshape(batch, height * width // 4, channels * 4)


def unpack(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """Unfold tokens [B, N, 4 C] into latents [B, C, H, W]."""
    folded = tokens.reshape(len(tokens), rows, columns, -1, 2, 2)
    return folded.permute(0, 3, 1, 4, 2, 5).reshape(len(tokens), -1, rows * 2, columns * 2)


def latent_ids(rows: int, columns: int, *, picture: int = 0, like: Tensor) -> Tensor:
    """Rotary coordinates [N, 3] of packed latents: (picture, row, column), of which 0 is the one that is drawn."""
    grid = torch.cartesian_prod(torch.tensor([picture]), torch.arange(rows), torch.arange(columns))
    return grid.to(device=like.device, dtype=like.dtype)
