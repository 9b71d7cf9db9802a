"""Buckets of a data set that names none, or a resolution: sizes that the model was made for, or takes."""

import math
from collections.abc import Sequence

from finetrainers.config import Bucket, PixelBudget
from finetrainers.config.data import Buckets
from finetrainers.data.catalog.buckets import resolve_buckets
from finetrainers.errors import ConfigError
from finetrainers.models import Model
from finetrainers.models.grid import Grid

FROM_FRAMES = ("image-to-video", "first-last-frame-to-video")
"""Tasks that are given frames of a clip and make the others: a single image has no others."""
BLOCKS = 16
"""Steps that a side is made in, about: so many that crops are small, and so few that buckets fill."""


def native_sizes(model: Model, key: str, resolution: int | None = None) -> tuple[Bucket, ...] | PixelBudget:
    """Choose the buckets of a data set: for clips and, where the task takes them, for single images.

    Args:
        model: None of whose weights are asked for.
        key: Of the buckets, for messages.
        resolution: Side of a square of as many pixels; None for the area of the size that the model was made for.

    Raises:
        ConfigError: If the model does not say what it was made for, or takes no such size.
    """
    adapter, grid, size = model.adapter, model.adapter.grid, model.adapter.recipe.size
    if size is None and (resolution is None or grid.has_video):
        what = "no size that it was made for" if resolution is None else "no number of frames that it was made for"
        raise ConfigError(f"{key}: {adapter.name} states {what} (recipe of its adapter); write [[frames, height, width]]")
    frames, height, width = size or (1, 0, 0)
    counts = _counts(model)
    if resolution is None and not adapter.recipe.has_other_aspects:
        return tuple((count, height, width) for count in counts if _is_possible(grid, (count, height, width)))
    pixels = height * width if resolution is None else resolution**2
    unit = grid.vae_step * grid.patch
    if pixels < unit**2:
        raise ConfigError(f"{key}: {resolution} is less than the {unit} pixels of a side of one token; give more")
    budget = _budget(model, pixels, counts)
    sizes = resolve_buckets(budget)
    possible = tuple(own for own in sizes if _is_possible(grid, own))
    if not possible:
        nearest = list(grid.nearest((frames, round(math.sqrt(pixels)), round(math.sqrt(pixels)))))
        raise ConfigError(f"{key}: {resolution} is impossible for {adapter.name}; write [{nearest}], the nearest size")
    return budget if possible == sizes else possible


def are_native(model: Model, buckets: Buckets) -> bool:
    """Whether buckets are those that ``native_sizes`` chooses, of whatever area."""
    size = model.adapter.recipe.size
    if isinstance(buckets, PixelBudget):
        return buckets == _budget(model, buckets.pixels, _counts(model))
    return size is not None and not model.adapter.recipe.has_other_aspects and buckets == native_sizes(model, "buckets")


def _counts(model: Model) -> list[int]:
    """Numbers of frames: of clips, and of single images where the task takes them."""
    size = model.adapter.recipe.size
    return [count for count in dict.fromkeys((1 if size is None else size[0], 1)) if _takes(model, count)]


def _budget(model: Model, pixels: int, counts: Sequence[int]) -> PixelBudget:
    """Proportions of an area, in steps of the model's."""
    unit, size = model.adapter.grid.vae_step * model.adapter.grid.patch, model.adapter.recipe.size
    step = unit * max(1, round(math.sqrt(pixels) / BLOCKS / unit))
    if size is not None and size[1] * size[2] == pixels:  # of which the size that the model was made for is one
        common = math.gcd(*size[1:])
        steps = [own for own in range(unit, common + 1, unit) if common % own == 0]
        step = min(steps, key=lambda own: abs(math.log(own / step)), default=step)
    return PixelBudget(pixels=pixels, frames=tuple(counts), step=step)


def _takes(model: Model, frames: int) -> bool:
    """Whether the task is possible with so many frames."""
    return model.task not in FROM_FRAMES or model.adapter.grid.encoded_shape((frames, 0, 0))[1] > 1


def _is_possible(grid: Grid, size: Bucket) -> bool:
    return grid.nearest(size) == size
