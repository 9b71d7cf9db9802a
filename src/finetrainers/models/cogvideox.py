"""CogVideoX: v-prediction in discrete time steps, frames before channels, rotary positions from the clip's size.

Shape letters as in ``finetrainers.batch``. Frames F are latent frames; in 1.5 two of them make one token.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from finetrainers.batch import Image, Prompt, Text
from finetrainers.distributed.context import ContextPlan
from finetrainers.models import Grid, ModelAdapter, Request, Settings, register_model
from finetrainers.models.facts import PictureFacts, RecipeFacts, TrainingFacts
from finetrainers.models.noise import NoiseLevels, timestep_of
from finetrainers.models.vae import scale_pixels

OFS = 2.0
"""What the image-to-video model of 1.5 is told beside the time step, always."""


@register_model("cogvideox")
class CogVideoX(ModelAdapter):
    """Zhipu's CogVideoX 2b and 5b, 1.0 and 1.5, from text or from a picture (arXiv:2408.06072)."""

    pipelines = {"text-to-video": "CogVideoXPipeline", "image-to-video": "CogVideoXImageToVideoPipeline"}
    blocks = ("CogVideoXBlock",)
    input_layer = "patch_embed.proj"
    channel_dim = 2
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")  # one attention a block, over text and video
    dispatches_attention = False

    training = TrainingFacts(
        prediction="v",
        noise_levels=NoiseLevels("uniform"),  # "Explicit Uniform Sampling" in the paper: all time steps alike
    )
    recipe = RecipeFacts(
        lr=1e-4,  # usual for a LoRA: the authors' trainer, finetune/schemas/args.py, has one rate for both
        full_lr=2e-5,  # this, rank and scale: that trainer
        rank=128,
        scale=0.5,
        has_other_aspects=False,  # the authors' model cards: no other size, not even after fine-tuning
    )
    pictures = PictureFacts(image_tasks=("image-to-video",))

    def __init__(
        self, vae: Settings, denoiser: Settings, index: Settings | None = None, scheduler: Settings | None = None
    ) -> None:
        super().__init__(vae, denoiser, index, scheduler)
        self.training = replace(self.training, native_fps=8.0 if denoiser.get("patch_size_t") is None else 16.0)
        self.recipe = replace(self.recipe, size=self._drawn_by_default)
        self.text = replace(
            self.text,
            max_length=denoiser["max_text_seq_length"],
            # Added positions are those of text and video in one table: a text of another length does not fit.
            is_fixed_length=self._learns_positions or not denoiser["use_rotary_positional_embeddings"],
        )

    @property
    def tasks(self) -> Mapping[str, str]:
        takes_picture = self.settings["in_channels"] > self.vae["latent_channels"]
        task = "image-to-video" if takes_picture else "text-to-video"
        return {task: self.pipelines[task]}

    @property
    def _learns_positions(self) -> bool:
        return bool(self.settings.get("use_learned_positional_embeddings", False))

    @property
    def _drawn_by_default(self) -> tuple[int, int, int]:
        """(frames, height, width) that the pipeline draws by default."""
        height, width = (self.settings[f"sample_{axis}"] * self.grid.vae_step for axis in ("height", "width"))
        return self.settings["sample_frames"], height, width

    def make_grid(self, vae: Settings, denoiser: Settings) -> Grid:
        vae_step, patch = 2 ** (len(vae["block_out_channels"]) - 1), denoiser["patch_size"]
        frame_patch = denoiser.get("patch_size_t")
        side = vae_step * patch
        height, width = (denoiser[f"sample_{axis}"] // patch * side for axis in ("height", "width"))
        smallest, largest = (1.0, 1.0, 1.0), (math.inf, math.inf, math.inf)
        if self._learns_positions:  # there are positions for one size, which diffusers replaces for any other
            smallest = largest = (denoiser["sample_frames"], height, width)
        elif frame_patch is not None:  # 1.5 cuts its rotary positions out of a table
            largest = (math.inf, height, width)
        return Grid(
            channels=vae["latent_channels"],
            vae_step=vae_step,
            patch=patch,
            vae_frame_step=vae["temporal_compression_ratio"],
            frame_patch=1 if frame_patch is None else frame_patch,
            smallest=smallest,
            largest=largest,
        )

    def encode_prompt(self, pipeline: Any, captions: Sequence[str], *, max_length: int, device: torch.device) -> Text:
        embeds, _ = pipeline.encode_prompt(
            list(captions), do_classifier_free_guidance=False, max_sequence_length=max_length, device=device
        )
        return {"prompt_embeds": embeds}

    def blank_text(self, length: int) -> Text:
        return {"prompt_embeds": torch.zeros(length, self.settings["text_embed_dim"])}

    def blank_image(self, shape: tuple[int, ...], task: str) -> Image:
        channels, _, *sides = shape
        return {"image_latents": torch.zeros(channels, 1, *sides)} if task in self.pictures.image_tasks else {}

    def encode_image(self, pipeline: Any, pixels: Tensor, *, task: str) -> Image:
        vae = pipeline.vae
        pictures = scale_pixels(pixels[:, :1]).to(vae.device, vae.dtype)
        scale = vae.config.scaling_factor
        if vae.config.invert_scale_latents:  # 1.5 was trained on pictures that were divided by it
            scale = 1 / scale
        return {"image_latents": scale * vae.encode(pictures).latent_dist.mode()}

    def arrange(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)

    def denoise(self, denoiser: nn.Module, x: Tensor, sigma: Tensor, prompt: Prompt) -> Tensor:
        frames, rows, columns = x.shape[2], x.shape[3] // self.grid.patch, x.shape[4] // self.grid.patch
        hidden, told = x, {}
        if "image_latents" in prompt.image:
            picture = prompt.image["image_latents"]
            others = picture.new_zeros(*picture.shape[:2], frames - 1, *picture.shape[3:])
            hidden = torch.cat([x, torch.cat([picture, others], dim=2)], dim=1)
            told["ofs"] = None if self.settings.get("ofs_embed_dim") is None else x.new_full((1,), OFS)
        has_rotary = self.settings["use_rotary_positional_embeddings"]
        v: Tensor = denoiser(
            hidden_states=self.arrange(hidden),
            encoder_hidden_states=prompt.text["prompt_embeds"],
            timestep=timestep_of(sigma[:, 0]),  # the one at which ``objective.Diffusion`` has made the noise
            image_rotary_emb=rotary(self.settings, (frames, rows, columns), x.device) if has_rotary else None,
            return_dict=False,
            **told,
        )[0]
        return v.transpose(1, 2)

    def context_plan(self) -> ContextPlan:
        from diffusers.models._modeling_parallel import ContextParallelInput as Split, ContextParallelOutput as Join

        modules = {
            "": {"image_rotary_emb": [Split(0, 2), Split(0, 2)]},
            "transformer_blocks.0": {"hidden_states": Split(1, 3)},
            "proj_out": Join(1, 3),
        }
        return ContextPlan(num_heads=self.settings["num_attention_heads"], modules=modules, prompt="first")

    def sampling_arguments(self, request: Request) -> dict[str, Any]:
        return {"num_frames": request.size[0]}


def rotary(denoiser: Settings, grid: tuple[int, int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each [N, D], of the N tokens of F latent frames of rows and columns, as the pipelines have them."""
    from diffusers.models.embeddings import get_3d_rotary_pos_embed
    from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid

    frames, *size = grid
    base = tuple(denoiser[f"sample_{axis}"] // denoiser["patch_size"] for axis in ("height", "width"))
    frame_patch = denoiser.get("patch_size_t")
    if frame_patch is None:  # 1.0 stretches positions over the area that the clip has of its native one
        region: dict[str, Any] = {"crops_coords": get_resize_crop_region_for_grid(tuple(size), base[1], base[0])}
    else:
        region = {"crops_coords": None, "grid_type": "slice", "max_size": base}
        frames = frames // frame_patch
    dim = denoiser["attention_head_dim"]
    cos, sin = get_3d_rotary_pos_embed(dim, grid_size=tuple(size), temporal_size=frames, device=device, **region)
    return cos, sin
