"""Images, as eight bits of sRGB: orientation, alpha, palettes, color profiles, 16 bits and CMYK are resolved here."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from finetrainers.data.media.blob import Blob
from finetrainers.data.media.contents import what_it_is
from finetrainers.data.media.profiles import note_colors, to_rgb
from finetrainers.data.media.stated import stated_colors
from finetrainers.data.media.view import Clip, Fit, MediaInfo, View, bad_media, crop, fit, why_unreadable

SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I")
MAX_PIXELS = 1 << 28
"""Largest image, 268 million pixels: one gigabyte as Pillow holds it, and about three while it is converted."""
LARGE_PIXELS = 1 << 26
"""From here on, images are made smaller before they are converted and scaled; ordinary ones are not touched by it."""
ANIMATED_FORMATS = ("GIF", "WEBP", "PNG", "AVIF")
"""Other formats with several pictures, such as pages of a TIFF, are images: the first picture."""
ORIENTATION_TAG = 0x0112

Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit is a warning of an attack; ours is an error that says what to do


@contextmanager
def opened(blob: Blob) -> Iterator[Image.Image]:
    """Open an image for reading; its size is checked, its pixels are not read yet."""
    try:
        with blob.open() as file, Image.open(file) as image:
            _check_size(image, blob)
            note_colors(image, stated_colors(file, image.format))
            yield image
    except UnidentifiedImageError as error:
        raise bad_media(blob, f"not an image, or of a format that Pillow cannot read{what_it_is(blob)}") from error
    except OSError as error:
        is_systems = error.errno is not None  # Pillow's own, such as of a truncated file, have none
        raise bad_media(blob, why_unreadable(error) if is_systems else f"cannot be decoded: {error}") from error
    except (ValueError, SyntaxError, EOFError, struct.error) as error:
        raise bad_media(blob, f"cannot be decoded: {error}") from error  # Pillow raises SyntaxError for a broken PNG


def _check_size(image: Image.Image, blob: Blob) -> None:
    """Refuse what memory may not hold; a JPEG that is too large can be decoded at a fraction of its size."""
    pixels = image.width * image.height
    can_be_drafted = image.format == "JPEG" and "progressive" not in image.info
    if pixels > MAX_PIXELS * (4 if can_be_drafted else 1):
        raise bad_media(
            blob,
            f"{image.width} x {image.height} are {pixels / 1e6:.0f} million pixels, more than the {MAX_PIXELS / 1e6:.0f} "
            "million that are decoded; scale it down, or cut it into parts",
        )


def is_animation(image: Image.Image) -> bool:
    """Whether the image has more than one frame, and so is a video."""
    return image.format in ANIMATED_FORMATS and bool(getattr(image, "is_animated", False))


def probe_image(image: Image.Image, blob: Blob) -> MediaInfo:
    """Decode an image fully, so that a truncated one is found, and tell its displayed size."""
    width, height = image.size
    if image.width * image.height > LARGE_PIXELS and image.format == "JPEG":
        image.draft(None, (image.width // 8, image.height // 8))
    image.load()
    if image.mode in SIXTEEN_BIT_MODES or image.mode == "F":
        _narrow(image, blob)
    if orientation(image) >= 5:
        width, height = height, width
    return MediaInfo(num_frames=1, height=height, width=width, fps=0.0, seconds=0.0)


def decode_image(image: Image.Image, blob: Blob, view: View) -> Clip:
    """Decode an image to [1, H, W, 3]; it has only one frame."""
    if view.num_frames != 1:
        raise bad_media(blob, f"an image has 1 frame, {view.num_frames} are needed")
    return Clip(pixels=torch.from_numpy(shown(image, blob, view))[None], fps=0.0)


def shown(image: Image.Image, blob: Blob, view: View) -> np.ndarray:
    """Pixels [H, W, 3] of the current frame: what of it the view shows."""
    width, height = image.size
    turn = orientation(image)
    placed = fit(*((width, height) if turn >= 5 else (height, width)), view)
    if width * height > LARGE_PIXELS:
        image = _smaller(image, placed, is_turned=turn >= 5)
    if turn != 1:
        image = _upright(image, turn)
    scaled = np.asarray(_rgb(image, blob).resize((placed.width, placed.height), Image.Resampling.LANCZOS))
    return np.array(crop(scaled, placed, view), order="C")


def _smaller(image: Image.Image, placed: Fit, *, is_turned: bool) -> Image.Image:
    """Decode or average a large image to a fraction, at least three times what is shown of it."""
    width, height = (placed.height, placed.width) if is_turned else (placed.width, placed.height)
    if image.format == "JPEG":
        image.draft(None, (3 * width, 3 * height))
    factors = max(1, image.width // (3 * width)), max(1, image.height // (3 * height))
    return image.reduce(factors) if image.mode in ("L", "RGB", "RGBA", "CMYK") and max(factors) > 1 else image


def orientation(image: Image.Image) -> int:
    """EXIF orientation 1 to 8; 1 where there is none, or none that can be read, as viewers have it."""
    try:
        value = image.getexif().get(ORIENTATION_TAG, 1)
    except (SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, struct.error, AttributeError):
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(image: Image.Image, turn: int) -> Image.Image:
    transpose = Image.Transpose
    method = {
        2: transpose.FLIP_LEFT_RIGHT,
        3: transpose.ROTATE_180,
        4: transpose.FLIP_TOP_BOTTOM,
        5: transpose.TRANSPOSE,
        6: transpose.ROTATE_270,
        7: transpose.TRANSVERSE,
        8: transpose.ROTATE_90,
    }[turn]
    upright = image.transpose(method)
    upright.info = image.info
    return upright


def _rgb(image: Image.Image, blob: Blob) -> Image.Image:
    """Convert to mode RGB of sRGB, laid on white."""
    info = image.info
    if image.mode in SIXTEEN_BIT_MODES or image.mode == "F":
        return to_rgb(_narrow(image, blob), info)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        colors = to_rgb(image.convert("L") if image.mode in ("L", "LA") else layer.convert("RGB"), info)
        colors.putalpha(layer.getchannel("A"))
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), colors).convert("RGB")
    grey = image.mode in ("1", "L")
    return to_rgb(image.convert("L" if grey else "CMYK" if image.mode == "CMYK" else "RGB"), info)


def _narrow(image: Image.Image, blob: Blob) -> Image.Image:
    """Scale wide grey values to mode L; ``Image.convert`` would clip them."""
    white = 1 if image.mode == "F" else 65535
    values = np.asarray(image).astype(np.float32)
    if not 0 <= values.min() <= values.max() <= white:
        reason = f"grey values of mode {image.mode} must lie in 0..{white}, but reach from {values.min()} to {values.max()}"
        raise bad_media(blob, f"{reason}: convert it to 8 or 16 bits")
    return Image.fromarray(np.rint(values * (255 / white)).astype(np.uint8))
