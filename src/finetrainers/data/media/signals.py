"""Control signals that are computed from the pixels of a sample: grey, blur, a small version, edges, or a user's own.

Shape letters: K frames of P x Q pixels, as they are decoded. Frames are uint8 [K, P, Q, 3] RGB, before and after.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from finetrainers.compat.packages import install_extra
from finetrainers.config import ChannelConcatConfig
from finetrainers.config.user_code import read_user_code
from finetrainers.errors import ConfigError

SETTING = "conditioning.signal"

LUMA = (19595, 38470, 7471)
"""Weights of R, G and B in grey (ITU-R BT.601: 0.299, 0.587, 0.114), in units of 2^-16: the same bits on all machines."""

BLUR_CUT = 4.0
"""Standard deviations at which blur's kernel ends: what lies beyond is 0.006% of it."""

MAX_GRADIENT = 8 * 255.0
"""Largest gradient (|dx| + |dy| by Sobel) that canny can meet; OpenCV's integers overflow at far larger thresholds."""

UNCHANGED = ("identity", "files")
"""Signals whose pixels stay as they were decoded."""


@dataclass(frozen=True, slots=True)
class Signal:
    """What is made of decoded frames before they are encoded; make one with ``build_signal``."""

    name: str
    """As in ``conditioning.signal``."""
    parameters: tuple[tuple[str, float], ...] = ()
    """Settings of this signal, by name; those of others are left out."""
    file_digest: str = ""
    """Hash of the user's file; empty where there is none."""
    setting: str = field(default=SETTING, compare=False)
    """Key of the configuration that names it, for messages."""

    def __call__(self, frames: Tensor) -> Tensor:
        """Compute the signal of frames uint8 [K, P, Q, 3], which stay as they are; the result is of the same shape.

        Raises:
            ConfigError: If the user's file cannot be loaded or is another one than when the run began, or if its function
                returns something else than such frames.
        """
        if not self.is_computed:
            return frames
        if self.file_digest:
            return self._checked(load_function(self.name, self.file_digest, self.setting)(frames.clone()), frames)
        compute, settings = COMPUTED[self.name], dict(self.parameters)
        return torch.cat([compute(frame, **settings) for frame in frames.split(1)])  # one by one: floats take memory

    def _checked(self, result: object, frames: Tensor) -> Tensor:
        """See that a user's function has returned frames like those it was given."""
        if isinstance(result, Tensor):
            if result.dtype == torch.uint8 and result.shape == frames.shape and result.device == frames.device:
                return result
            returned = f"{result.dtype} {list(result.shape)} on {result.device}"
        else:
            returned = f"a {type(result).__name__}"
        raise ConfigError(
            f"{self.setting}: {self.name} returned {returned}; expected is a tensor like the frames it gets: "
            f"{frames.dtype} {list(frames.shape)} on {frames.device}"
        )

    @property
    def is_computed(self) -> bool:
        """Whether it is made of the media's pixels."""
        return self.name not in UNCHANGED

    @property
    def identity(self) -> list[object]:
        """All that the pixels depend on besides the frames, for cache keys: plain values, the same wherever the file lies.

        What a user's file imports is not in it.
        """
        name = self.name.rpartition(":")[2] if self.file_digest else self.name
        return [name, [list(setting) for setting in self.parameters], self.file_digest]


def build_signal(config: ChannelConcatConfig, *, key: str = "conditioning") -> Signal:
    """Choose the signal, and see that it can be computed; ``key`` is what the condition is written under.

    Raises:
        ConfigError: If it cannot: the user's file, the function or OpenCV is missing, or a setting is wrong.
    """
    setting = f"{key}.signal"
    match config.signal:
        case "identity" | "files" | "gray":
            return Signal(config.signal, setting=setting)
        case "blur":
            return Signal("blur", (("sigma", config.blur_sigma),), setting=setting)
        case "downscale":
            return Signal("downscale", (("factor", float(config.downscale_factor)),), setting=setting)
        case "canny":
            import_opencv(setting)
            if config.canny_low > config.canny_high:
                raise ConfigError(
                    f"{setting}: canny cannot follow edges on above {config.canny_low:g} (canny_low) that begin "
                    f"above {config.canny_high:g} (canny_high); lower {key}.canny_low or raise canny_high"
                )
            return Signal("canny", (("low", config.canny_low), ("high", config.canny_high)), setting=setting)
        case place:
            digest = read_user_code(setting, place).digest
            load_function(place, digest, setting)
            return Signal(place, file_digest=digest, setting=setting)


