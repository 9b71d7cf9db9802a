"""From the cache to batches with all their draws, in worker processes."""

import gc
import signal
import sys
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter  # there is no public way to end its workers

from finetrainers.batch import Batch, Encoded, Posterior, Prompt, sample_generator, stack_text
from finetrainers.config import LoaderConfig
from finetrainers.config.user_code import user_code_errors
from finetrainers.data.cache.item import Item
from finetrainers.data.cache.memory import AnyCache
from finetrainers.data.cache.store import IMAGE, Kind
from finetrainers.data.conditions import Draws, Gives, draw_both, draw_latents, make_media
from finetrainers.data.frames import FrameSelection
from finetrainers.data.order.jobs import SampleJob
from finetrainers.data.order.order import Order
from finetrainers.data.order.plan import Plan
from finetrainers.data.streams import MEDIA, Stream
from finetrainers.errors import FinetrainersError

WORKER_CONTEXT = "fork" if sys.platform == "linux" else None
"""How workers are started: forked ones share the catalog, which others would copy: 1.6 GB each at ten million items."""


def read_encoded(cache: AnyCache, job: SampleJob) -> Encoded:
    """Read the items of a sample.

    Raises:
        MissingItemError: If one is gone or damaged.
    """
    return read_samples(cache, [job])[0]


def read_samples(cache: AnyCache, jobs: Sequence[SampleJob]) -> list[Encoded]:
    """As ``read_encoded``, of several samples; what they share is read once."""
    items = list(dict.fromkeys(item for job in jobs for item in job.items))
    read = dict(zip(items, cache.read_all(items), strict=True))
    return [_encoded(job, read) for job in jobs]


def _encoded(job: SampleJob, read: Mapping[tuple[Kind, str], Item]) -> Encoded:
    latents, metadata = read["latents", job.target.key]
    text, _ = read["text", job.text.key]
    image = {name.removeprefix(IMAGE): tensor for name, tensor in latents.items() if name.startswith(IMAGE)}
    media = {name: _posterior(read["latents", item.key][0], item.stream) for name, item in job.media.items()}
    return Encoded(media, text, fps=float(metadata["fps"]), image=image)


def _posterior(item: Mapping[str, Tensor], stream: Stream) -> Posterior:
    return Posterior(item["mean"], item.get("std") if stream.samples_posterior else None)


@dataclass(frozen=True)
class Steps(Dataset[Batch]):
    """The batches of a run by optimizer step; anything drawn depends on the seed, and the sample's position or its step."""

    plan: Plan
    order: Order
    cache: AnyCache
    objective: Draws
    given_frames: Gives
    tokens: dict[tuple[int, int, int], int]
    """Tokens of one sample of each bucket."""
    padding: dict[tuple[int, int, int], int]
    """Latent frames that are put before those of a clip of each bucket."""
    selections: Mapping[str, FrameSelection]
    """Which frames of a stream are shown, by its name."""
    rows: slice = field(default_factory=lambda: slice(None))
    """Samples of each step that are read here; other processes read the others."""

    def __getitem__(self, step: int) -> Batch:
        return self._make(self.plan.step(self.order, step)[self.rows], step)

    def sample(self, step: int, row: int) -> Batch:
        """One sample of a step, alone: nothing of it is ever stacked with the others."""
        return self._make([self.plan.step(self.order, step)[row]], step)

    def _make(self, jobs: list[SampleJob], step: int) -> Batch:
        return make_batch(
            [job.position for job in jobs],
            read_samples(self.cache, jobs),
            seed=self.plan.seed,
            step=step,
            objective=self.objective,
            given_frames=self.given_frames,
            tokens=self.tokens[jobs[0].bucket],
            padding=self.padding[jobs[0].bucket],
            selections=self.selections,
            weights=[job.weight for job in jobs],
        )


