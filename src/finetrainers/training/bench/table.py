"""Figures as text."""

import textwrap
from collections.abc import Iterator, Sequence

from finetrainers.training.bench.figures import BucketFigures, Comparison, Memory, Result

GIB = 2**30
REASON_WIDTH = 160
HEADINGS = ("bucket", "s/step", "data", "forward", "backward", "update", "first", "samples/s", "tokens/s", "TFLOP", "share")
ON_GPU, ON_CPU = ("allocated", "reserved"), ("process",)


def result_table(result: Result) -> str:
    """Print a row for each bucket, with the circumstances above."""
    return "\n".join([*circumstances(result), "", *aligned([_headings(result), *map(_row, result.buckets)])])


def comparison_table(comparison: Comparison) -> str:
    """Print a row for each set and bucket, and the reason of each set that did not run."""
    done = [own.result for own in comparison.sets if own.result is not None]
    width = max(len(own.name) for own in comparison.sets)
    rows = [("set", *_headings(done[0]))] if done else []
    rows += [(own.name, *_row(bucket)) for own in comparison.sets if own.result for bucket in own.result.buckets]
    failed = [f"{own.name:<{width}}  did not run: {_short(own.reason)}" for own in comparison.sets if own.reason is not None]
    above = [*circumstances(done[0]), ""] if done else []
    return "\n".join([*above, *aligned(rows), *failed])


def _short(reason: str) -> str:
    """One line of a message of several; the JSON has all of it."""
    return textwrap.shorten(reason, REASON_WIDTH, placeholder=" ...")


def circumstances(result: Result) -> list[str]:
    """Say of what and on what the figures are."""
    product, train = result.product, result.config["train"]
    return [
        f"{result.family} ({result.config['model']['path']}), {result.weights} weights, {result.num_trained:,} trained, "
        f"batch {train['batch_size']} in {train['micro_batch_size']}",
        f"{result.device}: {product.tflops:.4g} TFLOP/s in a {product.dtype} product of {product.size}; medians of "
        f"{result.steps} steps, memory in GiB",
    ]


def _headings(result: Result) -> tuple[str, ...]:
    return (*HEADINGS, *(ON_CPU if result.buckets[0].memory.allocated is None else ON_GPU))


def _row(own: BucketFigures) -> tuple[str, ...]:
    seconds = own.seconds
    times = (seconds.step, seconds.data, seconds.forward, seconds.backward, seconds.update, seconds.first_step)
    rates = f"{own.samples_per_second:.4g}", f"{own.tokens_per_second:.0f}", f"{own.tflop:.4g}", f"{own.share:.1%}"
    return ("x".join(map(str, own.bucket)), *(f"{time:.4f}" for time in times), *rates, *_memory(own.memory))


def _memory(own: Memory) -> tuple[str, ...]:
    if own.allocated is None or own.reserved is None:
        return (gib(own.process),)
    return gib(own.allocated), gib(own.reserved)


def gib(num_bytes: int | None) -> str:
    """Write bytes as GiB; a dash where nobody knows how many."""
    return "-" if num_bytes is None else f"{num_bytes / GIB:.2f}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of equal width: the first to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(_cells(row, widths)).rstrip() for row in rows]


def _cells(row: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    for index, (cell, width) in enumerate(zip(row, widths, strict=True)):
        yield cell.ljust(width) if index == 0 else cell.rjust(width)
