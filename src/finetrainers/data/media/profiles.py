"""Colors of images, by what their files say of them: an ICC profile, or else PNG's gamma. What is shown is sRGB.

As viewers do, images without either are taken for sRGB, and so are those whose profile is broken or of another color space
than their pixels.
"""

import io
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms

SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}
"""Color space of profiles that an image's mode can have."""
SAME_LEVELS = 1
"""A profile that changes no color by more than this is sRGB's: pixels stay as they are."""
SRGB_GAMMA = 0.45455
GAMMA_TOLERANCE = 0.05
"""Share by which PNG's gamma may be off that of sRGB without any effect, as browsers have it."""


def to_rgb(image: Image.Image, info: dict[Any, Any]) -> Image.Image:
    """Convert an image of mode L, RGB or CMYK to mode RGB, by what ``info`` of the file says of its colors."""
    profile = info.get("icc_profile")
    if profile:
        transform = _transform(bytes(profile), image.mode)
        if transform is not None:
            return ImageCms.applyTransform(image, transform) or image
    elif "gamma" in info and "srgb" not in info and image.mode != "CMYK":
        return _by_gamma(image.convert("RGB"), float(info["gamma"]))
    return image.convert("RGB")


@lru_cache(maxsize=32)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Transform to sRGB; None where there is nothing to do, or the profile cannot be used."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != SPACES[mode]:
            return None
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
        steps = np.linspace(0, 255, 9).round().astype(np.uint8)
        channels = len(Image.new(mode, (1, 1)).getbands())
        grid = np.stack(np.meshgrid(*[steps] * channels, indexing="ij"), axis=-1).reshape(
            -1, 9 if channels > 1 else 1, channels
        )
        sample = Image.fromarray(grid[..., 0] if channels == 1 else grid, mode)
        shown = np.asarray(ImageCms.applyTransform(sample, transform)).astype(int)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    if mode != "CMYK" and np.abs(shown - np.asarray(sample.convert("RGB")).astype(int)).max() <= SAME_LEVELS:
        return None
    return transform


def _by_gamma(image: Image.Image, gamma: float) -> Image.Image:
    """Show codes whose light is ``code ** (1 / gamma)``; the primaries are taken for those of sRGB."""
    if not 0.05 < gamma < 20 or abs(gamma / SRGB_GAMMA - 1) <= GAMMA_TOLERANCE:
        return image
    light = (np.arange(256) / 255) ** (1 / gamma)
    codes = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return image.point(np.rint(codes * 255).astype(int).tolist() * 3)
