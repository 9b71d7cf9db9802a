"""What is in a folder before there is a configuration: images or videos, how many, how large, with captions or without."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from finetrainers.config import DataConfig
from finetrainers.config.of_set import about_set
from finetrainers.data.catalog.memo import Memo
from finetrainers.data.catalog.probe import Facts, probe_all
from finetrainers.data.catalog.rates import resampled_fps
from finetrainers.data.catalog.split import limit_of, numbers_of
from finetrainers.data.media.view import count_frames
from finetrainers.data.sources.captions import final_caption
from finetrainers.data.sources.items import Problem, list_items
from finetrainers.data.streams import MEDIA
from finetrainers.errors import ConfigError, DataError

WORKERS = 2
NUM_EXAMPLES = 3
NO_TRIGGER = "x"
"""Stands for a trigger word while captions are looked for: with one, items without a caption are items."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What was found."""

    path: str
    layout: str
    media: pa.Array
    captions: tuple[str, ...]
    """Of the first items that have one."""
    facts: Facts
    """Of the good ones [N]."""
    num_captions: int
    """Items with a caption."""
    problems: tuple[Problem, ...]

    @property
    def is_clip(self) -> npt.NDArray[np.bool_]:
        """Which items [N] are clips."""
        return np.asarray(self.facts["num_frames"] > 1)

    @property
    def num_items(self) -> int:
        return len(self.facts)

    def num_trained(self, held_out: float) -> int:
        """Items that a run trains on which holds out such a part: as ``train`` splits them, by their contents."""
        numbers = numbers_of(self.facts["digest"])
        used = np.unique(numbers)
        if not held_out or len(used) < 2:
            return self.num_items
        return int((numbers >= limit_of(used, held_out)).sum())

    def num_frames(self, native_fps: float | None) -> npt.NDArray[np.int64]:
        """Frames of each clip at the model's rate."""
        clips = self.facts[self.is_clip]
        fps = resampled_fps(_data(self.path), clips["fps"], native_fps)
        return count_frames(clips["num_frames"], clips["seconds"], fps=fps, stride=1)

    @property
    def has_openings(self) -> bool:
        """Whether captions begin as those of captioning models do."""
        cleaned = _data(self.path, remove_common_llm_caption_prefixes=True)
        return any(final_caption(text, cleaned) != text for text in self.captions)

    def lines(self) -> list[str]:
        """Say it in a few lines."""
        clips, facts = int(self.is_clip.sum()), self.facts
        kinds = [f"{count} {name}" for count, name in ((len(facts) - clips, "images"), (clips, "videos")) if count]
        sizes = f"{_span(facts['width'])} x {_span(facts['height'])} pixels"
        told = [f"{' and '.join(kinds)} ({self.layout}), {self.num_captions} with a caption, {sizes}"]
        if clips:
            own = facts[self.is_clip]
            told.append(f"videos of {_span(own['seconds'])} seconds at {_span(own['fps'])} frames a second")
        if self.problems:
            told.append(f"{len(self.problems)} cannot be used:")
            told += [f"  {own.path}: {own.reason}" for own in self.problems[:NUM_EXAMPLES]]
        return told


def _span(values: npt.NDArray[np.generic]) -> str:
    low, high = (f"{float(value):.4g}" for value in (values.min(), values.max()))
    return low if low == high else f"{low}-{high}"


def _data(path: str, **keys: object) -> DataConfig:
    """Make the section of a data set of which nothing but the place is known."""
    return DataConfig.model_validate({"path": path, **keys})


def look(path: str, say: Callable[[str, int, int], None]) -> Looked:
    """List the items of a folder and look into each file; nothing is written beside them.

    Raises:
        ConfigError: If it is no place on this machine, or a list of several data sets.
        DataError: If nothing in it can be used.
    """
    place = check_place(path)
    with about_set("data.0"):
        listing = list_items(_data(str(place), caption_prefix=NO_TRIGGER))
    media = listing.table[MEDIA.name]
    with tempfile.TemporaryDirectory() as folder:
        memo = Memo(Path(folder) / "memo.sqlite")
        facts, problems = probe_all(media, memo, WORKERS, lambda done: say("probe media", done, len(media)))
    is_good = np.asarray(facts["is_good"])
    problems = [*listing.problems, *problems]
    if not is_good.any():
        told = "\n  ".join(f"{own.path}: {own.reason}" for own in problems[:NUM_EXAMPLES])
        raise DataError(f"--data: nothing in {path} can be used:\n  {told}")
    texts = pc.list_element(listing.table["captions"], 0).filter(pa.array(is_good))
    written = pc.not_equal(texts, "")
    return Looked(
        path=path,
        layout=listing.layout,
        media=media.filter(pa.array(is_good)).combine_chunks(),
        captions=tuple(texts.filter(written).slice(0, NUM_EXAMPLES).to_pylist()),
        facts=facts[is_good],
        num_captions=int(pc.sum(written).as_py() or 0),
        problems=tuple(problems),
    )


def check_place(path: str) -> Path:
    """Find the place of the data.

    Raises:
        ConfigError: If it is not there.
    """
    if "://" in path:
        raise ConfigError(
            f"--data: {path} is on another machine, where looking at it takes long; copy it here, or take an example "
            "(finetrainers examples) and set its data.0.path"
        )
    place = Path(path).expanduser()
    if not place.exists():
        raise ConfigError(f"--data: there is no {path}; name the folder of your images or videos")
    if place.suffix.lower() == ".toml":
        raise ConfigError(f"--data: {path} stands for several data sets; take an example, and set its data.0.path to it")
    return place
