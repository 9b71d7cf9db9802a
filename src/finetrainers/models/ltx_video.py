"""LTX-Video: one token a latent pixel, a noise level for each token, rotary scale from the clip's frame rate.

Shape letters as in ``finetrainers.batch``; N is the number of tokens, ``F * H * W``.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from finetrainers.batch import Prompt, Text
from finetrainers.models.base import Grid, ModelAdapter, Request, Settings
from finetrainers.models.registry import register_model
from finetrainers.objective import GIVEN_FRAME_MAX_SIGMA, NoiseLevels

STILL_FPS = 25.0
"""Frame rate that is told for an image, whose only frame lies at time 0 at any rate."""

DECODE_TIMESTEP = 0.05
"""Noise level that VAEs with timestep conditioning (0.9.1 and later) decode at, as diffusers' documentation advises."""


@register_model("ltx_video")
class LTXVideo(ModelAdapter):
    """Lightricks' LTX-Video 0.9."""

    pipelines = {"text-to-video": "LTXPipeline", "image-to-video": "LTXImageToVideoPipeline"}
    blocks = ("LTXVideoTransformerBlock",)
    input_layer = "proj_in"
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")  # both attentions of each block
    vae_statistics = "buffers"
    noise_levels = NoiseLevels("logit_normal")  # arXiv:2501.00103, section 2.4
    shift = "scheduler"
    first_frame_probability = 0.1
    given_frame_max_sigma = GIVEN_FRAME_MAX_SIGMA
    default_fps = 25.0
    max_sequence_length = 128

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

    def gives_first_frame(self, task: str) -> bool:
        return task == "image-to-video"

    def encode_prompt(self, pipeline: Any, captions: Sequence[str], *, max_length: int, device: torch.device) -> Text:
        embeds, mask, _, _ = pipeline.encode_prompt(
            list(captions), do_classifier_free_guidance=False, max_sequence_length=max_length, device=device
        )
        return {"prompt_embeds": embeds, "prompt_attention_mask": mask}

    def denoise(self, denoiser: nn.Module, x: Tensor, sigma: Tensor, prompt: Prompt) -> Tensor:
        _, _, frames, height, width = x.shape
        fps = torch.where(prompt.fps > 0, prompt.fps, STILL_FPS)
        scale = (self.grid.vae_frame_step / fps).view(-1, 1, 1, 1, 1), self.grid.vae_step, self.grid.vae_step
        tokens: Tensor = denoiser(
            hidden_states=x.flatten(2).transpose(1, 2),
            encoder_hidden_states=prompt.text["prompt_embeds"],
            timestep=1000 * sigma.repeat_interleave(height * width, dim=1),
            encoder_attention_mask=prompt.text["prompt_attention_mask"],
            num_frames=frames,
            height=height,
            width=width,
            rope_interpolation_scale=scale,
            return_dict=False,
        )[0]
        return tokens.transpose(1, 2).reshape(x.shape)

    def sampling_arguments(self, request: Request) -> dict[str, Any]:
        frames = request.size[0]
        fps = self.default_fps if request.fps is None else request.fps
        return {"num_frames": frames, "frame_rate": fps, "decode_timestep": DECODE_TIMESTEP}
