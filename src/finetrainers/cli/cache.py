"""``finetrainers cache``: shows, verifies and prunes a cache."""

import argparse
from pathlib import Path

from finetrainers.cli.status import DONE, USER_ERROR
from finetrainers.errors import ConfigError


def add_cache(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command with its actions."""
    cache = commands.add_parser("cache", help="show, verify or prune a cache")
    actions = cache.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = actions.add_parser("show", help="count items and bytes")
    verify = actions.add_parser("verify", help="check all items, remove damaged ones")
    prune = actions.add_parser("prune", help="remove the least recently used items")
    prune.add_argument("--max-gb", type=_size, required=True, help="size that is left, in GB (10^9 bytes)")
    for action in (show, verify, prune):
        action.add_argument("path", type=Path, nargs="?", default=Path("cache"), help="the cache's folder (default: cache)")
    cache.set_defaults(run=run_cache)


def _size(text: str) -> float:
    size = float(text)
    if not 0 <= size < float("inf"):
        raise ValueError(text)  # argparse names the option and the value
    return size


def run_cache(options: argparse.Namespace, _: list[str]) -> int:
    """``cache show``, ``verify`` and ``prune``."""
    from finetrainers.training.signals import StopSignals

    with StopSignals(kept="all items are whole", at_once=f"going through {options.path}").installed():
        return _go_through_cache(options)


def _go_through_cache(options: argparse.Namespace) -> int:
    from finetrainers.data.cache.leases import oldest_lease
    from finetrainers.data.cache.store import GB, KINDS, Cache

    if not options.path.is_dir():
        raise ConfigError(f"cache: there is no folder {options.path}; name the cache.path of your runs")
    cache = Cache(options.path)
    if options.action == "verify":
        damaged = list(cache.damaged())
        for entry in damaged:
            cache.remove(entry)
            print(f"removed {cache.file(entry.kind, entry.key)}: damaged")
        if num_leftovers := cache.remove_leftovers():
            print(f"removed {num_leftovers} temporary files that killed runs have left")
        print(f"{sum(1 for _ in cache.entries())} items are whole, {len(damaged)} were damaged")
        return USER_ERROR if damaged else DONE
    if options.action == "prune":
        left = cache.evict(int(options.max_gb * GB), since=oldest_lease(options.path))
        print(f"removed {len(left.removed)} items, {sum(entry.bytes for entry in left.removed) / GB:.3f} GB")
        if left.held:
            print(
                f"kept {len(left.held)} items, {sum(entry.bytes for entry in left.held) / GB:.3f} GB, that living runs need"
            )
    entries = list(cache.entries())
    for kind in KINDS:
        own = [entry.bytes for entry in entries if entry.kind == kind]
        print(f"{kind}: {len(own)} items, {sum(own) / GB:.3f} GB")
    return DONE
