"""The sizes to train at: the family's own, or smaller ones where the data are smaller or shorter."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from finetrainers.config import Bucket, PixelBudget
from finetrainers.data.catalog.buckets import resolve_buckets
from finetrainers.errors import ConfigError
from finetrainers.models import Model
from finetrainers.models.grid import Grid
from finetrainers.training.checks import FROM_FRAMES
from finetrainers.training.init.look import Looked
from finetrainers.training.init.recipes import Kind

SMALL = 0.05
"""Part of the items that may be smaller or shorter than what the sizes are chosen for; those are told of."""
ENLARGED = 2.25
"""Times the area of a small picture that a size may have: a side grows by half at most, where a run allows 2."""
STEP = 32
"""Pixels of which heights and widths are multiples, where the model does not need more."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What becomes ``data.0.buckets``, and of which size samples are drawn."""

    buckets: Any  # as YAML has it
    comment: str
    drawn: Bucket
    videos_as_images: bool = False


def choose_sizes(model: Model, looked: Looked, kind: Kind, native: Bucket) -> Sizes:
    """Choose sizes that the model can take and that nearly all items fill.

    Raises:
        ConfigError: If the model cannot learn from such data.
    """
    grid, is_clip = model.adapter.grid, looked.is_clip
    takes_clips = grid.has_video and bool(is_clip.any())
    as_images = not grid.has_video and bool(is_clip.any())
    if kind in ("edit", "control", "motion") and as_images:
        raise ConfigError(
            f"--learn: {kind} is not possible here: {model.adapter.name} draws pictures, and {looked.path} has clips; "
            "name pictures with --data, or a model of videos with --model"
        )
    if kind == "motion" and not takes_clips:
        raise ConfigError(
            f"--learn: a motion needs clips, and {looked.path} has pictures alone; name clips with --data, or learn a style "
            "or a subject"
        )
    if model.task in FROM_FRAMES and not takes_clips:
        raise ConfigError(
            f"--data: {looked.path} has pictures alone, and {looked.path} cannot serve {model.task}, which makes the frames "
            f"after a picture; name clips, or a text-to-video model with --model"
        )
    frames = _frames(model, looked, native[0]) if takes_clips else 1
    counts = (1, frames) if takes_clips and not is_clip.all() and model.task not in FROM_FRAMES else (frames,)
    pixels = _pixels(looked, native)
    return _as_sizes(grid, pixels, counts, native, looked=looked, as_images=as_images)


def _frames(model: Model, looked: Looked, native: int) -> int:
    """As many frames as nearly all clips have at the model's rate, and no more than its own."""
    grid = model.adapter.grid
    has = int(np.quantile(looked.num_frames(model.adapter.training.native_fps), SMALL, method="lower"))
    steps = (min(has, native) - 1) // grid.vae_frame_step
    if steps < 1:
        rate = model.adapter.training.native_fps
        at = "" if rate is None else f" at the {rate:g} frames a second of {model.adapter.name}"
        raise ConfigError(
            f"--data: the clips in {looked.path} are too short: {has} frames{at}, and {1 + grid.vae_frame_step} are the "
            "fewest; name longer ones"
        )
    return int(1 + steps * grid.vae_frame_step)


def _pixels(looked: Looked, native: Bucket) -> int:
    """Area of the family's own size, or less where most pictures have less, or the small ones much less."""
    areas = looked.facts["width"].astype(np.int64) * looked.facts["height"]
    small, middle = (float(np.quantile(areas, part, method="lower")) for part in (SMALL, 0.5))
    return int(min(native[1] * native[2], middle, ENLARGED * small))


def _as_sizes(grid: Grid, pixels: int, frames: tuple[int, ...], native: Bucket, *, looked: Looked, as_images: bool) -> Sizes:
    """Generate sizes of an area, where the model takes all of them; else the nearest one that it takes."""
    unit = grid.vae_step * grid.patch
    step = STEP if STEP % unit == 0 and pixels >= STEP**2 else unit
    budget = PixelBudget(pixels=max(pixels, step**2), frames=frames, step=step)
    generated = resolve_buckets(budget)
    width, height = (float(np.median(looked.facts[name])) for name in ("width", "height"))
    wanted = min(generated, key=lambda own: (-own[0], abs(np.log(own[2] / own[1] * height / width))))
    if all(own == grid.nearest(own) for own in generated):
        tree = {"pixels": budget.pixels, "step": step, **({"frames": list(frames)} if frames != (1,) else {})}
        return Sizes(tree, _comment(pixels, frames, native), wanted, as_images)
    listed = list(dict.fromkeys(grid.nearest((count, wanted[1], wanted[2])) for count in frames))
    comment = "[frames, height, width]: the nearest size to your data that this model takes"
    return Sizes([list(own) for own in listed], comment, listed[-1], as_images)


def _comment(pixels: int, frames: tuple[int, ...], native: Bucket) -> str:
    area = native[1] * native[2]
    told = "the area that the model was made for" if pixels == area else f"of your data; the model was made for {area}"
    clip = f"; {frames[-1]} frames of each clip" if frames[-1] > 1 else ""
    return f"sizes are generated, each item goes to the nearest: this many pixels, {told}{clip}"
