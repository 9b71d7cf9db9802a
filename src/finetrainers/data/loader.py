"""From the cache to batches with all their draws, in worker processes."""

import signal
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from finetrainers.batch import Batch, Control, Encoded, Posterior, Prompt, sample_generator, stack_text
from finetrainers.config import LoaderConfig
from finetrainers.data.cache.store import IMAGE, Cache
from finetrainers.data.frames import ShownFrames
from finetrainers.data.order.draws import uniform
from finetrainers.data.order.jobs import SampleJob
from finetrainers.data.order.order import Order
from finetrainers.data.order.plan import Plan
from finetrainers.errors import FinetrainersError
from finetrainers.objectives.base import Objective


def read_encoded(cache: Cache, job: SampleJob) -> Encoded:
    """Read the items of a sample.

    Raises:
        MissingItemError: If one is gone or damaged.
    """
    latents, metadata = cache.read("latents", job.latents.key)
    text, _ = cache.read("text", job.text.key)
    image = {name.removeprefix(IMAGE): tensor for name, tensor in latents.items() if name.startswith(IMAGE)}
    control = None if job.control is None else _posterior(cache.read("latents", job.control.key)[0])
    return Encoded(_posterior(latents), text, fps=float(metadata["fps"]), image=image, control=control)


def _posterior(item: Mapping[str, Tensor]) -> Posterior:
    return Posterior(item["mean"], item.get("std"))


@dataclass(frozen=True)
class Steps(Dataset[Batch]):
    """The batches of a run by optimizer step; anything drawn depends on the seed and the sample's position alone."""

    plan: Plan
    order: Order
    cache: Cache
    objective: Objective
    tokens: dict[tuple[int, int, int], int]
    """Tokens of one sample of each bucket."""
    padding: dict[tuple[int, int, int], int]
    """Latent frames that are put before those of a clip of each bucket."""
    shown: ShownFrames
    """Which frames of a control signal are shown, where there is one."""

    def __getitem__(self, step: int) -> Batch:
        return self._make(self.plan.step(self.order, step))

    def sample(self, step: int, row: int) -> Batch:
        """One sample of a step, alone: nothing of it is ever stacked with the others."""
        return self._make([self.plan.step(self.order, step)[row]])

    def _make(self, jobs: list[SampleJob]) -> Batch:
        return make_batch(
            jobs,
            [read_encoded(self.cache, job) for job in jobs],
            seed=self.plan.seed,
            objective=self.objective,
            tokens=self.tokens[jobs[0].bucket],
            padding=self.padding[jobs[0].bucket],
            shown=self.shown,
        )


def make_batch(
    jobs: list[SampleJob],
    samples: list[Encoded],
    *,
    seed: int,
    objective: Objective,
    tokens: int,
    padding: int,
    shown: ShownFrames,
) -> Batch:
    """Stack samples of one bucket and make their draws, on the CPU and in float32.

    Args:
        jobs: Of the samples.
        samples: As the cache has them.
        seed: Of all draws.
        objective: Says what is drawn.
        tokens: Of one sample.
        padding: Latent frames that are put before those of the clip.
        shown: Which frames of a control are shown.
    """
    positions = torch.tensor([job.position for job in jobs])
    generators = (sample_generator(seed, job.position, "posterior") for job in jobs)
    latents = torch.stack([draw_latents(s.latents, g, padding=padding) for s, g in zip(samples, generators, strict=True)])
    noise = [torch.randn(latents.shape[1:], generator=sample_generator(seed, job.position, "noise")) for job in jobs]
    frames = latents.shape[2]
    u = draw(objective.draws(frames), positions, seed=seed)
    sigma, counted = objective.sigma(u, frames=frames, tokens=tokens)
    return Batch(
        positions=positions,
        latents=latents,
        noise=torch.stack(noise),
        sigma=sigma,
        counted=counted,
        prompt=make_prompt(samples, given=objective.given(u, frames=frames)),
        control=make_control(samples, positions, seed=seed, shown=shown, frames=frames, padding=padding),
    )


def draw_latents(posterior: Posterior, generator: torch.Generator, *, padding: int) -> Tensor:
    """Draw latents [C, padding + F, H, W] that begin with copies of their first frame, as many as ``padding``."""
    latents = posterior.draw(generator)
    return torch.cat([latents[:, :1].expand(-1, padding, -1, -1), latents], dim=1) if padding else latents


def draw(purposes: Sequence[str], positions: Tensor, *, seed: int) -> Tensor:
    """Make uniform draws [B, n], one of each purpose for each position."""
    draws = [torch.from_numpy(uniform(seed, positions.numpy(), purpose)) for purpose in purposes]
    return torch.stack(draws, dim=1) if draws else torch.empty(len(positions), 0, dtype=torch.float64)


def make_control(
    samples: Sequence[Encoded], positions: Tensor, *, seed: int, shown: ShownFrames, frames: int, padding: int
) -> Control | None:
    """Stack the controls of samples and draw which frames are shown; None where there are none.

    Args:
        samples: With controls, or without.
        positions: [B], of the samples.
        seed: Of all draws.
        shown: Which frames are shown.
        frames: F, latent frames of a sample.
        padding: Those of them that are put before those of the clip: copies of its first one, which are shown as it is.
    """
    controls = [sample.control for sample in samples if sample.control is not None]
    if not controls:
        return None
    generators = (sample_generator(seed, int(position), "control posterior") for position in positions)
    drawn = (draw_latents(control, g, padding=padding) for control, g in zip(controls, generators, strict=True))
    available = torch.tensor([control.mean.shape[1] for control in controls])
    u = draw(shown.draws(frames - padding), positions, seed=seed)
    mask = shown.at(u, frames=frames - padding, available=available)
    return Control(torch.stack([fill_frames(latents, frames) for latents in drawn]), pad_shown(mask, padding))


def pad_shown(shown: Tensor, padding: int) -> Tensor:
    """Show copies of the first frame that are put before it, as many as ``padding``, where it is shown; [B, F]."""
    return torch.cat([shown[:, :1].expand(-1, padding), shown], dim=1)


def fill_frames(latents: Tensor, frames: int) -> Tensor:
    """Let latents [C, F', H, W] have F frames: zeros follow a shorter clip."""
    return functional.pad(latents, (0, 0, 0, 0, 0, frames - latents.shape[1]))


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
        worker_init_fn=_leave_signals_to_the_main_process,
    )
    for batch in loader:  # to close this generator drops the loader's iterator, which ends the workers
        if isinstance(batch, Exception):
            raise batch
        yield batch


@dataclass(frozen=True)
class _Told(Dataset[Batch | Exception]):
    """Hands over errors for users as they are: torch would put the traceback of its worker into their message."""

    steps: Steps

    def __getitem__(self, step: int) -> Batch | Exception:
        try:
            return self.steps[step]
        except (FinetrainersError, OSError) as error:
            return error


def _leave_signals_to_the_main_process(_worker: int) -> None:
    """Let the workers live while the run saves: job managers send their signals to all processes of a group."""
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
