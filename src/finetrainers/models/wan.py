"""Wan 2.1 and 2.2: UMT5 prompts of 512 tokens, images as latents in further channels or in their place, two experts.

Shape letters as in ``finetrainers.batch``; K, P, Q are pixel frames, height and width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import PIL.Image
import torch
from torch import Tensor, nn

from finetrainers.batch import Image, Prompt, Text
from finetrainers.distributed.context import ContextPlan
from finetrainers.models import Expert, Grid, ModelAdapter, Request, Settings, register_model
from finetrainers.models.facts import LatentFacts, PictureFacts, RecipeFacts, TrainingFacts
from finetrainers.models.noise import NoiseLevels

FIRST, FIRST_AND_LAST = "image-to-video", "first-last-frame-to-video"
SPATIAL_STEP, FRAME_STEP = 8, 4
"""Compression of the VAE of 2.1, whose config does not name it."""
CLIP_TOKENS = 257
"""Tokens that the image encoder of 2.1 makes of a picture."""
TI2V_FPS = 24.0
"""Frame rate of TI2V-5B; all others have 16."""
TI2V_SIZE = (121, 704, 1280)
"""(frames, height, width) of TI2V-5B: the authors' configuration, wan/configs/wan_ti2v_5B.py, and their model card."""


@register_model("wan")
class Wan(ModelAdapter):
    """Alibaba's Wan 2.1 and 2.2."""

    pipelines = {"text-to-video": "WanPipeline", FIRST: "WanImageToVideoPipeline", FIRST_AND_LAST: "WanImageToVideoPipeline"}
    blocks = ("WanTransformerBlock",)
    input_layer = "patch_embedding"
    lora_targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")  # both attentions of each block

    latents = LatentFacts(
        statistics="config",
        samples_posterior=False,  # the authors' WanVAE.encode returns the mean
    )
    training = TrainingFacts(
        noise_levels=NoiseLevels("logit_normal"),  # arXiv:2503.20314
        shift="scheduler",
    )
    recipe = RecipeFacts(
        lr=1e-4,  # this and what follows: DiffSynth-Studio's scripts for 1.3B, 14B, A14B and TI2V-5B
        full_lr=1e-5,
        rank=32,
        size=(81, 480, 832),  # what the pipeline draws by default
    )
    pictures = PictureFacts(image_components=("image_encoder", "image_processor"))

    def __init__(
        self, vae: Settings, denoiser: Settings, index: Settings | None = None, scheduler: Settings | None = None
    ) -> None:
        super().__init__(vae, denoiser, index, scheduler)
        self.has_clip = denoiser.get("image_dim") is not None
        self.has_token_times = bool(self.index.get("expand_timesteps"))
        # Diffusers counts 512 tokens back from the end of prompt and image.
        self.text = replace(self.text, is_fixed_length=self.has_clip)
        # Without these, diffusers takes an adapter for one of text-to-video, and adds zeros with a warning.
        if self.has_clip:
            self.lora_targets = (*self.lora_targets, "add_k_proj", "add_v_proj")
        self.pictures = replace(self.pictures, image_tasks=() if self.has_token_times else (FIRST, FIRST_AND_LAST))
        self.training = replace(self.training, native_fps=TI2V_FPS if self.has_token_times else 16.0)
        if self.has_token_times:
            self.recipe = replace(self.recipe, size=TI2V_SIZE)

    @property
    def tasks(self) -> Mapping[str, str]:
        if self.has_token_times:
            possible: tuple[str, ...] = ("text-to-video", FIRST)
        elif self.settings["in_channels"] == self.grid.channels:
            possible = ("text-to-video",)
        elif self.has_clip:  # with positions for two images or for one
            possible = (FIRST,) if self.settings.get("pos_embed_seq_len") is None else (FIRST_AND_LAST,)
        else:
            possible = (FIRST, FIRST_AND_LAST)
        return {task: self.pipelines[task] for task in possible}

    def experts(self) -> Mapping[str, Expert]:
        boundary = self.index.get("boundary_ratio")
        if boundary is None:
            return {}
        return {
            "high_noise": Expert("transformer", (boundary, 1.0)),
            "low_noise": Expert("transformer_2", (0.0, boundary)),
        }

    def make_grid(self, vae: Settings, denoiser: Settings) -> Grid:
        frame_patch, patch, _ = denoiser["patch_size"]
        return Grid(
            channels=vae["z_dim"],
            vae_step=vae.get("scale_factor_spatial", SPATIAL_STEP),
            patch=patch,
            vae_frame_step=vae.get("scale_factor_temporal", FRAME_STEP),
            frame_patch=frame_patch,
        )

    def gives_first_frame(self, task: str) -> bool:
        return self.has_token_times and task == FIRST

    def encode_prompt(self, pipeline: Any, captions: Sequence[str], *, max_length: int, device: torch.device) -> Text:
        embeds, _ = pipeline.encode_prompt(
            list(captions), do_classifier_free_guidance=False, max_sequence_length=max_length, device=device
        )
        return {"prompt_embeds": embeds}

    def blank_text(self, length: int) -> Text:
        return {"prompt_embeds": torch.zeros(length, self.settings["text_dim"])}

    def blank_image(self, shape: tuple[int, ...], task: str) -> Image:
        if task not in self.pictures.image_tasks:
            return {}
        _, frames, height, width = shape
        blank = {"condition": torch.zeros(self.settings["in_channels"] - self.grid.channels, frames, height, width)}
        if self.has_clip:
            pictures = 2 if task == FIRST_AND_LAST else 1
            positions = self.settings.get("pos_embed_seq_len")
            tokens = CLIP_TOKENS if positions is None else positions // pictures
            blank["embeds"] = torch.zeros(pictures, tokens, self.settings["image_dim"])
        return blank

    def encode_image(self, pipeline: Any, pixels: Tensor, *, task: str) -> Image:
        """Make ``condition`` [B, 4 + C, F, H, W], mask and latents, and ``embeds`` [B, 1 or 2, T, D] of models with CLIP."""
        rows = [self._encode_given(pipeline, row, has_last=task == FIRST_AND_LAST) for row in pixels]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def _encode_given(self, pipeline: Any, pixels: Tensor, *, has_last: bool) -> Image:
        """Let the pipeline encode the given frames of one clip [K, P, Q, 3]: nothing that it does is done here again."""
        frames, height, width, _ = pixels.shape
        device = pipeline.vae.device
        given = [PIL.Image.fromarray(pixels[frame].numpy()) for frame in ((0, -1) if has_last else (0,))]
        first, *last = (pipeline.video_processor.preprocess(picture, height, width).to(device) for picture in given)
        noise = torch.zeros(1, device=device)  # handed through
        _, condition = pipeline.prepare_latents(
            first,
            batch_size=1,
            num_channels_latents=self.grid.channels,
            height=height,
            width=width,
            num_frames=frames,
            dtype=torch.float32,
            device=device,
            latents=noise,
            last_image=last[0] if last else None,
        )
        embeds = {"embeds": pipeline.encode_image(given, device)} if self.has_clip else {}
        return {"condition": condition[0], **embeds}

    def denoise(self, denoiser: nn.Module, x: Tensor, sigma: Tensor, prompt: Prompt) -> Tensor:
        image, timestep = prompt.image, 1000 * sigma[:, 0]
        if self.has_token_times:
            tokens = x.shape[-2] * x.shape[-1] // self.grid.patch**2
            timestep = 1000 * sigma.repeat_interleave(tokens, dim=1)
        given: dict[str, Any] = {}
        if "condition" in image:
            x = torch.cat([x, image["condition"]], dim=1)
        if "embeds" in image:
            given = {"encoder_hidden_states_image": image["embeds"].flatten(0, 1)}
        velocity: Tensor = denoiser(
            hidden_states=self.arrange(x),
            timestep=timestep,
            encoder_hidden_states=prompt.text["prompt_embeds"],
            return_dict=False,
            **given,
        )[0]
        return velocity

    def context_plan(self) -> ContextPlan:
        from diffusers import WanTransformer3DModel

        # Prompt and picture are seen in attention of its own, by all processes alike.
        return ContextPlan(num_heads=self.settings["num_attention_heads"], modules=WanTransformer3DModel._cp_plan)

    def sampling_arguments(self, request: Request) -> dict[str, Any]:
        return {"num_frames": request.size[0]}
