"""Images, as eight bits of RGB: orientation, alpha, palettes, 16 bits and CMYK are resolved here."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from finetrainers.data.media.blob import Blob
from finetrainers.data.media.view import Clip, MediaInfo, View, bad_media, crop, fit, why_unreadable

SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I")


def is_animated(blob: Blob) -> bool:
    """Whether the file (a gif) has more than one frame, and so is a video."""
    with _opened(blob) as image:
        return bool(getattr(image, "is_animated", False))  # Pillow gives it only to formats that can have frames


def probe_image(blob: Blob) -> MediaInfo:
    """Decode an image fully, so that a truncated one is found, and tell its displayed size."""
    image = _load(blob)
    return MediaInfo(num_frames=1, height=image.height, width=image.width, fps=0.0, seconds=0.0)


def decode_image(blob: Blob, view: View) -> Clip:
    """Decode an image to [1, H, W, 3]; several frames cannot be had from it."""
    if view.num_frames != 1:
        raise bad_media(blob, f"an image has 1 frame, {view.num_frames} are needed")
    image = _load(blob)
    placed = fit(image.height, image.width, view)
    scaled = np.asarray(image.resize((placed.width, placed.height), Image.Resampling.LANCZOS))
    return Clip(pixels=torch.from_numpy(np.array(crop(scaled, placed, view), order="C"))[None], fps=0.0)


@contextmanager
def _opened(blob: Blob) -> Iterator[Image.Image]:
    try:
        with blob.open() as file, Image.open(file) as image:
            yield image
    except UnidentifiedImageError as error:
        raise bad_media(blob, "not an image, or of a format that Pillow cannot read") from error
    except OSError as error:
        is_systems = error.errno is not None  # Pillow's own, such as of a truncated file, have none
        raise bad_media(blob, why_unreadable(error) if is_systems else f"cannot be decoded: {error}") from error
    except (ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise bad_media(blob, f"cannot be decoded: {error}") from error  # Pillow raises SyntaxError for a broken PNG


def _load(blob: Blob) -> Image.Image:
    """Load the first frame as mode RGB, upright."""
    with _opened(blob) as image:
        return _rgb(ImageOps.exif_transpose(image), blob)


def _rgb(image: Image.Image, blob: Blob) -> Image.Image:
    if image.mode in SIXTEEN_BIT_MODES:
        return _narrow(image, blob, white=65535)
    if image.mode == "F":
        return _narrow(image, blob, white=1)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _narrow(image: Image.Image, blob: Blob, *, white: int) -> Image.Image:
    """Scale wide grey values to 8 bits; ``Image.convert`` would clip them."""
    values = np.asarray(image).astype(np.float32)
    if not 0 <= values.min() <= values.max() <= white:
        reason = f"grey values of mode {image.mode} must lie in 0..{white}, but reach from {values.min()} to {values.max()}"
        raise bad_media(blob, f"{reason}: convert it to 8 or 16 bits")
    return Image.fromarray(np.rint(values * (255 / white)).astype(np.uint8)).convert("RGB")