def make_batch(
    positions: Sequence[int],
    samples: Sequence[Encoded],
    *,
    seed: int,
    step: int,
    objective: Draws,
    given_frames: Gives,
    tokens: int,
    padding: int,
    selections: Mapping[str, FrameSelection],
    weights: Sequence[float] = (),
) -> Batch:
    """Stack samples of one bucket and make their draws, on the CPU and in float32.

    Args:
        positions: Of the samples: the n of "the n-th sample that training sees".
        samples: As the cache has them.
        seed: Of all draws.
        step: Optimizer step of the samples, counted from 0: what decides how often the denoiser is called, and with how many
            tokens, is drawn for all of them.
        objective: Says at which noise levels.
        given_frames: Says which frames are given.
        tokens: Of one sample.
        padding: Latent frames that are put before those of the clip.
        selections: Which frames of a stream are shown, by its name.
        weights: What the loss of each sample counts; 1 by default.
    """
    generators = (sample_generator(seed, position, "posterior") for position in positions)
    latents = torch.stack(
        [draw_latents(s.media[MEDIA.name], g, padding=padding) for s, g in zip(samples, generators, strict=True)]
    )
    noise = [torch.randn(latents.shape[1:], generator=sample_generator(seed, position, "noise")) for position in positions]
    frames, places = latents.shape[2], torch.tensor(positions)
    drawn = partial(draw_both, positions=places, step=step, seed=seed)
    level = objective.sigma(drawn(objective.draws, objective.step_draws), tokens=tokens)
    given = given_frames.at(level, drawn(given_frames.draws(frames), given_frames.step_draws), frames=frames)
    return Batch(
        positions=places,
        latents=latents,
        noise=torch.stack(noise),
        sigma=given.sigma,
        loss_mask=given.loss_mask,
        prompt=make_prompt(samples, given=given.mask),
        media=make_media(samples, places, seed=seed, step=step, selections=selections, frames=frames, padding=padding),
        weight=torch.tensor(weights) if any(weight != 1 for weight in weights) else None,
    )


def make_prompt(samples: Sequence[Encoded], *, given: Tensor | None = None) -> Prompt:
    """Stack what the denoiser is told of each sample."""
    return Prompt(
        text=stack_text([sample.text for sample in samples]),
        fps=torch.tensor([sample.fps for sample in samples]),
        image=stack_text([sample.image for sample in samples]),
        given=given,
    )


def load_steps(steps: Steps, config: LoaderConfig, *, start: int, stop: int, pin: bool) -> Generator[Batch]:
    """Yield the batches of the optimizer steps from ``start`` to ``stop``, in order, prepared ahead by workers.

    Close it if it is not used up: its workers ignore signals, and a process that ends with an error would wait for them.
    When reading fails they end by themselves.

    Raises:
        MissingItemError: If the cache lacks an item of the next batch.
    """
    loader = DataLoader(
        _Told(steps),
        batch_size=None,
        sampler=range(start, stop),
        num_workers=min(config.workers, stop - start),
        prefetch_factor=config.prefetch if config.workers and stop > start else None,
        pin_memory=pin,
        worker_init_fn=start_worker,
        multiprocessing_context=WORKER_CONTEXT if config.workers and stop > start else None,
    )
    batches = iter(loader)
    try:
        for batch in batches:
            if isinstance(batch, Exception):
                raise batch
            yield batch
    finally:  # not left to the iterator's end: the traceback of an error that it raises itself holds it
        if isinstance(batches, _MultiProcessingDataLoaderIter):
            batches._shutdown_workers()


@dataclass(frozen=True)
class _Told(Dataset[Batch | Exception]):
    """Hands over errors for users as they are: torch would put the traceback of its worker into their message."""

    steps: Steps

    def __getitem__(self, step: int) -> Batch | Exception:
        try:
            with user_code_errors():  # an objective may draw noise levels by code of the user's
                return self.steps[step]
        except (FinetrainersError, OSError) as error:
            return error


def start_worker(_worker: int) -> None:
    """Let a worker live while the run saves: job managers send their signals to all processes of a group.

    What it was born with is never collected: to look at it would copy the pages of all Python objects, 170 MB a worker.
    """
    gc.freeze()
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
