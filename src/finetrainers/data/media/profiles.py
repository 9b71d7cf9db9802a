"""Colors of images, by what their files say of them. What is shown is sRGB.

The first of these counts: PNG's cICP, an ICC profile, AVIF's nclx, PNG's gamma and primaries. As viewers do, images without
any are taken for sRGB, and so are those whose profile is broken or of another color space than their pixels.
"""

import io
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

from finetrainers.data.media.transfer import Colors, colors_of, light_to_srgb, matrix_to_srgb, srgb_to_light, to_srgb

SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}
"""Color space of profiles that an image's mode can have."""
SAME_LEVELS = 1
"""A profile that changes no color by more than this is sRGB's: pixels stay as they are."""
SRGB_GAMMA = 0.45455
GAMMA_TOLERANCE = 0.05
"""Share by which PNG's gamma may be off that of sRGB and be taken for its curve, as browsers have it."""
STATED = "finetrainers_colors"
"""Key of an image's ``info``: transfer characteristics and primaries that its file states by number."""
SRGB_CHROMATICITIES = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
"""(x, y) of white, red, green and blue."""
CHROMATICITY_TOLERANCE = 0.001
PIXELS_AT_ONCE = 1 << 20
Pixels = npt.NDArray[np.uint8]
"""[h, w, 3]."""


def noted_colors(image: Image.Image) -> tuple[int, int] | None:
    """Return what ``note_colors`` has kept, which a seek to the first frame of an animated PNG removes."""
    found: tuple[int, int] | None = image.info.get(STATED)
    return found


def note_colors(image: Image.Image, stated: tuple[int, int] | None) -> None:
    """Keep what an image's file states of its colors, where it counts: in PNG more than a profile, in AVIF less."""
    if stated is not None and (image.format == "PNG" or not image.info.get("icc_profile")):
        image.info[STATED] = stated


def to_rgb(image: Image.Image, info: dict[Any, Any]) -> Image.Image:
    """Convert an image of mode L, RGB or CMYK to mode RGB, by what ``info`` of the file says of its colors."""
    if STATED in info:
        return _by_number(image.convert("RGB"), colors_of(*info[STATED]))
    profile = info.get("icc_profile")
    if profile:
        transform = _transform(bytes(profile), image.mode)
        if transform is not None:
            return ImageCms.applyTransform(image, transform) or image
    elif "gamma" in info and "srgb" not in info and image.mode != "CMYK":
        return _by_gamma(image.convert("RGB"), float(info["gamma"]), info.get("chromaticity", SRGB_CHROMATICITIES))
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


def _by_number(image: Image.Image, colors: Colors | None) -> Image.Image:
    return image if colors is None else _in_rows(image, lambda rows: to_srgb(rows.astype(np.uint16) * 257, colors))


def _by_gamma(image: Image.Image, gamma: float, chromaticities: tuple[float, ...]) -> Image.Image:
    """Show codes whose light is ``code ** (1 / gamma)``, of primaries that may be others than those of sRGB."""
    if not 0.05 < gamma < 20:
        return image
    matrix = _matrix(chromaticities)
    is_srgb = abs(gamma / SRGB_GAMMA - 1) <= GAMMA_TOLERANCE
    if matrix is None and is_srgb:
        return image
    code = np.arange(256) / 255
    light = srgb_to_light(code) if is_srgb else code ** (1 / gamma)
    if matrix is None:
        return image.point(_codes(light).astype(int).tolist() * 3)
    table = light.astype(np.float32)
    return _in_rows(image, lambda rows: _codes(np.clip(table[rows] @ matrix, 0, 1)).astype(np.uint8))


def _in_rows(image: Image.Image, convert: Callable[[Pixels], Pixels]) -> Image.Image:
    """Convert an RGB image some rows at a time: what is computed in between takes a dozen times as much memory."""
    codes = np.asarray(image)
    shown = np.empty_like(codes)
    rows = max(1, PIXELS_AT_ONCE // codes.shape[1])
    for start in range(0, len(codes), rows):
        shown[start : start + rows] = convert(codes[start : start + rows])
    return Image.fromarray(shown)


def _codes(light: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """SRGB codes of light in 0..1, rounded."""
    codes: npt.NDArray[Any] = np.rint(255 * light_to_srgb(light))
    return codes


def _matrix(chromaticities: tuple[float, ...]) -> npt.NDArray[np.float32] | None:
    """Matrix [3, 3] for row vectors of light; None where primaries are those of sRGB, or none at all."""
    if np.allclose(chromaticities, SRGB_CHROMATICITIES, atol=CHROMATICITY_TOLERANCE):
        return None
    white, *primaries = zip(chromaticities[::2], chromaticities[1::2], strict=True)
    try:
        with np.errstate(all="raise"):
            return matrix_to_srgb(tuple(primaries), white)
    except (np.linalg.LinAlgError, ZeroDivisionError, FloatingPointError):
        return None
