"""Folders that each have a metadata file of their own, as in ``imagefolder`` and ``videofolder`` data sets."""

from dataclasses import replace
from pathlib import PurePosixPath

from finetrainers.config.data import DataConfig
from finetrainers.data.sources.layout import Layout, Wanted
from finetrainers.data.sources.listing import Listing, join
from finetrainers.data.sources.metadata import METADATA_READERS
from finetrainers.data.sources.metadata_file import MetadataFile
from finetrainers.data.sources.place import Place
from finetrainers.data.sources.splits import choose_split
from finetrainers.errors import DataError

NAMES = tuple(f"metadata{suffix}" for suffix in METADATA_READERS)


class ImageFolder(Layout):
    """A metadata file in each of some folders."""

    name = "imagefolder"
    settings = frozenset({"split", *MetadataFile.settings})
    names_streams = True
    looks_below = True

    def detect(self, place: Place, config: DataConfig) -> str | None:
        if place.is_file or place.chosen or any(place.has(name) for name in NAMES):
            return None  # one file lists all
        folders = _folders(place)
        return f"metadata files in {folders[0]}{f' and {len(folders) - 1} more' * (len(folders) > 1)}" if folders else None

    def items(self, place: Place, wanted: Wanted) -> Listing:
        folders = _folders(place)
        if not folders:
            raise DataError(f"{place}: no folder has one of {', '.join(NAMES)}, which data.layout: imagefolder needs")
        chosen, split, passed_over = choose_split(folders, wanted.config, str(place))
        listing = join(MetadataFile().items(place.inside(folder), wanted) for folder in chosen)
        return replace(listing, why=split, passed_over={**passed_over, **listing.passed_over})


def _folders(place: Place) -> list[str]:
    """Folders that have a metadata file, relative to the place."""
    files = [PurePosixPath(name) for name in place.tree(NAMES)]
    return sorted({str(file.parent) for file in files if file.name in NAMES})
