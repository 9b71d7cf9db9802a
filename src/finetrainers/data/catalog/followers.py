"""Files that follow the media: whether they fit them, and the view that stays aligned with theirs.

Shape letters: N items of a data set.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from finetrainers.config import DataConfig
from finetrainers.data.catalog.buckets import resolve_buckets
from finetrainers.data.catalog.dataset import Dataset
from finetrainers.data.catalog.probe import Facts, Look
from finetrainers.data.media.view import View, count_frames, needed_frames
from finetrainers.data.sources.beside import about_file
from finetrainers.data.sources.items import Problem
from finetrainers.data.streams import MEDIA

MAX_RATE_DIFFERENCE = 0.01
"""Fraction of the media's average frame rate by which a follower's may differ: 29.97 goes with 30, and 24 not with 25."""


@dataclass(frozen=True, slots=True, eq=False)
class Followers:
    """What is known of the files of one stream."""

    digests: NDArray[np.uint8]
    """[N, DIGEST_BYTES] hash of each file's bytes."""
    frames: NDArray[np.int64]
    """[N] frames that are left after resampling."""


def following_view(data: Dataset, sample: int, name: str, view: View, *, frame_step: int) -> View:
    """Give the view of a sample's file of a stream that shows what ``view`` shows of its media.

    It is the same view, unless the file is too short for it: then as many frames from its start as make whole latent
    frames, 1 + k * ``frame_step`` of them. Of a still that is its one frame, whatever window of the media is taken.
    """
    available = int(data.frames[name][data.item[sample]])
    if available >= needed_frames(view):
        return view
    num_frames = min(available, view.num_frames)
    num_frames -= (num_frames - 1) % frame_step
    return replace(view, num_frames=num_frames, frame_sampling="start", window=0.0, chunk=0)


def probe_followers(
    config: DataConfig,
    table: pa.Table,
    media: Facts,
    look: Look,
    *,
    fps: NDArray[np.float64],
    min_frames: Mapping[str, int],
    targets: Collection[str] = (),
) -> tuple[dict[str, Followers], list[Problem]]:
    """Look at each file once; items of which one cannot be used lose their ``is_good``, and a problem says why.

    They are resampled as their media are, to ``fps`` [N], where 0 stands for their own frames. A file of fewer frames after
    that than ``min_frames`` has for its stream has none of those that conditioning.frame_index shows; one of ``targets``,
    streams that the model learns from as from the media, has to be as long as these.
    """
    followers: dict[str, Followers] = {}
    problems: list[Problem] = []
    for name, least in min_frames.items():
        facts, unusable = look.each(table[name])
        reasons = _why_unusable(config, media, facts, fps=fps, min_frames=least, is_target=name in targets)
        for row in np.flatnonzero(media["is_good"] & (~facts["is_good"] | (reasons != ""))).tolist():
            path = table[name][row].as_py()
            reason = about_file(name, path, unusable.get(path, reasons[row]))
            problems.append(Problem(table[MEDIA.name][row].as_py(), reason))
            media["is_good"][row] = False
        followers[name] = Followers(facts["digest"], _frames(config, facts, fps))
    return followers, problems


def has_proportions_of(media: Facts, follower: Facts) -> NDArray[np.bool_]:
    """Tell for each item [N] whether media and follower have the same proportions.

    Scaled to one width (or to one height), they may differ by one pixel of the smaller of the two in the other.
    """
    height, width = media["height"].astype(np.int64), media["width"].astype(np.int64)
    other_height, other_width = follower["height"].astype(np.int64), follower["width"].astype(np.int64)
    is_larger = height * width >= other_height * other_width
    longest = np.where(is_larger, np.maximum(height, width), np.maximum(other_height, other_width))
    close: NDArray[np.bool_] = np.abs(height * other_width - width * other_height) <= longest
    return close


def has_rate_of(media: Facts, follower: Facts, *, fps: float | NDArray[np.float64] | None) -> NDArray[np.bool_]:
    """Tell for each item [N] whether the n-th frames of media and follower belong together, as far as their rates tell.

    Average rates may differ by MAX_RATE_DIFFERENCE. Where nothing is resampled to ``fps`` (as in ``count_frames``), as many
    frames are paired one by one, whatever the rates are. A still has none.
    """
    keeps_frames = np.asarray(0.0 if fps is None else fps) == 0
    is_still = (media["num_frames"] <= 1) | (follower["num_frames"] <= 1)
    is_paired = (media["num_frames"] == follower["num_frames"]) & keeps_frames
    is_close = np.abs(follower["fps"] - media["fps"]) <= MAX_RATE_DIFFERENCE * media["fps"]
    has_rate: NDArray[np.bool_] = is_still | is_paired | is_close
    return has_rate


def _why_unusable(
    config: DataConfig, media: Facts, follower: Facts, *, fps: NDArray[np.float64], min_frames: int, is_target: bool
) -> NDArray[np.object_]:
    """Say for each item [N] why its file does not fit its media or is too short; empty where it can be used."""
    reasons = np.full(len(media), "", np.object_)
    frames, own = _frames(config, media, fps), _frames(config, follower, fps)
    if config.frame_sampling != "start":
        for row in np.flatnonzero((frames != own) & (follower["num_frames"] != 1)).tolist():
            reasons[row] = (
                f"has {own[row]} frames where the media have {frames[row]}, so that frame_sampling: {config.frame_sampling} "
                "would choose others; make it as long, or set frame_sampling: start"
            )
    needed = np.minimum(frames, max(count for count, _, _ in resolve_buckets(config.buckets)))
    for row in np.flatnonzero(is_target & (own < needed)).tolist():
        reasons[row] = f"has {own[row]} frames where the media have {frames[row]}; make it as long"
    for row in np.flatnonzero(own < min_frames).tolist():
        reasons[row] = (
            f"has {own[row]} frames, but the latent frame of conditioning.frame_index needs {min_frames}; "
            "make it longer, or set a lower conditioning.frame_index"
        )
    for row in np.flatnonzero(~has_rate_of(media, follower, fps=fps)).tolist():
        reasons[row] = (
            f"has {follower['fps'][row]:.4g} frames per second where the media have {media['fps'][row]:.4g}, so that its "
            "frames would show other moments; write it at the media's frame rate"
        )
    if config.resize != "stretch":
        for row in np.flatnonzero(~has_proportions_of(media, follower)).tolist():
            sizes = [f"{facts['width'][row]}x{facts['height'][row]}" for facts in (follower, media)]
            reasons[row] = (
                f"{sizes[0]} pixels have other proportions than the media's {sizes[1]}, so that crops would not be "
                "aligned; crop or scale it like the media, or set resize: stretch if it shows all of them"
            )
    return reasons


def _frames(config: DataConfig, facts: Facts, fps: NDArray[np.float64]) -> NDArray[np.int64]:
    return count_frames(facts["num_frames"], facts["seconds"], fps=fps, stride=config.stride)
