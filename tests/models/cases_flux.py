"""FLUX.1: packed tokens."""

from typing import Any

from cases import Case
from PIL import Image
from torch import Tensor

from finetrainers.models import Model
from finetrainers.models.flux import unpack
from finetrainers.models.vae import encode_pixels


def read(pipeline: Any, told: Any, model: Any) -> tuple[Tensor, Tensor]:
    ids = told["img_ids"][told["img_ids"][:, 0] == 0]  # not those of references
    rows, columns = int(ids[:, 1].max()) + 1, int(ids[:, 2].max()) + 1
    return unpack(told["hidden_states"][:, : rows * columns], rows, columns)[:, :, None], told["timestep"][:, None]


def unpacked(pipeline: Any, tokens: Tensor, shape: tuple[int, ...]) -> Tensor:
    step = pipeline.vae_scale_factor
    tokens = tokens[:, : shape[2] * shape[3] // 4]
    return pipeline._unpack_latents(tokens, shape[2] * step, shape[3] * step, step)[:, :, None]


def show(pipeline: Any, clip: Tensor) -> dict[str, Any]:
    """A picture of another size than the one that is drawn."""
    picture = Image.fromarray(clip[0, 0, :32, :].numpy())
    return {"image": picture, "_auto_resize": False}


def shown(pipeline: Any, model: Model, clip: Tensor) -> tuple[Tensor, ...]:
    return (encode_pixels(pipeline.vae, model.adapter, clip[:, :, :32])[0],)


KONTEXT = {"guidance_scale": 1.0, "max_area": 64 * 96}
CASES = [
    Case("flux", "dev", "text-to-image", (1, 64, 96), read, unpacked, unpacked, {"guidance_scale": 1.0}),
    Case("flux", "schnell", "text-to-image", (1, 96, 64), read, unpacked, unpacked),
    Case("flux", "kontext", "image-to-image", (1, 64, 96), read, unpacked, unpacked, KONTEXT),
    Case(
        "flux",
        "kontext",
        "image-to-image",
        (1, 64, 96),
        read,
        unpacked,
        unpacked,
        KONTEXT,
        give=show,
        references=shown,
        overfit=None,
        label="with a reference",
    ),
]