def gray(frames: Tensor) -> Tensor:
    """Brightness in all three channels."""
    return _in_three_channels(luma(frames))


def luma(frames: Tensor) -> Tensor:
    """Brightness of frames [K, P, Q, 3] by ITU-R BT.601, uint8 [K, P, Q]; bit for bit Pillow's mode L."""
    weighted = frames.int() * torch.tensor(LUMA, dtype=torch.int32)
    return ((weighted.sum(-1, dtype=torch.int32) + (1 << 15)) >> 16).to(torch.uint8)


def blur(frames: Tensor, *, sigma: float) -> Tensor:
    """Convolve with a Gaussian of a standard deviation in pixels; the picture is mirrored at its borders."""
    over_rows, over_columns = (gaussian(length, sigma) for length in frames.shape[1:3])
    return _to_frames(over_rows @ (_to_planes(frames) @ over_columns.T))


@lru_cache(maxsize=8)
def gaussian(length: int, sigma: float) -> Tensor:
    """Weights [L, L] of each pixel of a line (columns) in each pixel of the line blurred (rows); do not change them."""
    sigma = min(sigma, 2.0 * length)  # a mirrored line repeats after two lengths: from here on, all is its mean
    radius = max(1, round(BLUR_CUT * sigma))
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    sources = mirror(torch.arange(length)[:, None] + offsets, length)
    weights = torch.zeros(length, length, dtype=torch.float64)
    return weights.scatter_add_(1, sources, (kernel / kernel.sum()).expand(length, -1)).float()


def mirror(positions: Tensor, length: int) -> Tensor:
    """Positions, any integers, as indices into a line that is mirrored as often as they need: 2 1 | 0 1 2 | 1 0 1 2."""
    period = max(1, 2 * (length - 1))
    return (positions + length - 1).remainder(period).sub(length - 1).abs()


def downscale(frames: Tensor, *, factor: float) -> Tensor:
    """Keep 1/factor of the rows and columns (means of areas), and enlarge what is left to the old size (bicubic)."""
    pixels = _to_planes(frames)
    size = pixels.shape[-2:]
    small = functional.interpolate(pixels, [max(1, length // int(factor)) for length in size], mode="area")
    return _to_frames(functional.interpolate(small, list(size), mode="bicubic", align_corners=False))


def canny(frames: Tensor, *, low: float, high: float) -> Tensor:
    """Find edges by Canny's detector, white on black; thresholds are gradients as OpenCV has them."""
    cv2 = import_opencv()
    thresholds = min(low, MAX_GRADIENT), min(high, MAX_GRADIENT)
    return _in_three_channels(torch.stack([torch.from_numpy(cv2.Canny(x.numpy(), *thresholds)) for x in luma(frames)]))


COMPUTED: Mapping[str, Callable[..., Tensor]] = {"gray": gray, "blur": blur, "downscale": downscale, "canny": canny}
"""Signals that need no code of the user's; each frame is computed by itself."""


def import_opencv(setting: str = SETTING) -> Any:  # it is optional, and so are its types
    """Import OpenCV.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise ConfigError(
            f"{setting}: canny needs OpenCV ({error}): {install_extra('canny')}, or take another signal"
        ) from None
    return cv2


@lru_cache(maxsize=8)
def load_function(place: str, digest: str, setting: str) -> Callable[[Tensor], object]:
    """Load the function that ``path/to/file.py:function`` names from the file of that hash.

    Raises:
        ConfigError: If the file is missing, is not of that hash, or fails, or has no such function.
    """
    code = read_user_code(setting, place)
    if code.digest != digest:
        raise ConfigError(f"{setting}: {code.file} was changed while the run uses it; start the run again")
    function = code.load()
    if not callable(function):
        raise ConfigError(f"{setting}: {code.file} has no function {code.name!r}; define it, or name another one")
    return function


def _in_three_channels(values: Tensor) -> Tensor:
    """Repeat [K, P, Q] in red, green and blue."""
    return values[..., None].repeat(1, 1, 1, 3)


def _to_planes(frames: Tensor) -> Tensor:
    """Frames as float32 [K, 3, P, Q], still in 0..255."""
    return frames.permute(0, 3, 1, 2).float()


def _to_frames(planes: Tensor) -> Tensor:
    """Planes [K, 3, P, Q] in 0..255 as frames."""
    return planes.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
