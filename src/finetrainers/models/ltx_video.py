"""LTX-Video: one token a latent pixel, a noise level for each token, rotary coordinates in seconds.

Releases from 0.9.5 on ("keyframe models" here) take any set of given frames: the first in its place, later ones as tokens of
their own before the clip's, at time step 0 and at the rotary coordinates of their own frames.

Shape letters as in ``finetrainers.batch``; n is the number of later frames that are given, N = (n + F) H W that of tokens.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from finetrainers.batch import Image, Prompt, Text
from finetrainers.distributed.context import ContextPlan
from finetrainers.models import Grid, ModelAdapter, Request, Settings, pad_channels, register_model
from finetrainers.models.facts import LatentFacts, PictureFacts, RecipeFacts, TextFacts, TrainingFacts
from finetrainers.models.noise import GIVEN_FRAME_MAX_SIGMA, NoiseLevels, ResolutionShift
from finetrainers.models.vae import encode_video, scale_pixels

STILL_FPS = 25.0
"""Frame rate that is told for an image, whose only frame lies at time 0 at any rate."""

KEYFRAME_PIPELINE = "LTXConditionPipeline"
KEYFRAME_BLOCK = "LTXVideo095DownBlock3D"
"""Block of the VAE of 0.9.5 and later, by which these releases are known: some of them name LTXPipeline as theirs."""
DECODING = {"decode_timestep": 0.05, "decode_noise_scale": 0.025}
"""Noise that VAEs with timestep conditioning (0.9.1 and later) decode at: what diffusers' documentation advises."""


