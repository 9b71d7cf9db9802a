"""CogView4: latents as they are; time steps are told before the shift."""

from typing import Any

from cases import Case
from torch import Tensor


def read(pipeline: Any, told: Any, model: Any) -> tuple[Tensor, Tensor]:
    scheduler = pipeline.scheduler
    step = scheduler.timesteps.tolist().index(float(told["timestep"]))
    return told["hidden_states"][:, :, None], scheduler.sigmas[step].reshape(1, 1)


def one_frame(pipeline: Any, answer: Tensor, shape: tuple[int, ...]) -> Tensor:
    return answer[:, :, None]


def shown(pipeline: Any, output: Tensor, shape: tuple[int, ...]) -> Tensor:
    """With output_type="latent" the pipeline gives its latents as they are."""
    return output[:, :, None]


CASES = [
    Case("cogview4", "6b", "text-to-image", (1, 64, 96), read, one_frame, shown, {"guidance_scale": 1.0}),
]
