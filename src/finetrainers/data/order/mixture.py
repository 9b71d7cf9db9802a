"""In which proportion a run shows its data sets: asked, and what its steps take."""

from typing import Any

import numpy as np

from finetrainers.data.catalog.catalog import Catalog
from finetrainers.data.catalog.mix import asked_shares
from finetrainers.data.order.chapter import Chapter
from finetrainers.data.order.chapters import Book
from finetrainers.data.order.choices import Choices
from finetrainers.data.order.order import Indices, Order

DRAWS_AT_ONCE = 1 << 20
"""Draws that are looked at in one go, where others stand in for bad samples."""

Mixture = dict[str, Any]
"""Of one data set, for the ``run`` event and report.json."""


def mixture(choices: Choices, order: Order, steps: int) -> list[Mixture]:
    """Count what the first ``steps`` steps show of each data set, exactly: stand-ins count for what they are of."""
    sets = choices.catalog.sets
    counts, samples = _counted(choices, order, range(steps)) if len(choices.bad.codes) else order.counts(steps)
    images, videos = _by_set(choices.catalog, samples, counts)
    total = steps * order.batch_size
    return [
        {
            "path": data.config.path,
            "samples": len(data.item),
            "asked": float(share),
            "taken": (int(images[number]) + int(videos[number])) / total if total else 0.0,
            "images": int(images[number]),
            "videos": int(videos[number]),
        }
        for number, (data, share) in enumerate(zip(sets, asked_shares(sets), strict=True))
    ]


def shown_in(chapter: Chapter, choices: Choices, stop: int) -> tuple[tuple[int, int], ...]:
    """Count the images and the videos that all steps of a run before one of a chapter show, by data set."""
    images, videos = _by_set(choices.catalog, *_counted(choices, chapter.order, range(chapter.begin.step, stop))[::-1])
    shown = [list(own) for own in chapter.begin.shown]
    for number, *more in zip(chapter.owners, images.tolist(), videos.tolist(), strict=True):
        shown[number] = [before + new for before, new in zip(shown[number], more, strict=True)]
    return tuple((own[0], own[1]) for own in shown)


def mixture_in(chapter: Chapter, choices: Choices, book: Book, stop: int) -> list[Mixture]:
    """Count what all steps of a run before one of a chapter show of each data set, as ``mixture`` does.

    How many samples a set has that is read shard by shard is known after a pass; before, the shards that were read tell
    about how many.
    """
    total, advance = stop * book.batch_size, book.advance
    asked, sizes = advance.asked(chapter.end), advance.sizes(chapter.end)
    return [
        {
            "path": source.config.path,
            "samples": size,
            "asked": share,
            "taken": (images + videos) / total if total else 0.0,
            "images": images,
            "videos": videos,
        }
        for source, size, share, (images, videos) in zip(
            book.sources, sizes, asked, shown_in(chapter, choices, stop), strict=True
        )
    ]


def _counted(choices: Choices, order: Order, steps: range) -> tuple[Indices, Indices]:
    """How often steps show a sample, and which, of those that they show."""
    counts = np.zeros(choices.catalog.num_samples, np.int64)
    at_once = max(1, DRAWS_AT_ONCE // order.batch_size)
    for first in range(steps.start, steps.stop, at_once):
        positions = np.arange(first * order.batch_size, min(first + at_once, steps.stop) * order.batch_size)
        counts += np.bincount(choices.at(order, positions)[0], minlength=len(counts))
    samples = np.flatnonzero(counts)
    return counts[samples], samples


def _by_set(catalog: Catalog, samples: Indices, counts: Indices) -> tuple[Indices, Indices]:
    """Add up counts [n] of samples [n] by data set: of images, and of videos."""
    is_image = np.array([bucket[0] == 1 for bucket in catalog.buckets], np.bool_)
    ends = np.cumsum([len(data.item) for data in catalog.sets])
    owner = np.searchsorted(ends, samples, side="right")
    images, videos = (np.zeros(len(ends), np.int64) for _ in range(2))
    for number, data in enumerate(catalog.sets):
        own = owner == number
        is_own_image = is_image[data.bucket[samples[own] - (ends[number] - len(data.item))]]
        images[number], videos[number] = counts[own][is_own_image].sum(), counts[own][~is_own_image].sum()
    return images, videos


def mixture_lines(mix: list[Mixture]) -> list[str]:
    """Write one line for each data set, where there are several."""
    if len(mix) < 2:
        return []
    return [
        f"data.{number} {own['path']}: {own['samples']} samples, {own['asked']:.2%} asked, {own['taken']:.2%} of what the "
        f"steps take: {own['images']} images, {own['videos']} videos"
        for number, own in enumerate(mix)
    ]
