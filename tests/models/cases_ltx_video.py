"""LTX-Video: one token a latent pixel, a time step for each."""

from typing import Any

from cases import Case
from torch import Tensor


def read(pipeline: Any, told: Any, model: Any) -> tuple[Tensor, Tensor]:
    frames, height, width = told["num_frames"], told["height"], told["width"]
    x = pipeline._unpack_latents(told["hidden_states"], frames, height, width, 1, 1)
    timestep = told["timestep"]
    if timestep.ndim == 1 or timestep.shape[1] == 1:
        return x, (timestep.reshape(1, 1) / 1000).expand(1, frames)
    return x, timestep.reshape(1, frames, height * width)[:, :, 0] / 1000


def unpacked(pipeline: Any, tokens: Tensor, shape: tuple[int, ...]) -> Tensor:
    return pipeline._unpack_latents(tokens, *shape[1:], 1, 1)


def normalized(pipeline: Any, output: Tensor, shape: tuple[int, ...]) -> Tensor:
    """With output_type="latent" the pipeline gives its packed latents as they are."""
    return unpacked(pipeline, output, shape)


CALL = {"num_frames": 17, "frame_rate": 30, "guidance_scale": 1.0}
CASES = [
    Case("ltx_video", "0.9.0", "text-to-video", (17, 64, 96), read, unpacked, normalized, CALL, fps=30.0),
    Case("ltx_video", "0.9.0", "image-to-video", (17, 64, 96), read, unpacked, normalized, CALL, fps=30.0),
]
