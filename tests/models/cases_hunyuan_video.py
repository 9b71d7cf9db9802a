"""HunyuanVideo: latents as they are, beside those of the picture or with them in the place of the first frame."""

from typing import Any

from cases import Case
from torch import Tensor


def read(pipeline: Any, told: Any, model: Any) -> tuple[Tensor, Tensor]:
    x = told["hidden_states"][:, : model.adapter.grid.channels]
    sigma = (told["timestep"][:, None] / 1000).repeat(1, x.shape[2])
    if model.adapter.gives_first_frame(model.task):
        sigma[:, 0] = 0.0
    return x, sigma


def as_it_is(pipeline: Any, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    return tensor


def after_the_given(pipeline: Any, output: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The given frame is none that the model draws."""
    return output[:, :, 1:]


SIZE = (9, 48, 64)
CALL = {"num_frames": 9, "guidance_scale": 1.0}
SEEN = "image-to-video"
TWO_ROWS = {"train": {"batch_size": 2, "micro_batch_size": 2}}
"""Each sample has 600 tokens of the picture beside those of the prompt: two learn the item as four do, in half the time."""
CASES = [
    Case("hunyuan_video", "t2v", "text-to-video", SIZE, read, as_it_is, as_it_is, CALL, max_length=32, overfit=TWO_ROWS),
    Case("hunyuan_video", "i2v", SEEN, SIZE, read, as_it_is, after_the_given, CALL, max_length=32, overfit=TWO_ROWS),
    # The pipeline itself cuts the first latent frame off.
    Case("hunyuan_video", "i2v-33ch", SEEN, SIZE, read, as_it_is, as_it_is, CALL, max_length=32, overfit=TWO_ROWS),
]
