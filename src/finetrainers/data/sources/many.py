"""Several files of a stream for each item, found in a folder by the places of the media. No media is opened here.

Shape letters: N items, M files, P places of media.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from finetrainers.data.sources.beside import Folder, Paired, about_outside, relative_to, without_suffix
from finetrainers.data.sources.metadata import group

ALONE, NUMBERED, IN_FOLDER = range(3)
"""Ways to give a medium ``a/b.png`` its files: ``a/b.png``; ``a/b.1.png``, ``a/b.2.png`` ...; all in the folder ``a/b``."""
NUMBER = r"(?P<number>[0-9]{1,18})$"
"""What a name ends in; more digits would not fit into 64 bits."""


def pair_many_by_place(media: pa.ChunkedArray, media_folder: str, other: Folder) -> Paired:
    """Pair media [N] below a folder with lists of the files that the other folder has at their places, but for the suffix.

    These are one file of the name of the media, or several that are numbered after it, in the order of their numbers, or all
    in a folder of that name, in the order of the numbers that their names end in and then of the names. A file that
    could belong to two media in different ways is that of the first of these ways.
    """
    wanted = without_suffix(relative_to(media, media_folder))
    places = pc.unique(wanted.drop_null())
    files = pa.array(other.files, pa.large_string())
    names = without_suffix(relative_to(files, other.path))
    owners, ways, numbers = _owners(names, places)
    order = np.lexsort((pc.rank(files, tiebreaker="dense").to_numpy(), numbers, ways, owners))
    order = order[owners[order] >= 0]
    owners, ways, numbers = owners[order], ways[order], numbers[order]
    unclear = _unclear(owners, ways, numbers)
    rows = pc.fill_null(pc.index_in(wanted, value_set=places), -1).to_numpy()
    found = group(owners, files.take(pa.array(order)), len(places))
    counts = pc.list_value_length(found).to_numpy()
    is_paired = np.isin(rows, np.setdiff1d(np.flatnonzero(counts), unclear))
    reasons = {}
    for row in np.flatnonzero(~is_paired).tolist():
        place = wanted[row].as_py()
        own = [] if place is None else found[int(rows[row])].as_py()
        reasons[row] = _why_unpaired(place, own, media_folder, other)
    return found.take(pa.array(rows, mask=~is_paired)), reasons


def _owners(names: pa.Array, places: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Find the place [M] that each file belongs to, in which way, and its number; -1 where there is none."""
    parts = pc.extract_regex(names, pattern=NUMBER)
    numbers = pc.fill_null(pc.struct_field(parts, "number").cast(pa.int64()), -1).to_numpy()
    stems = pc.if_else(
        pc.match_substring_regex(names, r"\.[0-9]{1,18}$"),
        pc.replace_substring_regex(names, pattern=r"\.[0-9]+$", replacement=""),
        None,
    )
    folders = pc.if_else(
        pc.match_substring(names, "/"), pc.replace_substring_regex(names, pattern="/[^/]*$", replacement=""), None
    )
    owners, ways = np.full(len(names), -1), np.full(len(names), -1)
    for way, keys in ((ALONE, names), (NUMBERED, stems), (IN_FOLDER, folders)):
        found = pc.fill_null(pc.index_in(keys, value_set=places), -1).to_numpy().astype(np.int64)
        is_new = (owners < 0) & (found >= 0)
        owners[is_new], ways[is_new] = found[is_new], way
    return owners, ways, numbers


def _unclear(owners: NDArray[np.int64], ways: NDArray[np.int64], numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places that have files in two ways, or two of one name or number; all [M] are sorted by place, way and number."""
    is_same = owners[1:] == owners[:-1]
    in_two_ways = ways[1:] != ways[:-1]
    is_repeated = (ways[1:] == ALONE) | ((ways[1:] == NUMBERED) & (numbers[1:] == numbers[:-1]))
    unclear: NDArray[np.int64] = np.unique(owners[1:][is_same & (in_two_ways | is_repeated)])
    return unclear


def _why_unpaired(place: str | None, files: list[str], media_folder: str, other: Folder) -> str:
    """Say why an item at a place, for which there are these files, has none."""
    name = other.name
    if place is None:
        return about_outside(media_folder, other)
    at = f"{other.path}/{place}"
    if files:
        return (
            f"has {len(files)} {name}s, {', '.join(files)}, whose order is unclear; "
            f"number all of them {at}.1, {at}.2 and so on, or put all of them into the folder {at}"
        )
    return f"has no {name} {at}, {at}.1 or in a folder {at}, with the suffix of an image or a video"
