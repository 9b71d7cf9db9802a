"""Planning the order of ten million items: target < 10 s and < 1 GB.

A metadata file's worth of items in 20 buckets is assigned, grouped and ordered; then steps at the start, in the middle
and in a later epoch are asked for. The peak is that of the process, imports included.
"""

import resource
import time

import numpy as np

from finetrainers.data.buckets import assign_buckets
from finetrainers.data.order import Group, Order

NUM_ITEMS = 10_000_000
BATCH_SIZE = 64


def main() -> None:
    """Print seconds and peak memory."""
    random = np.random.default_rng(0)
    frames = random.integers(1, 200, NUM_ITEMS)
    height = random.integers(256, 1080, NUM_ITEMS)
    width = random.integers(256, 1920, NUM_ITEMS)
    buckets = tuple((f, 256 + 64 * i, 512 - 32 * i) for f in (1, 17, 33, 49) for i in range(5))
    start, cpu = time.perf_counter(), time.process_time()
    choice = assign_buckets(frames, height, width, buckets=buckets, max_upscale=4.0)
    assigned = time.perf_counter()
    groups = [Group(bucket, np.flatnonzero(choice == bucket), 1.0) for bucket in range(len(buckets))]
    order = Order(0, BATCH_SIZE, groups)
    for step in (0, 1, 100, order.first_step(1) // 2, order.first_step(1) + 10):
        order.step(step)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(
        f"{NUM_ITEMS} items, {len(buckets)} buckets: {seconds:.2f} s ({cpu_seconds:.2f} s CPU; "
        f"buckets {assigned - start:.2f} s), peak {peak:.2f} GB"
    )


if __name__ == "__main__":
    main()
