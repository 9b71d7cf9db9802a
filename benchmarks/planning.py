"""Planning ten million items: target < 10 s and < 1 GB beside the list of the items.

First the order alone: a metadata file's worth of items in 20 buckets is assigned, grouped and ordered, and steps at the
start, in the middle and in a later epoch are asked for. Then the plan: from a catalog of ten million paths, captions and
digests to the jobs of the first batch, and to all distinct jobs of one epoch. Then what each loader worker holds for itself
once it has found jobs of several epochs: target <= 100 MB. Last, the search of a cache that has all items, as at each start
after the first. Not measured: the look at each file, which is a few system calls an item. Memory is the process's; each part
runs in one of its own.
"""

import argparse
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch.utils.data import DataLoader, Dataset, get_worker_info

from finetrainers.config import DataConfig
from finetrainers.data.cache.packs import KEY_BYTES, write_pack
from finetrainers.data.cache.store import Cache
from finetrainers.data.cache.writing import BATCH_ITEMS
from finetrainers.data.catalog.buckets import assign_buckets
from finetrainers.data.catalog.catalog import Catalog
from finetrainers.data.catalog.dataset import Dataset as DataSet
from finetrainers.data.loader import WORKER_CONTEXT, start_worker
from finetrainers.data.order.order import Group, Order
from finetrainers.data.order.plan import Plan
from finetrainers.data.streams import MEDIA
from finetrainers.files.whole import DIGEST_BYTES

NUM_ITEMS, NUM_ITEMS_QUICK = 10_000_000, 100_000
NUM_BUCKETS = 20
NUM_LOOKED_AT = 20_000
"""Jobs that are made, to time one."""
BATCH_SIZE = 64
NUM_STEPS = 100
"""Of each of the epochs in which a worker looks."""
ROUNDS = 3


