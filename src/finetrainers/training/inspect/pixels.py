"""What a few frames of media show: nothing, no motion, or the same as others.

Shape letters: F frames, H and W pixels.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from finetrainers.data.catalog.catalog import Dataset
from finetrainers.data.curate.hashes import perceptual_hash
from finetrainers.data.media.files import decode
from finetrainers.data.media.signals import luma
from finetrainers.data.media.view import View
from finetrainers.data.streams import MEDIA
from finetrainers.errors import DataError
from finetrainers.training.inspect.duplicates import near_duplicates
from finetrainers.training.inspect.facts import NUM_EXAMPLES
from finetrainers.training.prepared import Prepared

SIDE, FRAMES = 64, 3
"""Pixels of the small pictures that are looked at, and frames of each clip: its first, middle and last."""
DARK, BRIGHT = 12.0, 243.0
"""Mean brightness, of 255, below and above which a medium shows nothing."""
STILL = 0.5
"""Mean change of brightness, of 255, from frame to frame up to which a clip does not move."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of one medium."""

    ref: str
    content: str
    is_held_out: bool
    luma: float
    motion: float | None
    """None for a still."""
    hash: int


def about_pixels(
    prepared: Prepared, sample: int, *, workers: int, say: Callable[[str, int, int], None]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Look at ``sample`` of all used media, spread evenly; tell of what shows nothing, and of what is similar."""
    media = _media(prepared)
    chosen = np.unique(np.linspace(0, len(media) - 1, min(sample, len(media))).astype(int)).tolist() if media else []
    seen: list[Seen] = []
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for done, found in enumerate(pool.map(lambda number: _look(*media[number]), chosen), start=1):
            seen += [] if found is None else [found]
            say("decode media", done, len(chosen))
    dark, bright = [s.ref for s in seen if s.luma < DARK], [s.ref for s in seen if s.luma > BRIGHT]
    static = [s.ref for s in seen if s.motion is not None and s.motion <= STILL]
    told = {
        name: {"count": len(refs), "paths": refs[:NUM_EXAMPLES]}
        for name, refs in (("black", dark), ("white", bright), ("static", static))
    }
    plain = {s.ref for s in seen if s.luma < DARK or s.luma > BRIGHT}  # all of which are alike
    near = near_duplicates([(s.ref, s.content, s.is_held_out, s.hash) for s in seen if s.ref not in plain])
    return {"looked_at": len(seen), "of": len(media), **told}, near


def _media(prepared: Prepared) -> list[tuple[Dataset, int, bool]]:
    """All used media, each content once: data set, one of its samples, and whether it is held out."""
    found: dict[bytes, tuple[Dataset, int, bool]] = {}
    for plan in prepared.plans:
        for data in plan.catalog.sets:
            _, first = np.unique(data.item, return_index=True)
            for row in first.tolist():
                content = data.digests[MEDIA.name][data.item[row]].tobytes()
                found.setdefault(content, (data, row, plan is not prepared.plan))
    return list(found.values())


def _look(data: Dataset, row: int, is_held_out: bool) -> Seen | None:
    """Decode a few small frames; None of what cannot be decoded, which ``--decode`` tells of."""
    is_clip = data.frames[MEDIA.name][data.item[row]] >= FRAMES
    try:
        frames = decode(data.path(row, MEDIA.name), _small(FRAMES if is_clip else 1)).pixels
    except (DataError, OSError):
        return None
    brightness = luma(frames).float()
    motion = float(brightness.diff(dim=0).abs().mean()) if is_clip else None
    digest = data.digest(row, MEDIA.name)
    return Seen(data.path(row, MEDIA.name), digest, is_held_out, float(brightness.mean()), motion, _hash(frames))


def _hash(frames: Tensor) -> int:
    return perceptual_hash(frames[len(frames) // 2].numpy())


def _small(frames: int) -> View:
    return View(frames, SIDE, SIDE, frame_sampling="uniform", resize="stretch")
