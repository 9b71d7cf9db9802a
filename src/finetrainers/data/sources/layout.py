"""Layouts: the ways in which people lay out media and captions, each of which is one file beside this one."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import ClassVar

from finetrainers.config.data import DataConfig
from finetrainers.data.sources.listing import Listing
from finetrainers.data.sources.place import Place
from finetrainers.errors import ConfigError, DataError

SETTINGS = ("split", "caption_lines", "media_column", "caption_column", "control_column", "columns")
"""Keys of a data set that have an effect on some layouts only."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a layout is asked for."""

    config: DataConfig
    """Of the data set."""
    columns: Sequence[str] = ()
    """Streams whose files, beside the media, the layout itself is to name."""
    many: Collection[str] = ()
    """Those of them of which an item may have several files."""


class Layout(ABC):
    """One way to lay out a data set."""

    name: ClassVar[str]
    """As in ``data.layout``."""
    settings: ClassVar[frozenset[str]] = frozenset()
    """Those of SETTINGS that have an effect on it."""
    names_streams: ClassVar[bool] = False
    """Whether it can name the files of streams beside the media."""
    looks_below: ClassVar[bool] = False
    """Whether its pieces are all that ``Place.tree`` finds, so that those in a folder that cannot be listed are missing."""

    @abstractmethod
    def detect(self, place: Place, config: DataConfig) -> str | None:
        """Say by what a place shows that it is laid out like this, such as "metadata.csv lists items"; None if it is not.

        It is quick: nothing but names is looked at, and the beginning of a file where names do not tell.
        """

    @abstractmethod
    def items(self, place: Place, wanted: Wanted) -> Listing:
        """List the items of a place; no media is opened.

        Raises:
            DataError: If a list cannot be read, or if nothing in it is an item.
        """

    def shards(self, place: Place, config: DataConfig) -> list[str] | None:
        """List the references of the pieces that a place consists of, in order; None if it does not consist of pieces.

        Raises:
            DataError: If which pieces belong to the data set is unclear.
        """
        return None

    def shard_items(self, ref: str, wanted: Wanted) -> Listing:
        """List the items of one piece alone; that it has none is no error. No media is opened.

        Raises:
            DataError: If the piece cannot be read.
        """
        raise NotImplementedError(f"{self.name} does not consist of pieces: {ref}")


def choose_layout(layouts: Sequence[Layout], place: Place, config: DataConfig) -> tuple[Layout | None, str]:
    """Choose the layout that is configured, or the one that claims the place, and say why; None if none does.

    Raises:
        ConfigError: If there is no layout of the configured name.
        DataError: If several claim the place.
    """
    if config.layout != "auto":
        return _named(layouts, config.layout), f"data.layout: {config.layout}"
    claims = [(layout, why) for layout in layouts if (why := layout.detect(place, config)) is not None]
    if len(claims) > 1:
        said = "; ".join(f"{layout.name}: {why}" for layout, why in claims)
        names = " or ".join(layout.name for layout, _ in claims)
        raise DataError(
            f"{place}: has several layouts ({said}); set data.layout to the one that counts ({names}), or remove the others"
        )
    return claims[0] if claims else (None, "")


def check_settings(layout: Layout, config: DataConfig) -> None:
    """Refuse settings that have no effect on a layout.

    Raises:
        DataError: Naming the first of them.
    """
    for key in SETTINGS:
        if getattr(config, key) and key not in layout.settings:
            value = getattr(config, key)
            raise DataError(f"data.{key}: {value!r} has no effect on the layout of {config.path} ({layout.name}); remove it")


def _named(layouts: Sequence[Layout], name: str) -> Layout:
    by_name = {layout.name: layout for layout in layouts}
    if name in by_name:
        return by_name[name]
    close = get_close_matches(name, by_name, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ConfigError(
        f"data.layout: there is no layout {name!r}, only auto, {', '.join(by_name)}, and one of yours as file.py:Name{hint}"
    )
