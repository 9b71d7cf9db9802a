"""Remote media with a ``.txt`` of the same name beside each: one listing, and the texts fetched many at once."""

from collections import Counter
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finetrainers.config.data import DataConfig
from finetrainers.data.media.remote_listing import join_folder
from finetrainers.data.media.remote_texts import Text, read_texts
from finetrainers.data.media.view import why_unreadable
from finetrainers.data.sources.folders import suffixes
from finetrainers.data.sources.listing import Listing, Problem, finish
from finetrainers.data.sources.place import Place
from finetrainers.data.sources.remote_place import RemotePlace
from finetrainers.data.sources.texts import decode_text, why_no_text
from finetrainers.errors import DataError

BLOCK_ROWS = 8192
"""Items whose texts are held as Python objects at a time."""
LISTS = pa.large_list(pa.large_string())


def detect_remote_sidecars(place: Place) -> str | None:
    """Say which medium has a text beside it; None if there is none."""
    assert isinstance(place, RemotePlace)
    media = place.media()
    found = media.filter(pc.is_in(captions_of(media), value_set=_texts(place)))
    if len(found) == 0:
        return None
    name = PurePosixPath(found[0].as_py()).name
    return f"{PurePosixPath(name).stem}.txt next to {name}"


def captions_of(media: pa.Array) -> pa.Array:
    """References of the texts that belong to media [N]."""
    return pc.replace_substring_regex(media, pattern=r"\.[^./]*$", replacement=".txt")


def _texts(place: RemotePlace) -> pa.Array:
    names = place.below().names
    names = names.filter(pc.ends_with(names, ".txt"))
    return join_folder(place.root, names)


def list_remote_sidecars(place: Place, config: DataConfig, expected: str, alone: str) -> Listing:
    """Read the ``.txt`` beside each medium; ``expected`` says which layouts there are, and ``alone`` how to do without."""
    assert isinstance(place, RemotePlace)
    media = _outside(place.media(), config)
    if len(media) == 0:
        raise DataError(f"{place}: no media ({suffixes()}), but {_others(place)}; {expected}")
    beside = captions_of(media)
    has_text = pc.is_in(beside, value_set=_texts(place))
    if not pc.any(has_text).as_py() and not config.caption_prefix:
        raise DataError(
            f"{place}: {len(media)} media, none of them with a caption, and {_others(place)}; {expected}; {alone}"
        )
    bare = media.filter(pc.invert(has_text))
    tables, problems = [], list[Problem]()
    if config.caption_prefix:
        tables.append(pa.table({"media": bare, "captions": _empty(len(bare))}))
    else:
        problems = [Problem(ref, f"no caption file {PurePosixPath(ref).stem}.txt next to it") for ref in bare.to_pylist()]
    media, beside = media.filter(has_text), beside.filter(has_text)
    for start in range(0, len(media), BLOCK_ROWS):
        refs = media.slice(start, BLOCK_ROWS)
        texts = read_texts(beside.slice(start, BLOCK_ROWS).to_pylist())
        captions = [_captions(ref, text, config, problems) for ref, text in zip(refs.to_pylist(), texts, strict=True)]
        table = pa.table({"media": refs, "captions": pa.array(captions, LISTS)})
        tables.append(table.filter(pa.array([len(own) > 0 for own in captions])))
    return finish(pa.concat_tables(tables), problems, unlisted=0, prefix=config.caption_prefix)


def _empty(count: int) -> pa.Array:
    """Lists [count] of one empty caption each."""
    return pa.LargeListArray.from_arrays(np.arange(count + 1), pa.array(np.full(count, ""), pa.large_string()))


def _outside(media: pa.Array, config: DataConfig) -> pa.Array:
    """Leave out what lies in folders of files beside the media."""
    for folder in config.named_folders:
        media = media.filter(pc.invert(pc.starts_with(media, f"{folder.rstrip('/')}/")))
    return media


def _others(place: RemotePlace) -> str:
    counts = Counter(PurePosixPath(name).suffix for name in place.below().names.to_pylist())
    return ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in counts.most_common(5)) or "no files"


def _captions(ref: str, text: Text, config: DataConfig, problems: list[Problem]) -> list[str]:
    """Captions of one medium; none, and a problem, if it has none."""
    name = f"{PurePosixPath(ref).stem}.txt"
    if isinstance(text, OSError):
        problems.append(Problem(ref, f"its caption file {name} {why_unreadable(text)}"))
        return []
    try:
        caption = decode_text(text).strip()
    except UnicodeDecodeError as error:
        problems.append(Problem(ref, f"its caption file {name} {why_no_text(error)}"))
        return []
    if not caption and config.caption_prefix:
        return [""]
    if not caption:
        problems.append(Problem(ref, f"the caption is empty ({name})"))
        return []
    return [line.strip() for line in caption.split("\n") if line.strip()] if config.caption_lines else [caption]
