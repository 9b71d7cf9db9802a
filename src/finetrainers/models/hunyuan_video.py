"""HunyuanVideo (arXiv:2412.03603): Llama and CLIP prompts, a guidance embedding, and two ways to start from a picture.

Shape letters as in ``finetrainers.batch``. The transformer's ``image_condition_type`` tells the models apart: none for
text-to-video; "latent_concat" (33 input channels) takes the picture's latents and a mask beside the noisy latents;
"token_replace" (16) takes the picture's latents in the place of the first latent frame, whose tokens have time step 0.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from finetrainers.batch import Image, Prompt, Text
from finetrainers.distributed.context import ContextPlan
from finetrainers.models import Grid, ModelAdapter, Request, Settings, register_model
from finetrainers.models.facts import LatentFacts, PictureFacts, RecipeFacts, TextFacts, TrainingFacts
from finetrainers.models.noise import NoiseLevels
from finetrainers.models.padding import let_prompts_be_whole
from finetrainers.models.vae import encode_video, scale_pixels

NEUTRAL_GUIDANCE = 1.0
"""Guidance scale that the distilled model is told in training: the one whose answer is the plain velocity of the data."""

TEXT_NAMES = ("prompt_embeds", "pooled_prompt_embeds", "prompt_attention_mask")
"""What the pipelines' ``encode_prompt`` returns, in its order."""

FIRST_FRAME_TOKENS = 6
"""Place of the number of the first frame's tokens among the arguments of the blocks of "token_replace"."""

IMAGE_TOKENS = 576
"""Tokens that LLaVA makes of a picture."""
IMAGE_TOKEN_STEP = {"latent_concat": 2, "token_replace": 4}
"""Every how many of them the denoiser sees, as the pipeline chooses it."""


