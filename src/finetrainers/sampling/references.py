"""The pictures that a request shows the denoiser at their own size, brought to it and encoded as training does.

Shape letters as in ``finetrainers.batch``; P and Q are pixel height and width.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from finetrainers.batch import Medium
from finetrainers.config import Bucket
from finetrainers.data.catalog.pictures import nearest_sizes, picture_view
from finetrainers.data.media.files import decode, probe
from finetrainers.data.streams import Stream, name_of_picture
from finetrainers.models import ModelAdapter
from finetrainers.models.vae import encode_pixels


def decode_reference(path: Path, sizes: Sequence[Bucket]) -> Tensor:
    """Decode a picture, [1, P, Q, 3] uint8, at the size of those that is nearest to its proportions, cut around the middle.

    Raises:
        DataError: If it cannot be decoded.
    """
    found = probe(path)
    (chosen,) = nearest_sizes(np.array([found.height]), np.array([found.width]), sizes)
    return decode(path, picture_view(sizes[chosen])).pixels


def encode_references(pictures: Sequence[Tensor], stream: Stream, *, vae: Any, adapter: ModelAdapter) -> dict[str, Medium]:
    """Encode pictures [1, P, Q, 3] by the mode of the VAE's posterior, as the media of one sample, on the CPU."""
    media = {}
    for number, pixels in enumerate(pictures):
        mode, _ = encode_pixels(vae, adapter, pixels[None])
        media[name_of_picture(stream.name, number)] = Medium(mode.float(), torch.ones(1, 1))
    return media


def side_by_side(pictures: Sequence[Tensor], *, height: int) -> NDArray[np.uint8]:
    """Join pictures [1, P, Q, 3] from left to right, each scaled to a height: [1, height, Q', 3]."""
    scaled = []
    for pixels in pictures:
        image = Image.fromarray(pixels[0].numpy())
        width = round(image.width * height / image.height)
        scaled.append(np.asarray(image.resize((width, height), Image.Resampling.LANCZOS)))
    return np.hstack(scaled)[None]
