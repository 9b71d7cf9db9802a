"""Samples for prompts, and held-out loss. Neither changes anything that training depends on."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetrainers.batch import Batch, Text, sample_generator
from finetrainers.conditioning import GivenFrames
from finetrainers.data.cache.store import Cache
from finetrainers.data.conditions import draw_both, draw_latents, make_media
from finetrainers.data.loader import make_prompt, read_encoded
from finetrainers.data.order.jobs import SampleJob
from finetrainers.data.streams import MEDIA
from finetrainers.errors import MissingItemError
from finetrainers.files.steps import step_directory
from finetrainers.files.whole import to_json, whole_directory, write_whole
from finetrainers.objectives.base import losses_of
from finetrainers.sampling.sampler import Sampler
from finetrainers.training.prepared import Prepared
from finetrainers.training.session import Session
from finetrainers.training.trainer import Trainer
from finetrainers.training.windows import Misses, encode_for_validation

NUM_BINS = 4
"""Noise-level bins in which the held-out loss is reported."""


@dataclass(frozen=True, slots=True)
class HeldOutLoss:
    """Unweighted loss on samples that training never sees."""

    overall: float
    bins: dict[str, float]
    """Loss by noise level: "0.00-0.25" and so on."""
    num_samples: int


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Held-out samples at fixed noise and on a fixed grid of noise levels: two values differ only as the weights do."""

    jobs: Sequence[SampleJob]
    cache: Cache
    num_levels: int
    given_frames: GivenFrames

    def measure(self, trainer: Trainer, interrupt: Callable[[], None] = lambda: None) -> HeldOutLoss:
        """Mean loss over all samples and noise levels; ``interrupt`` is called before each of them and may raise."""
        low, high = trainer.objective.noise_range
        levels = low + (high - low) * (torch.arange(self.num_levels) + 0.5) / self.num_levels
        rows = [self._losses(trainer, job, levels, interrupt) for job in self.jobs]
        losses = torch.stack(rows).double()  # [samples, levels]
        by_level = losses.mean(0)
        edges = torch.linspace(0, 1, NUM_BINS + 1)
        bins = {}
        for low, high in itertools.pairwise(edges):
            inside = (levels >= low) & (levels < high)
            if inside.any():
                bins[f"{low:.2f}-{high:.2f}"] = float(by_level[inside].mean())
        return HeldOutLoss(float(losses.mean()), bins, len(self.jobs))

    def _losses(self, trainer: Trainer, job: SampleJob, levels: Tensor, interrupt: Callable[[], None]) -> Tensor:
        """Loss of one sample at each noise level, [levels]; one at a time, so that the batch size cannot change it."""
        sample = read_encoded(self.cache, job)
        content = int(job.target.key[:15], 16)  # draws belong to the item, not to its place in the list
        padding = trainer.adapter.grid.num_padding_frames(job.bucket[0])
        latents = draw_latents(
            sample.media[MEDIA.name], sample_generator(0, content, "held-out posterior"), padding=padding
        )[None]
        frames, place = latents.shape[2], torch.tensor([content])
        objective, given_frames = trainer.objective.measured(), self.given_frames.measured()
        u = draw_both(given_frames.draws(frames), given_frames.step_draws, place, step=content, seed=0)
        selections = {name: replace(own, dropout=0.0) for name, own in trainer.conditioning.frames.items()}
        media = make_media([sample], place, seed=0, step=content, selections=selections, frames=frames, padding=padding)
        losses = []
        for number, level in enumerate(levels.split(1)):
            interrupt()
            noise = torch.randn(latents.shape, generator=sample_generator(0, content, f"held-out noise {number}"))
            given = given_frames.at(level, u, frames=frames)
            prompt = make_prompt([sample], given=given.mask)
            batch = Batch(torch.tensor([number]), latents, noise, given.sigma, given.loss_mask, prompt, media)
            losses.append(losses_of(objective, trainer.predict, batch.to(trainer.device)).cpu())
        return torch.cat(losses)


class Validator:
    """Draws the prompts and measures the held-out loss, where they are due."""

    def __init__(self, session: Session, prepared: Prepared) -> None:
        self._session, self._prepared = session, prepared
        self._directory = session.config.output_dir / "validation"
        self._held_out: HeldOut | None = None
        if prepared.held_out:
            cache = prepared.encoder.cache
            levels = session.config.validation.noise_levels
            self._held_out = HeldOut(prepared.held_out, cache, levels, prepared.given_frames)

    def __call__(self, trainer: Trainer, metrics: object = None) -> None:
        """Validate at step 0, every so many steps and at the last; once each, also if the run was interrupted."""
        config = self._session.config
        every = config.validation.every
        is_due = trainer.step in (0, config.train.steps) or (every is not None and trainer.step % every == 0)
        directory = step_directory(self._directory, trainer.step)
        if is_due and (self._prepared.requests or self._held_out) and not directory.exists():
            with self._session.memory("validating"):
                self._session.world.first(lambda: self.validate(trainer, directory))

    def validate(self, trainer: Trainer, directory: Path) -> None:
        """Draw and measure with the weights that would be exported now.

        Raises:
            DataError: If what is read is gone from the cache again and again.
        """
        encode_for_validation(self._prepared)
        misses = Misses()
        while True:
            try:
                self._validate(trainer, directory)
            except MissingItemError as miss:
                misses.add(miss, trainer.step)
                encode_for_validation(self._prepared, has_failed=True)
            else:
                return

    def _validate(self, trainer: Trainer, directory: Path) -> None:
        fields: dict[str, Any] = {"step": trainer.step}
        requests, attention = self._prepared.requests, trainer.attention_in_validation()
        with whole_directory(directory) as temporary, eval_weights(trainer), torch.no_grad(), attention:
            if self._held_out is not None:
                loss = self._held_out.measure(trainer, self._interrupt)
                fields |= {"held_out_loss": loss.overall, "held_out_bins": loss.bins, "held_out_samples": loss.num_samples}
            if requests:
                fields["samples"] = [file.name for file in self._draw(trainer, temporary)]
            write_whole(
                temporary / "validation.json",
                to_json({**fields, "prompts": [asdict(request) for request in requests]}, indent=1),
            )
        self._session.emit("validation", **fields, directory=str(directory))

    def _draw(self, trainer: Trainer, directory: Path) -> list[Path]:
        model, device, data = self._prepared.model, trainer.device, self._session.config.data[0]
        files = []
        with self._prepared.encoder.residency.drawing() as parts:
            sampler = Sampler(model, parts, device, trainer.conditioning, data, interrupt=self._interrupt)
            for number, request in enumerate(self._prepared.requests):
                self._interrupt()
                text = partial(self._text, picture=request.image)
                files.append(sampler.draw(request, text, directory / f"{number:02d}", with_control=True))
        return files

    def _text(self, caption: str, picture: str | None) -> Text:
        prepared = self._prepared
        tensors, _ = prepared.encoder.cache.read("text", prepared.plan.text_job(caption, picture).key)
        return {name: tensor[None] for name, tensor in tensors.items()}

    def _interrupt(self) -> None:
        """Stop here if a signal has come: called before each forward pass, and within the draw of a sample."""
        self._session.signals.raise_if_received("validating")


@contextmanager
def eval_weights(trainer: Trainer) -> Iterator[None]:
    """Put the weights that are exported (averaged ones, if there are) into the denoiser, in evaluation mode."""
    with trainer.update.in_use():
        trainer.denoiser.eval()
        try:
            yield
        finally:
            trainer.denoiser.train()