@register_model("hunyuan_video")
class HunyuanVideo(ModelAdapter):
    """Tencent's HunyuanVideo and HunyuanVideo-I2V."""

    pipelines = {"text-to-video": "HunyuanVideoPipeline", "image-to-video": "HunyuanVideoImageToVideoPipeline"}
    blocks = (
        "HunyuanVideoTransformerBlock",
        "HunyuanVideoSingleTransformerBlock",
        "HunyuanVideoTokenReplaceTransformerBlock",
        "HunyuanVideoTokenReplaceSingleTransformerBlock",
    )
    input_layer = "x_embedder.proj"
    masks_attention = True
    # The attention projections of both streams, in both kinds of block and in the refiner of the prompt's tokens.
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")

    latents = LatentFacts(
        statistics="shift_scale",
        samples_posterior=False,  # the authors' hyvae_extract stores the mode
    )
    text = TextFacts(
        components=("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2", "image_processor"),
        max_length=256,
        has_negative_prompt=False,  # guidance is distilled into the model
        mask="prompt_attention_mask",
    )
    training = TrainingFacts(
        noise_levels=NoiseLevels("logit_normal"),  # the authors' --flow-snr-type
        shift=7.0,  # the authors' --flow-shift in training
        native_fps=24.0,  # arXiv:2412.03603
    )
    recipe = RecipeFacts(
        lr=1e-4,  # this and the rank: the authors' scripts/run_train_image2video_lora.sh
        full_lr=5e-6,  # FastVideo's scripts/finetune/finetune_hunyuan.sh
        rank=64,
        size=(129, 720, 1280),  # what the pipeline draws by default
    )
    pictures = PictureFacts(image_tasks=("image-to-video",))

    @property
    def condition(self) -> str | None:
        """How the model takes the picture that it starts from."""
        kind: str | None = self.settings.get("image_condition_type")
        return kind

    @property
    def tasks(self) -> Mapping[str, str]:
        task = "text-to-video" if self.condition is None else "image-to-video"
        return {task: self.pipelines[task]}

    def make_grid(self, vae: Settings, denoiser: Settings) -> Grid:
        return Grid(
            channels=vae["latent_channels"],
            vae_step=vae["spatial_compression_ratio"],
            patch=denoiser["patch_size"],
            vae_frame_step=vae["temporal_compression_ratio"],
            frame_patch=denoiser["patch_size_t"],
        )

    def encode_prompt(self, pipeline: Any, captions: Sequence[str], *, max_length: int, device: torch.device) -> Text:
        encoded = pipeline.encode_prompt(list(captions), max_sequence_length=max_length, device=device)
        return dict(zip(TEXT_NAMES, encoded, strict=True))

    def blank_text(self, length: int) -> Text:
        if self.condition is not None:  # behind what is seen of the picture
            length += IMAGE_TOKENS // IMAGE_TOKEN_STEP[self.condition]
        widths = self.settings["text_embed_dim"], self.settings["pooled_projection_dim"]
        blank = torch.zeros(length, widths[0]), torch.zeros(widths[1]), torch.ones(length, dtype=torch.long)
        return dict(zip(TEXT_NAMES, blank, strict=True))

    def text_sees_image(self, task: str) -> bool:
        return task == "image-to-video"

    def text_settings(self, task: str) -> Mapping[str, object]:
        return {"image_condition_type": self.condition} if self.text_sees_image(task) else {}

    def encode_seen_prompt(
        self, pipeline: Any, captions: Sequence[str], images: Sequence[Any], *, max_length: int, device: torch.device
    ) -> Text:
        assert self.condition is not None
        options = {"max_sequence_length": max_length, "image_embed_interleave": IMAGE_TOKEN_STEP[self.condition]}
        # One by one: in a batch, the pipeline loses count of the tokens of prompts that are cut.
        pairs = zip(images, captions, strict=True)
        rows = [pipeline.encode_prompt(image, [caption], device=device, **options) for image, caption in pairs]
        return {name: torch.cat(tensors) for name, tensors in zip(TEXT_NAMES, zip(*rows, strict=True), strict=True)}

    def gives_first_frame(self, task: str) -> bool:
        return task == "image-to-video" and self.condition == "token_replace"

    def blank_image(self, shape: tuple[int, ...], task: str) -> Image:
        channels, _, *sides = shape
        return {"image_latents": torch.zeros(channels, 1, *sides)} if task in self.pictures.image_tasks else {}

    def encode_image(self, pipeline: Any, pixels: Tensor, *, task: str) -> Image:
        # Alone: the VAE's norms look at all frames, so that the clip's first latent frame is another.
        latents, _ = encode_video(pipeline.vae, self, scale_pixels(pixels[:, :1]))
        return {"image_latents": latents}

    def denoise(self, denoiser: nn.Module, x: Tensor, sigma: Tensor, prompt: Prompt) -> Tensor:
        guidance, mask = None, prompt.text.get("prompt_attention_mask")
        if mask is None:
            let_prompts_be_whole(denoiser, self.blocks)
        if denoiser.config.guidance_embeds:  # type: ignore[union-attr]  # as every model of diffusers has
            guidance = x.new_full((len(x),), 1000 * NEUTRAL_GUIDANCE, dtype=torch.float32)
        velocity: Tensor = denoiser(
            hidden_states=self.arrange(self._with_image(x, prompt.image)),
            timestep=1000 * sigma[:, -1],  # of the frames that are not given
            encoder_hidden_states=prompt.text["prompt_embeds"],
            encoder_attention_mask=mask,
            pooled_projections=prompt.text["pooled_prompt_embeds"],
            guidance=guidance,
            return_dict=False,
        )[0]
        return velocity

    def _with_image(self, x: Tensor, image: Image) -> Tensor:
        """Put the latents [B, C, 1, H, W] of the picture beside the noisy ones, or in the place of the first frame."""
        if self.condition is None:
            return x
        first = image["image_latents"].to(x.dtype)
        if self.condition == "token_replace":
            control = x[:, first.shape[1] :, :1]  # which stays beside the picture
            return torch.cat([torch.cat([first, control], dim=1), x[:, :, 1:]], dim=2)
        given = torch.cat([first, torch.ones_like(first[:, :1])], dim=1)  # with the mask's channel
        padded = nn.functional.pad(given, (0, 0, 0, 0, 0, x.shape[2] - 1))
        return torch.cat([x, padded], dim=1)

    def context_plan(self) -> ContextPlan:
        from diffusers.models._modeling_parallel import ContextParallelInput as Split, ContextParallelOutput as Join

        modules = {
            "rope": dict.fromkeys((0, 1), Split(0, 2, split_output=True)),
            "transformer_blocks.0": {"hidden_states": Split(1, 3)},
            "proj_out": Join(1, 3),
        }
        counted = FIRST_FRAME_TOKENS if self.condition == "token_replace" else None
        heads = self.settings["num_attention_heads"]
        return ContextPlan(num_heads=heads, modules=modules, prompt="last", counted=counted)

    def sampling_arguments(self, request: Request) -> dict[str, Any]:
        return {"num_frames": request.size[0]}
