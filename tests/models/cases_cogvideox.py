"""CogVideoX: frames before channels; from a picture, its latents in as many channels more."""

from typing import Any

from cases import Case
from torch import Tensor

CHANNELS = 4


def read(pipeline: Any, told: Any, model: Any) -> tuple[Tensor, Tensor]:
    x = told["hidden_states"].transpose(1, 2)[:, :CHANNELS]
    middle = (told["timestep"].float() + 0.5) / 1000  # a noise level is in the middle of its time step
    return x, middle[:, None].expand(1, x.shape[2])


def channels_first(pipeline: Any, answer: Tensor, shape: tuple[int, ...]) -> Tensor:
    return answer.transpose(1, 2)


def take_the_mode(pipeline: Any) -> None:
    """The pipeline draws the picture's latents from the posterior, with its generator; our adapter takes the mode."""
    encode = pipeline.vae.encode

    def encode_mode(pixels: Tensor) -> Any:
        output = encode(pixels)
        output.latent_dist.sample = lambda generator: output.latent_dist.mode()
        return output

    pipeline.vae.encode = encode_mode


def make_case(variant: str, size: tuple[int, int, int], **options: Any) -> Case:
    task = "image-to-video" if variant.endswith("i2v") else "text-to-video"
    call = {"num_frames": size[0], "guidance_scale": 1.0}
    patch = take_the_mode if task == "image-to-video" else None
    return Case("cogvideox", variant, task, size, read, channels_first, channels_first, call, patch=patch, **options)


CASES = [
    make_case("2b", (9, 64, 64)),  # not the native size: positions are made anew
    make_case("5b", (9, 96, 64)),
    make_case("1.5-5b", (9, 64, 96)),  # 3 latent frames, of which the first is there twice
    make_case("5b-i2v", (9, 64, 96)),  # the only size
    make_case("1.5-5b-i2v", (9, 64, 96)),
]
