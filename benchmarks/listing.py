"""The first and the second start on many items: what it costs to list them, to look at each, and to plan.

A folder of pictures with captions beside them, and tar shards of such. All are one tiny picture with other bytes at its end,
so that each is an item of its own, and nothing of the time is that of decoding large files. Each start is a process of its
own: it lists the items or recalls them, looks at files that it does not know, gives buckets, and makes the order and the
fingerprint. What the cache lacks is not searched for.
"""

import argparse
import io
import multiprocessing
import resource
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from finetrainers.config import DataConfig
from finetrainers.data.catalog.catalog import build_catalog
from finetrainers.data.catalog.memo import Memo
from finetrainers.data.catalog.snapshot import Snapshots
from finetrainers.data.order.order import Order
from finetrainers.data.order.plan import Plan

ITEMS, ITEMS_QUICK = (10_000, 100_000), (200,)
STARTS = (("files", "first"), ("files", "second"), ("folders", "first"), ("folders", "second"))
ITEMS_PER_PLACE = 10_000
BATCH_SIZE = 64


def picture() -> bytes:
    """A small picture; what follows its end mark is read by nobody, but makes other bytes of it."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "png")
    return buffer.getvalue()


def write_folder(root: Path, count: int) -> None:
    """Pictures with captions beside them, in several folders."""
    data = picture()
    for number in range(count):
        folder = root / f"{number // ITEMS_PER_PLACE:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:08d}.png").write_bytes(data + str(number).encode())
        (folder / f"{number:08d}.txt").write_text(f"picture number {number}")


def write_shards(root: Path, count: int) -> None:
    """The same in tar archives."""
    root.mkdir()
    data = picture()
    for start in range(0, count, ITEMS_PER_PLACE):
        with tarfile.open(root / f"{start // ITEMS_PER_PLACE:06d}.tar", "w") as archive:
            for number in range(start, min(count, start + ITEMS_PER_PLACE)):
                for suffix, content in (("png", data + str(number).encode()), ("txt", f"picture {number}".encode())):
                    member = tarfile.TarInfo(f"{number:08d}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))


def print_nothing(done: int, total: int) -> None:
    """Tell nobody how far it is."""


def start(root: Path, cache: Path, recheck: str, what: str) -> None:
    """Print what one start costs."""
    before, cpu = time.perf_counter(), time.process_time()
    memo = Memo(cache / "memo.sqlite")
    config = DataConfig.model_validate({"path": str(root), "buckets": [[1, 64, 64]], "recheck": recheck})
    catalog = build_catalog([config], memo, workers=2, progress=print_nothing, snapshots=Snapshots(cache, print))
    found = time.perf_counter() - before
    plan, order = Plan(catalog, 0, "vae", "text"), Order(0, BATCH_SIZE, catalog.groups())
    plan.fingerprint()
    plan.step(order, 0)
    seconds, processor = time.perf_counter() - before, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    took = f"{seconds:.2f} s ({processor:.2f} s of processor time; catalog {found:.2f} s)"
    print(f"{what}: {catalog.num_samples} items in {took}, peak {peak:.2f} GB", flush=True)


def apart(function: Callable[..., None], *arguments: object) -> None:
    """Run in a process of its own, whose memory is its own."""
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(process.exitcode)


def main() -> None:
    """Measure all starts of all sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few items: shows that it runs, no figures to quote")
    parser.add_argument("--items", type=int, nargs="+", default=None, help=f"sizes of data sets, by default {ITEMS}")
    parser.add_argument("--folder", type=Path, default=None, help="where the data sets are made, by default a temporary one")
    arguments = parser.parse_args()
    for count in arguments.items or (ITEMS_QUICK if arguments.quick else ITEMS):
        for name, write in (("folder", write_folder), ("shards", write_shards)):
            with tempfile.TemporaryDirectory(dir=arguments.folder) as directory:
                root, cache = Path(directory) / "data", Path(directory) / "cache"
                cache.mkdir()
                write(root, count)
                for recheck, which in STARTS[:2] if arguments.quick else STARTS:
                    known = " (files are known)" if (recheck, which) == ("folders", "first") else ""
                    apart(start, root, cache, recheck, f"{name}, recheck: {recheck}, {which} start{known}")


if __name__ == "__main__":
    main()
