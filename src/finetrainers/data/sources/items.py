"""The items of a data set: media and captions, found in any of the known layouts. No media is opened here."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import NamedTuple

from finetrainers.config.data import DataConfig
from finetrainers.config.user_code import is_place
from finetrainers.data.media.files import is_media
from finetrainers.data.media.view import why_unreadable
from finetrainers.data.sources.beside import list_folder, pair_by_place
from finetrainers.data.sources.imagefolder import ImageFolder
from finetrainers.data.sources.kohya import Kohya
from finetrainers.data.sources.layout import Layout, Wanted, check_settings, choose_layout
from finetrainers.data.sources.left_over import ARCHIVES
from finetrainers.data.sources.listing import Listing as Listing, Problem as Problem, by_path, pair
from finetrainers.data.sources.lists import Lists
from finetrainers.data.sources.many import pair_many_by_place
from finetrainers.data.sources.metadata import METADATA_READERS
from finetrainers.data.sources.metadata_file import MetadataFile
from finetrainers.data.sources.own import OwnLayout
from finetrainers.data.sources.place import Place, place_of
from finetrainers.data.sources.saved import Saved
from finetrainers.data.sources.sidecars import Sidecars
from finetrainers.data.sources.splits import about_missing
from finetrainers.data.sources.table import Table
from finetrainers.data.sources.webdataset import WebDataset
from finetrainers.errors import DataError

LAYOUTS: tuple[Layout, ...] = (MetadataFile(), Lists(), Sidecars(), WebDataset(), Table(), Saved(), ImageFolder(), Kohya())
"""All that is known; a new one is a file beside this one, and a name here."""
NEEDED_BY = {"control": "conditioning.signal: files", "reference": "conditioning.kind: references"}
"""What makes a run need the files of a stream, by its name, for messages."""


def list_items(config: DataConfig, streams: Sequence[str] = (), many: Collection[str] = ()) -> Listing:
    """List the items of a data set after finding out how it is laid out.

    Args:
        config: Of the data set.
        streams: Names of what each item has in files of its own beside the media.
        many: Those of them of which an item may have several files.

    Raises:
        DataError: If the place or its layout is not known, or a list cannot be read, or nothing names those files.
    """
    place = place_of(config.path)
    folders = [list_folder(name, config, place) for name in streams if config.folder_of(name) is not None]
    columns = [name for name in streams if config.folder_of(name) is None]
    layout, why = _layout_of(place, config)
    if layout is None:
        if place.is_file:
            raise DataError(
                f"data.path: {place} is neither a folder nor a metadata file ({', '.join(METADATA_READERS)})"
                f"{_instead(place)}"
            )
        layout = Sidecars()  # says what it has found, and what was expected, unless media are enough
        why = "media alone"
    check_settings(layout, config)
    for name in columns if not layout.names_streams else ():
        needed_by = NEEDED_BY.get(name, "the run")
        raise DataError(
            f"data.{config.key_of_folder(name)}: nothing in {place} names the {name} files that {needed_by} needs; set it "
            f"to the folder of the {name} files, or list media and {name} files in a metadata file"
        )
    listing = layout.items(place, Wanted(config, columns, many))
    problems = by_path([*listing.problems, *_closed(layout, place)])
    listing = replace(listing, layout=layout.name, why=why + listing.why, problems=problems)
    for other in folders:
        by_place = pair_many_by_place if other.name in many else pair_by_place
        listing = pair(listing, other.name, by_place(listing.table["media"], place.root, other))
    return listing


def _instead(place: Place) -> str:
    """Say what to name instead of a file that is no data set."""
    if place.suffix in ARCHIVES:
        return "; unpack it, and name the folder"
    return "; name the folder that it lies in" if is_media(place.path) else ""


class Sharded(NamedTuple):
    """What is known of a data set that is read shard by shard before any shard is read."""

    layout: Layout
    why: str
    """By what the layout was found."""
    root: str
    """Reference of the folder that has the shards."""
    refs: tuple[str, ...]
    """Of the shards, in the order of their names."""
    problems: list[Problem]
    """Folders that cannot be listed."""


def open_shards(config: DataConfig) -> Sharded:
    """Find the shards of a data set that is read shard by shard.

    Raises:
        DataError: If it does not consist of shards, or if there are problems that are not to be skipped.
    """
    place = place_of(config.path)
    layout, why = _layout_of(place, config)
    shards = None if layout is None else layout.shards(place, config)
    if layout is None or not shards:
        found = "no layout that is known" if layout is None else f"the layout {layout.name}"
        raise DataError(
            f"data.stream: true reads {place} shard by shard, but it has {found}, which has no shards; write tar archives, "
            "Parquet or Arrow files, or set stream: false"
        )
    check_settings(layout, config)
    problems = _closed(layout, place)
    if problems and config.on_error == "fail":
        raise DataError(f"{problems[0].path}: {problems[0].reason}; fix it, or set data.on_error: skip")
    why = "; ".join([why, *about_missing(shards)])
    return Sharded(layout, why, place.root, tuple(shards), problems)


def _layout_of(place: Place, config: DataConfig) -> tuple[Layout | None, str]:
    """Choose a layout: the user's own, or one that is known."""
    if is_place(config.layout):
        return OwnLayout(config), f"data.layout: {config.layout}"
    return choose_layout(LAYOUTS, place, config)


def _closed(layout: Layout, place: Place) -> list[Problem]:
    """Folders in which a layout would look for its pieces, and that cannot be listed."""
    found = place.closed() if layout.looks_below else []
    return [Problem(str(error.filename), f"the folder {why_unreadable(error)}") for error in found]
