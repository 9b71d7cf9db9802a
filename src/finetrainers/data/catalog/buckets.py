"""Buckets: the few sizes (frames, height, width) that all samples are brought to, and which of them an item goes to.

Shape letters: N items.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from finetrainers.config.data import Bucket, Buckets, PixelBudget

TIE_DIGITS = 9
"""Distances that agree in as many decimals are equal: the rounding of logarithms must not decide between two buckets."""

BLOCK_ITEMS = 65536
"""Items that are compared with all buckets at a time: small enough for the processor's cache."""
ROUNDING = 1e-9

AS_IMAGES = "videos_as_images: true, to let clips be single images"
"""What is told where only a bucket of one frame is left for a clip."""

Integers = npt.NDArray[np.integer]


def resolve_buckets(buckets: Buckets) -> tuple[Bucket, ...]:
    """Return the buckets as listed, without duplicates, or generate them from a pixel budget."""
    assert not isinstance(buckets, int | str), "what is left to the model is settled before anything reads it"
    if not isinstance(buckets, PixelBudget):
        return tuple(dict.fromkeys(buckets))
    sizes = _generate_sizes(buckets)
    return tuple((frames, height, width) for frames in dict.fromkeys(buckets.frames) for height, width in sizes)


def usual_bucket(buckets: Buckets) -> Bucket:
    """Return the first bucket of a list; of generated ones the most nearly square, with the first number of frames."""
    sizes = resolve_buckets(buckets)
    if not isinstance(buckets, PixelBudget):
        return sizes[0]
    return min(sizes, key=lambda size: (buckets.frames.index(size[0]), abs(math.log(size[1] / size[2]))))


def _generate_sizes(budget: PixelBudget) -> list[tuple[int, int]]:
    """Find the sizes (height, width) within the budget and the aspects of which neither side can grow by a step."""
    step, limit = budget.step, budget.max_aspect + ROUNDING
    blocks = budget.pixels // step**2
    sizes: list[tuple[int, int]] = []
    for height in range(int(math.sqrt(blocks * limit)) + 1, 0, -1):
        width = min(blocks // height, int(height * limit))
        if width > (sizes[-1][1] if sizes else 0) and height <= width * limit:  # else a taller size is as wide
            sizes.append((height, width))
    return [(height * step, width * step) for height, width in sizes]


def assign_buckets(
    num_frames: Integers,
    height: Integers,
    width: Integers,
    *,
    buckets: Sequence[Bucket],
    max_upscale: float,
    stays_video: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.int32]:
    """Choose for each item [N] the number of its bucket; -1 where none fits.

    A bucket fits if it has no more frames than are available (after resampling) and if no side has to grow by more than
    ``max_upscale``; one of a single frame does not fit an item that ``stays_video`` [N]. The nearest one by
    ``|log aspect ratio| + |log frames ratio|`` is taken; of equally near ones one that needs no enlargement, then the
    largest.
    """
    chosen = np.full(len(num_frames), -1, np.int32)
    if stays_video is None:
        stays_video = np.zeros(len(num_frames), np.bool_)
    largest_first = sorted(range(len(buckets)), key=lambda i: -buckets[i][1] * buckets[i][2])
    for start in range(0, len(num_frames), BLOCK_ITEMS):
        rows = slice(start, start + BLOCK_ITEMS)
        items = num_frames[rows], height[rows], width[rows], np.where(stays_video[rows], 2, 1)
        _assign_block(chosen[rows], items, largest_first, buckets, max_upscale)
    return chosen


def _assign_block(
    chosen: npt.NDArray[np.int32],
    items: tuple[Integers, Integers, Integers, Integers],
    order: Sequence[int],
    buckets: Sequence[Bucket],
    max_upscale: float,
) -> None:
    """Fill ``chosen`` for some items (frames, height, width, fewest frames); buckets earlier in ``order`` win ties."""
    num_frames, height, width, fewest = (values.astype(np.float64) for values in items)
    log_aspect = np.log(np.maximum(width, 1) / np.maximum(height, 1))  # an unreadable item has 0 of each, and fits nowhere
    log_frames = np.log(np.maximum(num_frames, 1))
    tallest, widest = height * (max_upscale + ROUNDING), width * (max_upscale + ROUNDING)
    best, best_enlarges = np.full(len(chosen), np.inf), np.ones(len(chosen), np.bool_)
    for i in order:
        frames, bucket_height, bucket_width = buckets[i]
        fits = (num_frames >= frames) & (fewest <= frames) & (tallest >= bucket_height) & (widest >= bucket_width)
        distance = np.abs(log_aspect - np.log(bucket_width / bucket_height)) + np.abs(log_frames - np.log(frames))
        np.round(distance, TIE_DIGITS, out=distance)
        enlarges = (height < bucket_height) | (width < bucket_width)
        is_better = fits & ((distance < best) | ((distance == best) & best_enlarges & ~enlarges))
        np.copyto(chosen, np.int32(i), where=is_better)
        np.copyto(best, distance, where=is_better)
        np.copyto(best_enlarges, enlarges, where=is_better)


def why_unassigned(
    num_frames: int,
    height: int,
    width: int,
    *,
    buckets: Sequence[Bucket],
    max_upscale: float,
    length: str | None = None,
    stays_video: bool = False,
    longest: int = 1,
) -> str:
    """Say why ``assign_buckets`` found no bucket for an item.

    ``length`` tells of its file and what is left of it, ``longest`` is the number of frames of a clip that it could fill.
    """
    has = f"has {_frames(num_frames) if length is None else length}"
    possible = [bucket for bucket in buckets if bucket[0] > 1 or not stays_video]
    if not possible:
        return f"{has}, and all buckets are of one frame; add one of more frames, or set {AS_IMAGES}"
    shortest = min(frames for frames, _, _ in possible)
    if num_frames < shortest:
        which, way_out = ("video bucket", f"; or set {AS_IMAGES}") if len(possible) < len(buckets) else ("bucket", "")
        shorter = f"; add a bucket of {longest} frames or fewer" if longest > 1 else ""
        return f"{has}; the shortest {which} needs {shortest}{shorter}{way_out}"
    bucket = min((b for b in possible if b[0] <= num_frames), key=lambda b: max(b[1] / height, b[2] / width))
    upscale = max(bucket[1] / height, bucket[2] / width)
    return (
        f"{width}x{height} pixels would be enlarged {upscale:.3g} times for the bucket {list(bucket)}, max_upscale is "
        f"{max_upscale:g}"
    )


def _frames(count: int) -> str:
    return "1 frame" if count == 1 else f"{count} frames"
