"""``finetrainers cache``: shows, verifies, prunes and converts a cache."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from finetrainers.cli.status import DONE, USER_ERROR
from finetrainers.errors import ConfigError

if TYPE_CHECKING:
    from finetrainers.data.cache.beside import Beside
    from finetrainers.data.cache.store import Cache
    from finetrainers.data.cache.upkeep import Eviction


def add_cache(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command with its actions."""
    cache = commands.add_parser("cache", help="show, verify, prune or convert a cache")
    actions = cache.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = actions.add_parser("show", help="count items, copies of remote files and snapshots of data sets")
    verify = actions.add_parser("verify", help="check all items and snapshots, remove damaged ones")
    prune = actions.add_parser("prune", help="remove the least recently used items")
    prune.add_argument("--max-gb", type=_size, help="largest size of the items to keep, in GB (10^9 bytes)")
    prune.add_argument("--remote-gb", type=_size, help="largest size of the copies of remote files to keep, in GB")
    prune.add_argument("--snapshot-days", type=_size, help="keep snapshots that were used within this many days")
    prune.set_defaults(refuse=prune.error)
    convert = actions.add_parser("convert", help="pack items that are single files, so that runs start faster")
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

    if options.action == "prune" and {options.max_gb, options.remote_gb, options.snapshot_days} == {None}:
        options.refuse("say what is to go: at least one of --max-gb, --remote-gb, --snapshot-days")
    if not options.path.is_dir():
        raise ConfigError(f"cache: there is no folder {options.path}; name the cache.path of your runs")
    cache = Cache(options.path)
    if options.action == "verify":
        return _verify(cache)
    if options.action == "convert":
        return _convert(cache)
    if options.action == "prune":
        _prune(cache, options)
    _show(cache)
    return DONE


def _verify(cache: "Cache") -> int:
    """Look at every number of every item; remove what is damaged."""
    from finetrainers.data.cache.beside import remove_damaged, remove_unfinished
    from finetrainers.data.cache.upkeep import damaged, mend_packs, remove_leftovers

    found = list(damaged(cache))
    cache.remove(*found)
    for entry in found:
        of = "" if entry.pack is None else f"{entry.key} of "
        print(f"removed {of}{cache.path_of(entry)}: damaged")
    mended = mend_packs(cache)
    for file in mended:
        print(f"rewrote {file}: its index was damaged")
    snapshots = remove_damaged(cache)
    for file in snapshots:
        print(f"removed {file}: damaged; the next start lists its data set again")
    if num_leftovers := remove_leftovers(cache) + remove_unfinished(cache):
        print(f"removed {num_leftovers} temporary files that killed runs have left")
    print(f"{sum(1 for _ in cache.entries())} items are whole, {len(found)} were damaged")
    return USER_ERROR if found or mended or snapshots else DONE


def _prune(cache: "Cache", options: argparse.Namespace) -> None:
    """Remove what was used longest ago, of each kind that was named."""
    from finetrainers.data.cache.beside import prune_copies, prune_snapshots
    from finetrainers.data.cache.leases import oldest_lease
    from finetrainers.data.cache.store import GB
    from finetrainers.data.cache.upkeep import evict

    if options.max_gb is not None:
        _tell(evict(cache, int(options.max_gb * GB), since=oldest_lease(cache.root)), "items")
    if options.remote_gb is not None:
        _tell(prune_copies(cache, int(options.remote_gb * GB)), "copies of remote files")
    if options.snapshot_days is not None:
        _tell(prune_snapshots(cache, options.snapshot_days), "snapshots of data sets")


def _tell(left: "Eviction", what: str) -> None:
    from finetrainers.data.cache.store import GB

    print(f"removed {left.removed.items} {what}, {left.removed.bytes / GB:.3f} GB")
    if left.held.items:
        print(f"kept {left.held.items} {what}, {left.held.bytes / GB:.3f} GB, that living runs need")


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
    _show_beside(cache)


def _show_beside(cache: "Cache") -> None:
    """Count what lies beside the items, where there is any, and name what is of no use."""
    from finetrainers.data.cache.beside import about, copies, copies_in_use_since, is_mapped, snapshots, unfinished
    from finetrainers.data.cache.store import GB

    if kept := copies(cache):
        used = "; living runs use them" * (copies_in_use_since(cache) is not None)
        print(f"copies of remote files: {_counted(kept)}{used}")
    if begun := unfinished(cache):
        size = sum(one.bytes for one in begun) / GB
        print(f"  {len(begun)} unfinished, {size:.3f} GB, of killed runs; `finetrainers cache verify` removes them")
    if found := snapshots(cache):
        mapped = sum(is_mapped(one.file) for one in found)
        print(f"snapshots of data sets: {_counted(found)}" + (f"; living runs use {mapped}" if mapped else ""))
    for one in found:
        what = about(one)
        if what is None:
            print(f"  {one.file}: damaged; `finetrainers cache verify` removes it")
        elif what.is_gone:
            print(f"  {one.file}: {what.items} items of {what.folders[0]}, which is not there any more")


def _counted(found: "Sequence[Beside]") -> str:
    """Say how many there are, how large, and when they were used; the least recently used comes first."""
    from finetrainers.data.cache.store import GB

    oldest, newest = (max(0.0, time.time() - one.used) / (24 * 3600) for one in (found[0], found[-1]))
    return f"{len(found)}, {sum(one.bytes for one in found) / GB:.3f} GB, used {newest:.1f} to {oldest:.1f} days ago"