def measure_order(num_items: int) -> None:
    """Print seconds and peak memory of the order alone."""
    random = np.random.default_rng(0)
    frames = random.integers(1, 200, num_items)
    height = random.integers(256, 1080, num_items)
    width = random.integers(256, 1920, num_items)
    buckets = tuple((f, 256 + 64 * i, 512 - 32 * i) for f in (1, 17, 33, 49) for i in range(NUM_BUCKETS // 4))
    start, cpu = time.perf_counter(), time.process_time()
    choice = assign_buckets(frames, height, width, buckets=buckets, max_upscale=4.0)
    assigned = time.perf_counter()
    groups = [Group(bucket, np.flatnonzero(choice == bucket), 1.0) for bucket in range(len(buckets))]
    order = Order(0, BATCH_SIZE, groups)
    for step in (0, 1, 100, order.first_step(1) // 2, order.first_step(1) + 10):
        order.step(step)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    print(
        f"order: {num_items} items, {len(buckets)} buckets: {seconds:.2f} s ({cpu_seconds:.2f} s CPU; "
        f"buckets {assigned - start:.2f} s), peak {peak_gb():.2f} GB"
    )


def measure_plan(num_items: int) -> None:
    """Print seconds and peak memory until the first batch is known, and until all jobs of an epoch are."""
    catalog = make_catalog(num_items)
    table, start, cpu = peak_gb(), time.perf_counter(), time.process_time()

    def tell(what: str) -> None:
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
        memory = f"peak {peak_gb() - table:.2f} GB over the list's {table:.2f} GB"
        print(f"plan: {what} after {seconds:.2f} s ({cpu_seconds:.2f} s CPU), {memory}")

    plan, order = Plan(catalog, 0, "vae", "text"), Order(0, BATCH_SIZE, catalog.groups())
    plan.step(order, 0)
    tell("first batch")
    jobs = plan.distinct(order, 0, order.first_step(1))
    tell(f"{len(jobs)} distinct jobs")
    latents, texts = jobs.latents(), jobs.texts()
    tell(f"{len(latents)} latents and {len(texts)} texts")
    for name, each in (("latents", latents), ("texts", texts)):
        start = time.perf_counter()
        looked_at = sum(1 for _ in each[:NUM_LOOKED_AT])
        print(f"plan: one job of {name} is made in {(time.perf_counter() - start) / looked_at * 1e6:.1f} us")


class Memory(Dataset[tuple[int, float]]):
    """Finds the jobs of steps, and tells the worker's number and the memory in MB that is its own alone."""

    def __init__(self, plan: Plan, order: Order) -> None:
        self.plan, self.order = plan, order

    def __getitem__(self, step: int) -> tuple[int, float]:
        self.plan.step(self.order, step)
        worker = get_worker_info()
        return 0 if worker is None else worker.id, private_mb()


def measure_workers(num_items: int) -> None:
    """Print what each of some loader workers holds for itself, in MB: at its first step, and after some of four epochs."""
    catalog = make_catalog(num_items)
    plan, order = Plan(catalog, 0, "vae", "text"), Order(0, BATCH_SIZE, catalog.groups())
    steps = [order.first_step(epoch) + n for epoch in range(4) for n in range(NUM_STEPS)]
    steps = steps * max(1, 1000 // len(steps))
    loader = DataLoader(
        Memory(plan, order),
        batch_size=None,
        sampler=steps,
        num_workers=2,
        worker_init_fn=start_worker,
        prefetch_factor=1,
        multiprocessing_context=WORKER_CONTEXT,
    )
    found: dict[int, list[float]] = {}
    for worker, private in loader:
        found.setdefault(worker, []).append(private)
    for worker, private in sorted(found.items()):
        print(f"worker {worker}: {num_items} items: {private[0]:.0f} MB of its own at first, {private[-1]:.0f} MB at last")


def private_mb() -> float:
    """Memory of this process that no other shares, in MB."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    sizes = [int(line.split()[1]) for line in lines if line.startswith(("Private_Dirty:", "Private_Clean:"))]
    return sum(sizes) * 1024 / 1e6


def measure_known(num_items: int) -> None:
    """Print seconds until a start knows that a cache has all items, for caches of several sizes."""
    for count in (num_items // 1000, num_items // 100, num_items // 10):
        with tempfile.TemporaryDirectory() as folder:
            keys = np.random.default_rng(0).integers(0, 256, (count, KEY_BYTES), np.uint8)
            index = Cache(Path(folder)).index
            for first in range(0, count, BATCH_ITEMS):
                items = [(key.tobytes(), b"") for key in keys[first : first + BATCH_ITEMS]]
                index.add(write_pack(Path(folder), "latents", items))
            wall, cpu = [], []
            for _ in range(ROUNDS):
                start, cpu_start = time.perf_counter(), time.process_time()
                assert Cache(Path(folder)).known("latents", keys).all()
                wall.append(time.perf_counter() - start)
                cpu.append(time.process_time() - cpu_start)
            seconds, cpu_seconds = statistics.median(wall), statistics.median(cpu)
            print(
                f"cache: {count} items are known after {seconds:.2f} s ({cpu_seconds:.2f} s CPU), "
                f"{seconds / count * 1e6:.2f} us an item"
            )


def make_catalog(num_items: int) -> Catalog:
    """Synthetic items: one caption and one sample each, all different."""
    random = np.random.default_rng(0)
    text, nothing = pa.large_string(), pa.scalar("", pa.large_string())
    number = pc.cast(pa.array(np.arange(num_items)), text)
    media = pc.binary_join_element_wise(pa.scalar("/data/videos/", text), number, nothing)
    captions = pc.binary_join_element_wise(pa.scalar("a caption of some words, item ", text), number, nothing)
    lists = pa.LargeListArray.from_arrays(np.arange(num_items + 1), captions)
    data = DataSet(
        config=DataConfig(path="/data", buckets=[(1, 64, 64)], caption_dropout=0.1),
        table=pa.table({"media": media, "captions": lists}),
        digests={MEDIA.name: random.integers(0, 256, (num_items, DIGEST_BYTES), np.uint8)},
        frames={MEDIA.name: np.ones(num_items, np.int64)},
        fps=np.zeros(num_items),
        item=np.arange(num_items),
        chunk=np.zeros(num_items, np.int32),
        bucket=random.integers(0, NUM_BUCKETS, num_items).astype(np.int32),
        num_captions=np.ones(num_items, np.int64),
        problems=(),
    )
    return Catalog((data,), tuple((1 + 8 * i, 64, 64) for i in range(NUM_BUCKETS)))


def peak_gb() -> float:
    """Largest memory of this process so far, imports included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    """Run each part in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few items: shows that it runs, no figures to quote")
    num_items = NUM_ITEMS_QUICK if parser.parse_args().quick else NUM_ITEMS
    parts: tuple[Callable[[int], None], ...] = (measure_order, measure_plan, measure_workers, measure_known)
    for part in parts:
        process = multiprocessing.get_context("spawn").Process(target=part, args=(num_items,))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(process.exitcode)


if __name__ == "__main__":
    main()
