"""Frame rates: which clips are resampled to the one that the model was trained on, and which keep their own frames.

Shape letters: N items of a data set.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from finetrainers.config import DataConfig

SAME_RATE = 0.01
"""Fraction by which a clip's average rate may differ from the model's and count as the same: 23.976 for 24, not 25."""


def resampled_fps(config: DataConfig, fps: npt.NDArray[np.float64], native_fps: float | None) -> npt.NDArray[np.float64]:
    """Frames per second [N] that clips of average rates ``fps`` [N] are resampled to; 0.0 where they keep their own frames.

    Args:
        config: Of the data set; with ``auto``, faster clips are brought to the model's rate.
        fps: 0.0 for images.
        native_fps: The model's rate; None if it has none of its own.
    """
    if isinstance(config.fps, float):
        return np.full(len(fps), config.fps)
    if config.fps is None or native_fps is None or config.stride != 1:
        return np.zeros(len(fps))
    return np.where(fps > native_fps * (1 + SAME_RATE), native_fps, 0.0)


def clip_fps(config: DataConfig, fps: float, native_fps: float | None) -> float | None:
    """Return ``resampled_fps`` of one clip, as a view has it: None where it keeps its own frames."""
    return rate_of_view(resampled_fps(config, np.array([fps]), native_fps)[0])


def rate_of_view(fps: np.float64) -> float | None:
    """Turn an item's resampled rate into that of its views."""
    return None if fps == 0 else float(fps)


def is_too_slow(config: DataConfig, fps: npt.NDArray[np.float64], native_fps: float | None) -> npt.NDArray[np.bool_]:
    """Which clips [N] ought to be resampled to the model's rate and have fewer frames a second."""
    if config.fps != "auto" or native_fps is None or config.stride != 1:
        return np.zeros(len(fps), np.bool_)
    return (fps > 0) & (fps < native_fps * (1 - SAME_RATE))


def is_too_fast(config: DataConfig, fps: npt.NDArray[np.float64], native_fps: float | None) -> npt.NDArray[np.bool_]:
    """Which clips [N] keep their own frames, of which they have more a second than the model."""
    if config.fps is not None or native_fps is None:
        return np.zeros(len(fps), np.bool_)
    return fps / config.stride > native_fps * (1 + SAME_RATE)


def about_slow_clips(path: str, count: int, examples: Sequence[str], native_fps: float) -> str:
    """Say that clips of a data set keep their own frames although the model has more a second."""
    clips, named = _counted(count, examples)
    return (
        f"{path}: {clips} fewer frames a second than the {native_fps:g} that the model was trained on; their own are taken, "
        f"so that their motion is learned too fast: {named}. Replace them by clips of that rate, or set "
        "fps: null for this data set if that is meant"
    )


def about_fast_clips(path: str, count: int, examples: Sequence[str], native_fps: float) -> str:
    """Say that clips of a data set keep their own frames although the model has fewer a second."""
    clips, named = _counted(count, examples)
    return (
        f"{path}: {clips} more frames a second than the {native_fps:g} that the model was trained on, and fps: null takes "
        f"their own, so that motion is learned too slow: {named}. Remove fps: null, unless that is meant"
    )


def _counted(count: int, examples: Sequence[str]) -> tuple[str, str]:
    """Say how many clips there are, and which."""
    more = f" and {count - len(examples)} more" if count > len(examples) else ""
    return "1 clip has" if count == 1 else f"{count} clips have", f"{', '.join(examples)}{more}"


def describe_length(
    num_frames: int, fps: float, *, available: int | None = None, resampled: float | None = None, stride: int = 1
) -> str:
    """Say how many frames a file has, and how many are left of them: "30 frames at 30 frames a second, 16 at 16"."""
    own = "1 frame" if num_frames == 1 else f"{num_frames} frames"
    if num_frames > 1:
        own += f" at {fps:.4g} frames a second"
    if available is None or (resampled is None and stride == 1):
        return own
    return f"{own}, {available} " + (f"with stride {stride}" if resampled is None else f"at {resampled:.4g}")
