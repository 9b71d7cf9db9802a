"""LTX-Video: one token a latent pixel, a time step for each; from 0.9.5 on given frames are tokens before them."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from cases import Case
from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition
from PIL import Image
from torch import Tensor

SIZE, FRAMES = (17, 64, 96), 3
ROUNDING = 5e-7
"""The pipeline divides given latents by the deviation, our encoder multiplies them by its reciprocal."""


def read(pipeline: Any, told: Any, model: Any) -> tuple[Tensor, Tensor]:
    frames, height, width = told["num_frames"], told["height"], told["width"]
    return unpacked(pipeline, told["hidden_states"], (0, frames, height, width)), levels(told, frames)


def read_keyframes(pipeline: Any, told: Any, model: Any) -> tuple[Tensor, Tensor]:
    height, width = (len(told["video_coords"][0, axis].unique()) for axis in (1, 2))
    return unpacked(pipeline, told["hidden_states"], (0, FRAMES, height, width)), levels(told, FRAMES)


def levels(told: Any, frames: int) -> Tensor:
    """Noise level of each frame of the clip, [1, F], from one time step for all tokens or one for each."""
    timestep = told["timestep"].reshape(1, -1).expand(1, told["hidden_states"].shape[1])
    side = told["hidden_states"].shape[1] // (frames + extra_frames(told, frames))
    return timestep[:, -frames * side :: side] / 1000


def extra_frames(told: Any, frames: int) -> int:
    """Given frames before those of the clip."""
    if "video_coords" not in told:
        return 0
    return told["video_coords"].shape[2] // len(torch.unique(told["video_coords"][0, 1:], dim=1).T) - frames


def unpacked(pipeline: Any, tokens: Tensor, shape: tuple[int, ...]) -> Tensor:
    _, frames, height, width = shape
    return pipeline._unpack_latents(tokens[:, -frames * height * width :], frames, height, width, 1, 1)


def drawn(pipeline: Any, output: Tensor, shape: tuple[int, ...]) -> Tensor:
    """With output_type="latent" the first two pipelines give packed latents, and LTXConditionPipeline does not."""
    return output if output.ndim == 5 else unpacked(pipeline, output, shape)


def conditions(*pixel_frames: int) -> Callable[[Any, Tensor], Mapping[str, Any]]:
    """Give frames of the clip, each at its own place."""

    def give(pipeline: Any, clip: Tensor) -> Mapping[str, Any]:
        pictures = ((Image.fromarray(clip[0, frame].numpy()), frame) for frame in pixel_frames)
        given = [LTXVideoCondition(image=picture, frame_index=frame) for picture, frame in pictures]
        return {"conditions": given} if given else {}  # of an empty list the pipeline makes nothing

    return give


def take_modes(pipeline: Any) -> None:
    """Let the pipeline take the mode of the VAE's posterior for given frames, as training does, and no sample of its own."""
    encode = pipeline.vae.encode

    def encode_to_mode(pixels: Tensor) -> Any:
        output = encode(pixels)
        output.latent_dist.sample = lambda generator=None: output.latent_dist.mode()
        return output

    pipeline.vae.encode = encode_to_mode


def keyframe_case(task: str, give: Any = None, variant: str = "0.9.5", **options: Any) -> Case:
    call = {**CALL, "image_cond_noise_scale": 0.0}
    facts = {"fps": 30.0, "give": give, "patch": take_modes, "tolerance": ROUNDING}
    return Case("ltx_video", variant, task, SIZE, read_keyframes, unpacked, drawn, call, **facts, **options)


def sets(kind: str, **settings: float) -> dict[str, Any]:
    return {"conditioning": {"kind": "given_frames", "frames": kind, **settings}}


CALL = {"num_frames": 17, "frame_rate": 30, "guidance_scale": 1.0}
FIRST_LAST = "first-last-frame-to-video"
CASES = [
    *(
        Case("ltx_video", variant, task, SIZE, read, unpacked, drawn, CALL, fps=30.0)
        for variant in ("0.9.0", "0.9.1")
        for task in ("text-to-video", "image-to-video")
    ),
    keyframe_case("text-to-video"),
    keyframe_case("image-to-video", conditions(0)),
    keyframe_case(FIRST_LAST, conditions(0, 16), given=(0, 2)),
    keyframe_case(FIRST_LAST, conditions(16), given=(2,), label="last", overfit=sets("last"), learned=0.2),
    keyframe_case(FIRST_LAST, conditions(8), given=(1,), label="middle", overfit=sets("random")),
    keyframe_case(FIRST_LAST, conditions(0, 8, 16), given=(0, 1, 2), label="all", overfit=sets("random")),
    keyframe_case(FIRST_LAST, conditions(), given=(), label="none", overfit=sets("auto", probability=0.5)),
    keyframe_case("text-to-video", variant="0.9.7"),
    keyframe_case(FIRST_LAST, conditions(0, 16), variant="0.9.7", given=(0, 2)),
]