@register_model("ltx_video")
class LTXVideo(ModelAdapter):
    """Lightricks' LTX-Video 0.9."""

    pipelines = {
        "text-to-video": "LTXPipeline",
        "image-to-video": "LTXImageToVideoPipeline",
        "first-last-frame-to-video": KEYFRAME_PIPELINE,
    }
    blocks = ("LTXVideoTransformerBlock",)
    input_layer = "proj_in"
    channel_dim = -1
    masks_attention = True
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")  # both attentions of each block, as in the authors' trainer
    default_fps = 25.0

    latents = LatentFacts(statistics="buffers")
    text = TextFacts(max_length=128, mask="prompt_attention_mask")
    training = TrainingFacts(
        noise_levels=NoiseLevels("logit_normal"),  # arXiv:2501.00103, section 2.4
        shift="resolution",
        first_frame_probability=0.1,
        given_frame_max_sigma=GIVEN_FRAME_MAX_SIGMA,
    )
    recipe = RecipeFacts(
        lr=2e-4,  # this and what follows: configs/ltxv_2b_lora_low_vram.yaml and ltxv_2b_full.yaml of LTX-Video-Trainer
        full_lr=1e-5,
        rank=32,
        size=(161, 512, 704),  # what the pipeline draws by default
    )
    pictures = PictureFacts(image_tasks=("first-last-frame-to-video",))

    def make_grid(self, vae: Settings, denoiser: Settings) -> Grid:
        halved = 2 ** sum(vae["spatio_temporal_scaling"])
        stated, stated_frames = (vae.get(f"{axis}_compression_ratio") for axis in ("spatial", "temporal"))  # since 0.9.5
        return Grid(
            channels=vae["latent_channels"],
            vae_step=vae["patch_size"] * halved if stated is None else stated,
            patch=denoiser["patch_size"],
            vae_frame_step=vae["patch_size_t"] * halved if stated_frames is None else stated_frames,
            frame_patch=denoiser["patch_size_t"],
        )

    @property
    def takes_keyframes(self) -> bool:
        """Whether the release was trained on given frames at any place."""
        return KEYFRAME_BLOCK in self.vae.get("down_block_types", ())

    @property
    def tasks(self) -> Mapping[str, str]:
        if self.takes_keyframes:
            return dict.fromkeys(self.pipelines, KEYFRAME_PIPELINE)
        return {task: name for task, name in self.pipelines.items() if name != KEYFRAME_PIPELINE}

    def resolution_shift(self) -> ResolutionShift:
        return ResolutionShift(1024, 0.95, 4096, 2.05)  # as in the authors' trainer; since 0.9.5 schedulers have no shift

    def gives_first_frame(self, task: str) -> bool:
        return task in ("image-to-video", "first-last-frame-to-video")

    def gives_later_frames(self, task: str) -> bool:
        return self.takes_keyframes and task == "first-last-frame-to-video"

    def encode_prompt(self, pipeline: Any, captions: Sequence[str], *, max_length: int, device: torch.device) -> Text:
        embeds, mask, _, _ = pipeline.encode_prompt(
            list(captions), do_classifier_free_guidance=False, max_sequence_length=max_length, device=device
        )
        return {"prompt_embeds": embeds, "prompt_attention_mask": mask}

    def blank_text(self, length: int) -> Text:
        embeds = torch.zeros(length, self.settings["caption_channels"])
        return {"prompt_embeds": embeds, "prompt_attention_mask": torch.ones(length, dtype=torch.bool)}

    def blank_image(self, shape: tuple[int, ...], task: str) -> Image:
        return {"keyframes": torch.zeros(shape)} if task in self.pictures.image_tasks else {}

    def encode_image(self, pipeline: Any, pixels: Tensor, *, task: str) -> Image:
        """Latents of the pixel frame that ends each latent frame, encoded alone: "keyframes", [B, C, F, H, W]."""
        frames = scale_pixels(pixels)[:, :, :: self.grid.vae_frame_step].split(1, dim=2)
        return {"keyframes": torch.cat([encode_video(pipeline.vae, self, frame)[0] for frame in frames], dim=2)}

    def arrange(self, x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2)

    def denoise(self, denoiser: nn.Module, x: Tensor, sigma: Tensor, prompt: Prompt) -> Tensor:
        _, _, frames, height, width = x.shape
        later = x.new_zeros(len(x), 0, dtype=torch.long)
        if prompt.given is not None and prompt.given[:, 1:].any():
            given = prompt.given[:, 1:]  # on the CPU: nobody waits
            assert len(given.sum(1).unique()) == 1, "samples of a step are given equally many later frames: each is a token"
            later = 1 + given.nonzero()[:, 1].view(len(x), -1)
            keyframes = prompt.image["keyframes"].transpose(1, 2)[torch.arange(len(x))[:, None], later]  # [B, n, C, H, W]
            x = torch.cat([pad_channels(keyframes.transpose(1, 2), x), x], dim=2)
            sigma = torch.cat([sigma.new_zeros(later.shape), sigma], dim=1)
        tokens: Tensor = denoiser(
            hidden_states=self.arrange(x),
            encoder_hidden_states=prompt.text["prompt_embeds"],
            timestep=1000 * sigma.repeat_interleave(height * width, dim=1),
            encoder_attention_mask=prompt.text.get("prompt_attention_mask"),
            **self._places(prompt.fps, later.to(x.device), (frames, height, width)),
            return_dict=False,
        )[0]
        return tokens.transpose(1, 2).reshape(len(x), -1, *x.shape[2:])[:, :, -frames:]

    def _places(self, fps: Tensor, later: Tensor, shape: tuple[int, int, int]) -> dict[str, Any]:
        """Tell where tokens are, as the release's pipelines do: a scale of their grid, or coordinates [B, 3, N]."""
        frames, height, width = shape
        fps, step, side = torch.where(fps > 0, fps, STILL_FPS), self.grid.vae_frame_step, self.grid.vae_step
        if not self.takes_keyframes:
            scale = (step / fps).view(-1, 1, 1, 1, 1), side, side
            return {"num_frames": frames, "height": height, "width": width, "rope_interpolation_scale": scale}
        begins = (step * torch.arange(frames, device=fps.device) + 1 - step).clamp(min=0)  # pixel frames
        seconds = torch.cat([step * later, begins.expand(len(fps), -1)], dim=1) * (1 / fps.double()).float()[:, None]
        rows, columns = (side * torch.arange(size, device=fps.device, dtype=torch.float32) for size in (height, width))
        grid = torch.broadcast_tensors(seconds[:, :, None, None], rows[:, None], columns)
        return {"video_coords": torch.stack(grid, dim=1).flatten(2)}

    def context_plan(self) -> ContextPlan:
        from diffusers.models._modeling_parallel import ContextParallelInput as Split, ContextParallelOutput as Join

        # Not diffusers' own plan, which splits the prompt for an exchange that its mask and its length do not go through.
        modules = {
            "": {"timestep": Split(1, 2)},
            self.input_layer: {0: Split(1, 3, split_output=True)},
            "rope": dict.fromkeys((0, 1), Split(1, 3, split_output=True)),
            "proj_out": Join(1, 3),
        }
        return ContextPlan(num_heads=self.settings["num_attention_heads"], modules=modules, unshared=("attn2",))

    def sampling_arguments(self, request: Request) -> dict[str, Any]:
        fps = self.default_fps if request.fps is None else request.fps
        clean = {"image_cond_noise_scale": 0.0} if self.takes_keyframes else {}  # as in the examples of the same page
        return {"num_frames": request.size[0], "frame_rate": fps, **DECODING, **clean}

    def picture_arguments(self, request: Request, pictures: Mapping[str, Any]) -> dict[str, Any]:
        if not self.takes_keyframes or not pictures:
            return dict(pictures)
        from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition

        places = {"image": 0, "last_image": request.size[0] - 1}
        return {"conditions": [LTXVideoCondition(image, frame_index=places[name]) for name, image in pictures.items()]}
