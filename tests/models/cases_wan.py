"""Wan: latents as they are; given frames in further channels or in their place, a time step for each token or for all."""

from typing import Any

from cases import Case
from torch import Tensor

FRAMES = 9


def read(pipeline: Any, told: Any, model: Any) -> tuple[Tensor, Tensor]:
    x, timestep = told["hidden_states"][:, : model.adapter.grid.channels], told["timestep"] / 1000
    frames = x.shape[2]
    if timestep.ndim == 2:
        return x, timestep.reshape(1, frames, -1)[:, :, 0]
    return x, timestep[:, None].expand(1, frames)


def same(pipeline: Any, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    return tensor


def case(variant: str, task: str, **options: Any) -> Case:
    call = {"num_frames": FRAMES, "guidance_scale": 1.0}
    size = (FRAMES, 64, 96) if variant == "2.2-ti2v-5b" else (FRAMES, 32, 48)
    return Case("wan", variant, task, size, read, same, same, call, **options)


SHORT: dict[str, Any] = {"overfit": {"train": {"steps": 150}}}
"""Given frames are learned sooner."""
WITH_CLIP: dict[str, Any] = {"max_length": 512, **SHORT}
"""diffusers counts 512 tokens back from the end of prompt and image."""
HIGH: dict[str, Any] = {"label": "high-noise expert", "model": {"expert": "high_noise"}, "overfit": None}
LOW: dict[str, Any] = {"label": "low-noise expert", "model": {"expert": "low_noise"}, "overfit": None}
"""One expert alone has learned half of what the pipeline draws with."""
FROM_TEXT = {"learned": 0.25}
"""From text alone, 300 steps leave 0.15 to 0.18."""
CASES = [
    case("2.1-t2v", "text-to-video", **FROM_TEXT),
    case("2.1-i2v", "image-to-video", **WITH_CLIP),
    case("2.1-flf2v", "first-last-frame-to-video", **WITH_CLIP),
    *(case("2.2-t2v-a14b", "text-to-video", **options) for options in (FROM_TEXT, HIGH, LOW)),
    *(case("2.2-i2v-a14b", "image-to-video", **options) for options in (SHORT, HIGH, LOW)),
    case("2.2-i2v-a14b", "first-last-frame-to-video", **SHORT),
    case("2.2-ti2v-5b", "text-to-video", **FROM_TEXT),
    case("2.2-ti2v-5b", "image-to-video"),
]
