"""Pixels for the encoders: batches of one shape, decoded ahead by a few threads."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import PIL.Image
from torch import Tensor

from finetrainers.config import CacheConfig
from finetrainers.data.media.files import decode, why_unreadable
from finetrainers.data.media.signals import Signal
from finetrainers.data.media.view import Clip
from finetrainers.data.order.jobs import Failure, LatentsJob, TextJob
from finetrainers.errors import ConfigError, DataError

T = TypeVar("T")
Result = TypeVar("Result")
Take = Callable[[Sequence[T]], list[T]]
"""Chooses of a batch what this process is to do, as soon as the batch is its turn."""

DECODED_BATCHES_AHEAD = 2
"""Batches of decoded pixels that wait for the encoder: bounds the memory."""
JOBS_AT_ONCE = 4096
"""Media whose jobs are made and sorted by shape in one go: bounds the memory."""


def decoded(
    jobs: Sequence[LatentsJob], config: CacheConfig, take: Take[LatentsJob], *, largest_first: bool = False
) -> Iterator[tuple[list[LatentsJob], list[Clip | Failure]]]:
    """Yield batches of one size, role and encoder and their pixels, decoded ahead; ``take`` says what of each is wanted."""
    blocks = (sorted(block, key=_shape, reverse=largest_first) for block in in_batches(jobs, JOBS_AT_ONCE))
    by_shape = (list(group) for block in blocks for _, group in itertools.groupby(block, key=_shape))
    batches = (batch for group in by_shape for batch in in_batches(group, config.batch_size))
    return ahead(taken(batches, take), _decode, config)


def looked_at(
    jobs: Sequence[TextJob], config: CacheConfig, take: Take[TextJob]
) -> Iterator[tuple[list[TextJob], list[PIL.Image.Image | Failure | None]]]:
    """Yield batches of captions with the images that the text encoder sees beside them, as ``decoded`` does."""
    return ahead(taken(in_batches(jobs, config.batch_size), take), look, config)


def taken(batches: Iterator[list[T]], take: Take[T]) -> Iterator[list[T]]:
    """Choose of batches what is wanted, one batch after the other as they are asked for."""
    return (chosen for batch in batches if (chosen := take(batch)))


def ahead(
    batches: Iterator[list[T]], do: Callable[[T], Result], config: CacheConfig
) -> Iterator[tuple[list[T], list[Result]]]:
    """Yield batches with what is made of their items, ahead and by a few threads: FFmpeg and Pillow release the GIL."""
    with ThreadPoolExecutor(max(1, config.workers)) as pool:
        waiting: list[tuple[list[T], list[Future[Result]]]] = []
        for batch in batches:
            waiting.append((batch, [pool.submit(do, item) for item in batch]))
            if len(waiting) > DECODED_BATCHES_AHEAD:
                ready, futures = waiting.pop(0)
                yield ready, [future.result() for future in futures]
        for ready, futures in waiting:
            yield ready, [future.result() for future in futures]


def _shape(job: LatentsJob) -> tuple[bool, bool, int, int, int]:
    """What the jobs of one batch share."""
    stream, view = job.stream, job.view
    return stream.role == "condition", stream.encoder == "none", view.num_frames, view.height, view.width


def clip_of(job: LatentsJob) -> Clip | Failure:
    """Decode what an item is made of, or say why that cannot be done."""
    try:
        return decode(job.path, job.view)
    except DataError as error:
        return Failure.of(job, str(error).removeprefix(f"{job.path}: "))
    except OSError as error:
        return Failure.of(job, why_unreadable(error))


def _decode(job: LatentsJob) -> Clip | Failure:
    clip = clip_of(job)
    if isinstance(clip, Failure):
        return clip
    return replace(clip, pixels=_apply(job.stream.transform, clip, job.path))


def _apply(signal: Signal, clip: Clip, path: str) -> Tensor:
    """Compute a signal; its failure is the function's, and no fault of the file.

    Raises:
        ConfigError: If it fails.
    """
    try:
        return signal(clip.pixels)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{signal.setting}: {signal.name} failed on {path}: {type(error).__name__}: {error}; fix the function"
        ) from error


def look(job: TextJob) -> PIL.Image.Image | Failure | None:
    """Return the image that the text encoder sees beside a caption."""
    if isinstance(job.seen, LatentsJob):
        clip = _decode(job.seen)
        return clip if isinstance(clip, Failure) else PIL.Image.fromarray(clip.pixels[0].numpy())
    return None if job.seen is None else PIL.Image.open(job.seen.path).convert("RGB")


def in_batches(items: Sequence[T], size: int) -> Iterator[list[T]]:
    """Cut items into batches of a size; the last may be smaller."""
    return (list(items[start : start + size]) for start in range(0, len(items), size))
