"""A layout of the user's own: a class in a file of theirs that yields the items of a data set."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import UnionType

import pyarrow as pa

from finetrainers.config.data import DataConfig
from finetrainers.config.user_code import UserCode, read_user_code
from finetrainers.data.sources.layout import Layout, Wanted
from finetrainers.data.sources.listing import Listing, pair
from finetrainers.data.sources.named import Source, list_named, named_files, named_lists
from finetrainers.data.sources.place import Place
from finetrainers.errors import ConfigError

SETTING = "data.layout"
BLOCK_ROWS = 65536
"""Items that are held as Python objects at a time."""
TEXTS = pa.large_list(pa.large_string())

File = str | Path


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a data set: files are named by absolute paths or addresses, or relative to the folder of the data set."""

    media: File
    """Its image or video."""
    captions: str | Sequence[str] = ()
    """One, or several of which each sample takes one; none where ``caption_prefix`` stands alone."""
    files: Mapping[str, File | Sequence[File]] = field(default_factory=dict)
    """What it has beside its media, such as {"control": "depth/0.png"}: for control, masks, references."""


class DataLayout(ABC):
    """Base class of layouts: how media and captions are found."""

    @abstractmethod
    def items(self, path: str, config: DataConfig) -> Iterable[Item]:
        """Yield the items of a data set, in any order; no media need to be opened.

        Args:
            path: ``data.N.path``, a folder or a file that is there.
            config: The section of the data set.
        """


def check_layout(config: DataConfig) -> None:
    """Load the class of a layout of the user's; nothing is made of it.

    Raises:
        ConfigError: If it cannot be loaded, or takes arguments.
    """
    read_user_code(SETTING, config.layout).check(DataLayout)  # type: ignore[type-abstract]


class OwnLayout(Layout):
    """What a ``DataLayout`` of the user's yields, checked as the items of all layouts are."""

    settings = frozenset()
    names_streams = True

    def __init__(self, config: DataConfig) -> None:
        """Load the user's layout.

        Raises:
            ConfigError: If it cannot be loaded.
        """
        self._code = read_user_code(SETTING, config.layout)
        self._own = self._code.make(DataLayout)  # type: ignore[type-abstract]
        self.name = f"{Path(self._code.file).name}:{self._code.name}"  # type: ignore[misc]  # each has a name of its own

    def detect(self, place: Place, config: DataConfig) -> str | None:
        return None

    def items(self, place: Place, wanted: Wanted) -> Listing:
        source, config = Source(place.root, self.name), wanted.config
        path = config.path if place.is_remote else str(place.path)
        rows = Rows(self._code, wanted.columns, wanted.many)
        given: object = self._own.items(path, config)
        if not isinstance(given, Iterable):
            raise ConfigError(
                f"{SETTING}: {self._code.file}: {self._code.name}.items returns a {type(given).__name__}; yield each "
                "Item, or return a list of them"
            )
        found, blocks = iter(given), []
        while block := list(islice(found, BLOCK_ROWS)):
            blocks.append(rows.batch(block))
        if not blocks:
            raise ConfigError(f"{SETTING}: {self._code.file}: {self._code.name}.items yields no item of {path}; correct it")
        (items,) = pa.Table.from_batches(blocks).combine_chunks().to_batches()
        listing = list_named(source, "item", items, prefix=config.caption_prefix)
        for name in wanted.columns:
            check = named_lists if name in wanted.many else named_files
            listing = pair(listing, name, check(listing.table[name], source, name))
        return listing


@dataclass(frozen=True, slots=True)
class Rows:
    """Turns items of the user's into columns."""

    code: UserCode
    streams: Sequence[str]
    """What each item has besides its media."""
    many: Collection[str]
    """Those of them that are lists."""

    def batch(self, items: Sequence[object]) -> pa.RecordBatch:
        """Check a block of items, and make columns of it: media, captions and each stream.

        Raises:
            ConfigError: If one is no item.
        """
        known = [self._checked(item) for item in items]
        columns = {
            "media": pa.array([str(item.media) for item in known], pa.large_string()),
            "captions": pa.array([_texts(item.captions) for item in known], TEXTS),
        }
        for name in self.streams:
            found = [[str(file) for file in _files(item.files.get(name, ()))] for item in known]
            if name in self.many:
                columns[name] = pa.array(found, TEXTS)
            else:
                columns[name] = pa.array([own[0] if own else None for own in found], pa.large_string())
        return pa.record_batch(columns)

    def _checked(self, item: object) -> Item:
        what = f"{SETTING}: {self.code.file}: {self.code.name}.items yields"
        if not isinstance(item, Item):
            raise ConfigError(f"{what} {item!r}, which is no finetrainers.Item; yield Item(media, captions)")
        media: object = item.media
        if not isinstance(media, str | Path) or not _are_all(item.captions, str):
            raise ConfigError(f"{what} {item!r}, whose media is no path or whose captions are no text; correct it")
        if not isinstance(item.files, Mapping):
            raise ConfigError(
                f'{what} {item!r}, whose files are no mapping; give a dict, such as {{"control": "depth/0.png"}}'
            )
        texts = [str(media), *_texts(item.captions)]
        for name in self.streams:
            given = item.files.get(name, ())
            if not _are_all(given, str | Path) or (len(_files(given)) > 1 and name not in self.many):
                raise ConfigError(f"{what} {item!r}, whose files[{name!r}] are no path of one file; correct it")
            texts += map(str, _files(given))
        if not all(map(_is_encodable, texts)):
            raise ConfigError(f"{what} {item!r}, which holds bytes that are no text; rename the file, or leave it out")
        return item


def _are_all(value: object, kind: type | UnionType) -> bool:
    """Whether a value is of a kind, or several of it."""
    return isinstance(value, kind) or (isinstance(value, Sequence) and all(isinstance(one, kind) for one in value))


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a name whose bytes are no text, or half of a pair of surrogates
        return False
    return True


def _texts(captions: str | Sequence[str]) -> list[str]:
    return [captions] if isinstance(captions, str) else list(captions)


def _files(files: File | Sequence[File]) -> Sequence[File]:
    return [files] if isinstance(files, str | Path) else list(files)
