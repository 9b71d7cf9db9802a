"""Data sets that are read shard by shard: which shards they have, before any of them is opened."""

import hashlib
from collections.abc import Callable
from functools import partial

from finetrainers.config import Config
from finetrainers.config.of_set import about_set, set_keys
from finetrainers.data.catalog.buckets import resolve_buckets
from finetrainers.data.catalog.build import Common, build_dataset
from finetrainers.data.catalog.catalog import Catalog
from finetrainers.data.catalog.mix import check_has_samples
from finetrainers.data.catalog.probe import Look
from finetrainers.data.catalog.split import contents
from finetrainers.data.media.blob import blob_of
from finetrainers.data.media.files import why_unreadable
from finetrainers.data.order.chapter import Known, Shards, Source
from finetrainers.data.order.chapters import Book
from finetrainers.data.sources.items import Problem, open_shards
from finetrainers.data.sources.layout import Wanted
from finetrainers.data.streams import beside
from finetrainers.errors import DataError


def make_book(
    config: Config, known: Catalog, held_out: Catalog | None, common: Common, *, look: Callable[..., Look]
) -> Book:
    """Find the shards of the data sets that are read shard by shard; no shard is opened.

    Args:
        config: Of the run.
        known: The other data sets.
        held_out: What is not trained on; None if that is nothing.
        common: What all data sets have in common.
        look: ``make_look`` with everything but the number of files.

    Raises:
        DataError: If one of them does not consist of shards.
    """
    names = [stream.name for stream in beside(common["streams"])]
    many = [stream.name for stream in common["streams"] if stream.is_many]
    others, sources, problems = iter(known.sets), list[Source](), list[Problem]()
    buckets = dict.fromkeys(known.buckets)
    digest = hashlib.blake2b(known.fingerprint().encode(), digest_size=8)
    for data, key in zip(config.data, set_keys(config.data), strict=True):
        if not data.stream:
            data_of = next(others)
            if data.weight is not None:
                check_has_samples(len(sources), data_of)
            sources.append(Known(data_of))
            continue
        with about_set(key):
            found = open_shards(data)
        problems += found.problems
        sources.append(Shards(found.layout, Wanted(data, names, many), found.root, found.refs, found.why))
        buckets |= dict.fromkeys(resolve_buckets(data.buckets))
        digest.update(repr([_about_shard(ref) for ref in found.refs]).encode())
    return Book(
        config.seed,
        config.train.batch_size,
        tuple(sources),
        tuple(buckets),
        build=partial(build_dataset, **common),
        look=lambda count: look(total=count),
        held_out=contents(() if held_out is None else held_out.sets),
        known_as=digest.hexdigest(),
        problems=tuple(problems),
    )


def _about_shard(ref: str) -> tuple[str, object]:
    """Name and size of a shard, which it has wherever it is copied; what else identifies one that is not a file here."""
    blob = blob_of(ref)
    try:
        return blob.name, blob.stamp() if blob.path is None else blob.path.stat().st_size
    except OSError as error:
        raise DataError(f"{ref}: {why_unreadable(error)}") from error
