"""``finetrainers cache``: shows, verifies, prunes and converts a cache."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from finetrainers.cli.status import DONE, USER_ERROR
from finetrainers.errors import ConfigError

if TYPE_CHECKING:
    from finetrainers.data.cache.store import Cache


def add_cache(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command with its actions."""
    cache = commands.add_parser("cache", help="show, verify, prune or convert a cache")
    actions = cache.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = actions.add_parser("show", help="count items and bytes")
    verify = actions.add_parser("verify", help="check all items, remove damaged ones")
    prune = actions.add_parser("prune", help="remove the least recently used items")
    prune.add_argument("--max-gb", type=_size, required=True, help="size that is left, in GB (10^9 bytes)")
    convert = actions.add_parser("convert", help="put items that have a file each into packs of many: quicker starts")
    for action in (show, verify, prune, convert):
        action.add_argument("path", type=Path, nargs="?", default=Path("cache"), help="the cache's folder (default: cache)")
    cache.set_defaults(run=run_cache)


def _size(text: str) -> float:
    size = float(text)
    if not 0 <= size < float("inf"):
        raise ValueError(text)  # argparse names the option and the value
    return size


def run_cache(options: argparse.Namespace, _: list[str]) -> int:
    """``cache show``, ``verify``, ``prune`` and ``convert``."""
    from finetrainers.training.signals import StopSignals

    with StopSignals(kept="all items are whole", at_once=f"going through {options.path}").installed():
        return _go_through_cache(options)


def _go_through_cache(options: argparse.Namespace) -> int:
    from finetrainers.data.cache.store import Cache

    if not options.path.is_dir():
        raise ConfigError(f"cache: there is no folder {options.path}; name the cache.path of your runs")
    cache = Cache(options.path)
    if options.action == "verify":
        return _verify(cache)
    if options.action == "convert":
        return _convert(cache)
    if options.action == "prune":
        _prune(cache, options.max_gb)
    _show(cache)
    return DONE


def _verify(cache: "Cache") -> int:
    """Look at every number of every item; remove what is damaged."""
    from finetrainers.data.cache.upkeep import damaged, mend_packs, remove_leftovers

    found = list(damaged(cache))
    cache.remove(*found)
    for entry in found:
        of = "" if entry.pack is None else f"{entry.key} of "
        print(f"removed {of}{cache.path_of(entry)}: damaged")
    mended = mend_packs(cache)
    for file in mended:
        print(f"wrote {file} anew: what says where its items are was damaged")
    if num_leftovers := remove_leftovers(cache):
        print(f"removed {num_leftovers} temporary files that killed runs have left")
    print(f"{sum(1 for _ in cache.entries())} items are whole, {len(found)} were damaged")
    return USER_ERROR if found or mended else DONE


def _prune(cache: "Cache", max_gb: float) -> None:
    """Remove the least recently used files."""
    from finetrainers.data.cache.leases import oldest_lease
    from finetrainers.data.cache.store import GB
    from finetrainers.data.cache.upkeep import evict

    left = evict(cache, int(max_gb * GB), since=oldest_lease(cache.root))
    print(f"removed {left.removed.items} items, {left.removed.bytes / GB:.3f} GB")
    if left.held.items:
        print(f"kept {left.held.items} items, {left.held.bytes / GB:.3f} GB, that living runs need")


def _convert(cache: "Cache") -> int:
    """Put items that have files of their own into packs."""
    from finetrainers.data.cache.convert import convert
    from finetrainers.data.cache.store import GB

    done, left = convert(cache)
    print(f"put {done.items} items, {done.bytes / GB:.3f} GB, into packs")
    for file in left:
        print(f"left {file}: damaged; `finetrainers cache verify` removes it")
    return USER_ERROR if left else DONE


def _show(cache: "Cache") -> None:
    """Count items, bytes and files."""
    from finetrainers.data.cache.store import GB, KINDS
    from finetrainers.data.cache.upkeep import stored_files

    stored = list(stored_files(cache))
    for kind in KINDS:
        own = [one for one in stored if one.kind == kind]
        items, size = sum(one.items for one in own), sum(one.bytes for one in own)
        packs = sum(one.is_pack for one in own)
        packed = sum(one.items for one in own if one.is_pack)
        print(f"{kind}: {items} items, {size / GB:.3f} GB" + (f"; {packed} of them in {packs} packs" if packs else ""))
