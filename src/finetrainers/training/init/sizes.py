"""The sizes to train at: those that the model was made for, or smaller ones where the data are smaller or shorter."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetrainers.config import Bucket, PixelBudget
from finetrainers.data.catalog.buckets import resolve_buckets
from finetrainers.errors import ConfigError
from finetrainers.models import Model
from finetrainers.training.init.look import Looked
from finetrainers.training.init.recipes import Kind
from finetrainers.training.native_sizes import FROM_FRAMES, native_sizes

SMALL = 0.05
"""Part of the items that may be smaller or shorter than what the sizes are chosen for; those are told of."""
ENLARGED = 2.25
"""Times the area of a small picture that a size may have: a side grows by half at most, where a run allows 2."""
STEP = 32
"""Pixels of which heights and widths are multiples, where the model does not need more."""
MOST_FRAMES, MOST_CLIP_PIXELS = 49, 480 * 832
"""Of a clip, as most examples have it. Models of videos were made for more, which takes many times the memory."""
UNKNOWN: Bucket = (MOST_FRAMES, 1024, 1024)
"""For a family that does not say what it was made for."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What becomes ``data.0.buckets``, and of which size samples are generated."""

    buckets: Any  # as YAML has it
    comment: str
    drawn: Bucket
    videos_as_images: bool = False


def choose_sizes(model: Model, looked: Looked, kind: Kind) -> Sizes:
    """Choose sizes that the model can take and that nearly all items fill.

    Raises:
        ConfigError: If the model cannot learn from such data.
    """
    grid, is_clip = model.adapter.grid, looked.is_clip
    takes_clips = grid.has_video and bool(is_clip.any())
    as_images = not grid.has_video and bool(is_clip.any())
    _check_kind(model, looked, kind, takes_clips=takes_clips, as_images=as_images)
    native = model.adapter.recipe.size or UNKNOWN
    if not grid.has_video:
        return _of_pictures(model, looked, native, as_images=as_images)
    frames = _frames(model, looked, native[0]) if takes_clips else 1
    counts = (1, frames) if takes_clips and not is_clip.all() and model.task not in FROM_FRAMES else (frames,)
    return _of_clips(model, looked, native, counts)


def _check_kind(model: Model, looked: Looked, kind: Kind, *, takes_clips: bool, as_images: bool) -> None:
    """Refuse what cannot be learned of such media.

    Raises:
        ConfigError: With the way out.
    """
    if kind in ("edit", "control", "motion") and as_images:
        raise ConfigError(
            f"--learn: {kind} is not possible here: {model.adapter.name} generates images, and {looked.path} has videos; "
            "name images with --data, or a model of videos with --model"
        )
    if kind == "motion" and not takes_clips:
        raise ConfigError(
            f"--learn: a motion needs videos, and {looked.path} has images alone; name videos with --data, or learn a style "
            "or a subject"
        )
    if model.task in FROM_FRAMES and not takes_clips:
        raise ConfigError(
            f"--data: {looked.path} has images alone, which cannot serve {model.task}: it makes frames after an image; "
            "name videos, or a text-to-video model with --model"
        )


def _frames(model: Model, looked: Looked, native: int) -> int:
    """As many frames as nearly all clips have at the model's rate, within what is usual.

    Raises:
        ConfigError: If most are too short for a clip.
    """
    adapter = model.adapter
    has = int(np.quantile(looked.num_frames(adapter.training.native_fps), SMALL, method="lower"))
    steps = (min(has, native, MOST_FRAMES) - 1) // adapter.grid.vae_frame_step
    if steps < 1:
        rate = adapter.training.native_fps
        at = "" if rate is None else f" at the {rate:g} frames a second of {adapter.name}"
        raise ConfigError(
            f"--data: videos in {looked.path} are too short: {has} frames{at}, and {1 + adapter.grid.vae_frame_step} are "
            "the fewest; name longer ones"
        )
    return int(1 + steps * adapter.grid.vae_frame_step)


def _pixels(looked: Looked, most: int) -> int:
    """Area of a size, or less where most pictures have less, or the small ones much less."""
    areas = looked.facts["width"].astype(np.int64) * looked.facts["height"]
    small, middle = (float(np.quantile(areas, part, method="lower")) for part in (SMALL, 0.5))
    return int(min(most, middle, ENLARGED * small))


def _of_pictures(model: Model, looked: Looked, native: Bucket, *, as_images: bool) -> Sizes:
    """A resolution: all proportions of about as many pixels."""
    unit = model.adapter.grid.vae_step * model.adapter.grid.patch
    side = max(unit, math.isqrt(_pixels(looked, native[1] * native[2])))
    sizes = resolve_buckets(native_sizes(model, "data.0.buckets", side))
    own = math.isqrt(native[1] * native[2])
    reason = "that the model was made for, which is what auto takes" if side == own else f"of your data; auto would be {own}"
    return Sizes(
        side, f"images of about {side} x {side} pixels, in all proportions: {reason}", _nearest(looked, sizes), as_images
    )


def _of_clips(model: Model, looked: Looked, native: Bucket, frames: tuple[int, ...]) -> Sizes:
    """Sizes for a model of videos: generated ones, where it takes all proportions; else the nearest one that it takes."""
    grid, recipe = model.adapter.grid, model.adapter.recipe
    unit, area = grid.vae_step * grid.patch, native[1] * native[2]
    pixels = _pixels(looked, min(area, MOST_CLIP_PIXELS) if recipe.has_other_aspects else area)
    step = STEP if STEP % unit == 0 and pixels >= STEP**2 else unit
    budget = PixelBudget(pixels=max(pixels, step**2), frames=frames, step=step)
    generated = resolve_buckets(budget)
    drawn = _nearest(looked, generated)
    if recipe.has_other_aspects and all(size == grid.nearest(size) for size in generated):
        comment = (
            f"sizes of about so many pixels are generated, {frames[-1]} frames each" if frames[-1] > 1 else "all proportions"
        )
        comment += f"; {_made_for(native)}. Larger ones show more, and take more memory"
        tree = {"pixels": budget.pixels, "step": step, "frames": list(frames)}
        return Sizes(tree, comment, drawn)
    wanted = (native[1], native[2]) if pixels == area else drawn[1:]
    listed = list(dict.fromkeys(grid.nearest((count, *wanted)) for count in frames))
    comment = f"[frames, height, width]: the size nearest to your data that this model takes; {_made_for(native)}"
    return Sizes([list(size) for size in listed], comment, listed[-1])


def _made_for(native: Bucket) -> str:
    return f"the model was made for {list(native)}, which is what auto takes"


def _nearest(looked: Looked, sizes: tuple[Bucket, ...]) -> Bucket:
    """Find the size of most frames whose proportions are those of most items."""
    width, height = (float(np.median(looked.facts[name])) for name in ("width", "height"))
    return min(sizes, key=lambda size: (-size[0], abs(math.log(size[2] / size[1] * height / width))))
