"""Samples for prompts, and held-out loss. Neither changes anything that training depends on."""

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetrainers.batch import Batch, Text, sample_generator
from finetrainers.conditioning import GivenFrames
from finetrainers.data.cache.memory import AnyCache
from finetrainers.data.conditions import draw_both, draw_latents, make_media
from finetrainers.data.loader import make_prompt, read_encoded
from finetrainers.data.order.jobs import SampleJob
from finetrainers.data.streams import MEDIA
from finetrainers.errors import MissingItemError
from finetrainers.events import ProgressEvent, ValidationEvent
from finetrainers.events.record import plain
from finetrainers.files.steps import step_directory
from finetrainers.files.whole import to_json, whole_directory, write_whole
from finetrainers.objectives.base import losses_of
from finetrainers.sampling.sampler import Sampler
from finetrainers.training.prepared import Prepared
from finetrainers.training.session import Session
from finetrainers.training.trainer import Trainer
from finetrainers.training.validation.item_losses import FACTS_FILE, ITEMS, first_losses, item_facts, item_table, set_losses
from finetrainers.training.validation.pace import Pace
from finetrainers.training.windows import Misses, encode_for_validation

NUM_BINS = 4
"""Noise-level bins in which the held-out loss is reported."""
TELLING_SECONDS = 0.5
"""Between two events that say how far a validation is."""


@dataclass(frozen=True, slots=True)
class HeldOutLoss:
    """Loss on samples that training never sees, without ``objective.weighting``."""

    overall: float
    bins: dict[str, float]
    """Loss by noise level: "0.00-0.25" and so on."""
    num_samples: int


@dataclass(frozen=True, slots=True)
class Part:
    """What one copy of the weights has done of a validation."""

    losses: dict[int, Tensor] = field(default_factory=dict)
    """[levels] of held-out samples, by number."""
    items: dict[int, Tensor] = field(default_factory=dict)
    """[levels] of samples to train on, by number."""
    samples: dict[int, str] = field(default_factory=dict)
    """Names of files that were generated, by the number of the request."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Held-out samples at fixed noise and on a fixed grid of noise levels: two values differ only as the weights do."""

    jobs: Sequence[SampleJob]
    cache: AnyCache
    num_levels: int
    given_frames: GivenFrames
    has_own_noise: bool = True
    """Whether noise belongs to the sample; else it is the same for all, so that their losses can be compared."""

    def measure(self, trainer: Trainer) -> HeldOutLoss:
        """Mean loss over all samples and noise levels, in this process alone."""
        pace = Pace()
        return self.summary(trainer, [self._losses(trainer, job, pace) for job in self.jobs])

    def summary(self, trainer: Trainer, rows: Sequence[Tensor]) -> HeldOutLoss:
        """Mean of the losses of all samples, each [levels], in their order."""
        levels = self._levels(trainer)
        losses = torch.stack(list(rows)).double()  # [samples, levels]
        by_level = losses.mean(0)
        edges = torch.linspace(0, 1, NUM_BINS + 1)
        bins = {}
        for low, high in itertools.pairwise(edges):
            inside = (levels >= low) & (levels < high)
            if inside.any():
                bins[f"{low:.2f}-{high:.2f}"] = float(by_level[inside].mean())
        return HeldOutLoss(float(losses.mean()), bins, len(self.jobs))

    def _levels(self, trainer: Trainer) -> Tensor:
        low, high = trainer.objective.noise_range
        return low + (high - low) * (torch.arange(self.num_levels) + 0.5) / self.num_levels

    def _losses(self, trainer: Trainer, job: SampleJob, pace: Pace) -> Tensor:
        """Loss of one sample at each noise level, [levels]; one at a time, so that the batch size cannot change it."""
        sample = pace.read(partial(read_encoded, self.cache, job))
        # Draws belong to the item, not to its place in the list.
        content = int(job.target.key[:15], 16) if self.has_own_noise else 0
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
        for number, level in enumerate(self._levels(trainer).split(1)):
            pace.between()
            noise = torch.randn(latents.shape, generator=sample_generator(0, content, f"held-out noise {number}"))
            given = given_frames.at(level, u, frames=frames)
            prompt = make_prompt([sample], given=given.mask)
            batch = Batch(torch.tensor([number]), latents, noise, given.sigma, given.loss_mask, prompt, media)
            losses.append(losses_of(objective, trainer.predict, batch.to(trainer.device)).cpu())
        return torch.cat(losses)


class Validator:
    """Generates from the prompts and measures the held-out loss, where they are due."""

    def __init__(self, session: Session, prepared: Prepared) -> None:
        self._session, self._prepared = session, prepared
        self._directory = session.config.output_dir / "validation"
        grid = prepared.encoder.cache, session.config.validation.noise_levels, prepared.given_frames
        self._held_out = HeldOut(prepared.held_out, *grid) if prepared.held_out else None
        self._items = HeldOut(prepared.items, *grid, has_own_noise=False) if prepared.items else None

    def __call__(self, trainer: Trainer, metrics: object = None) -> None:
        """Validate at step 0, every so many steps and at the last; once each, also if the run was interrupted."""
        config = self._session.config
        is_due = config.validation.is_due(trainer.step, last=config.train.steps)
        directory = step_directory(self._directory, trainer.step)
        if (
            is_due
            and (self._prepared.requests or self._prepared.measured)
            and not self._session.world.first(directory.exists)
        ):
            with self._session.memory("validating"):
                self.validate(trainer, directory)

    def validate(self, trainer: Trainer, directory: Path) -> None:
        """Generate and measure with the weights that would be exported now; all processes of the run share the work.

        Raises:
            DataError: If what is read is gone from the cache again and again.
        """
        world, began = self._session.world, time.perf_counter()
        self._prepared.encoder.by_owners(lambda: encode_for_validation(self._prepared))
        with ExitStack() as stack:
            temporary = world.first(lambda: stack.enter_context(whole_directory(directory)))
            own = Part()
            with world.apart() as place:
                own = self._part(trainer, temporary, Pace(self._session, place))
            parts = world.talk.gather(own if world.is_first_of_replica else Part())
            fields = world.first(lambda: self._record(trainer, temporary, parts))
            world.first(stack.close)  # which gives the directory its name
        seconds = time.perf_counter() - began
        self._session.emit(ValidationEvent(**fields, directory=str(directory), seconds=seconds))
        if self._session.page is not None:
            self._session.page.refresh()

    def _part(self, trainer: Trainer, directory: Path, pace: Pace) -> Part:
        """Do what is this process's to do, and again if the cache has lost something of it meanwhile."""
        misses = Misses()
        while True:
            try:
                with eval_weights(trainer), torch.no_grad(), trainer.attention_in_validation():
                    losses = self._measure(self._held_out, trainer, pace, stage="held-out loss")
                    items = self._measure(self._items, trainer, pace, stage="item losses")
                    return Part(losses, items, self._draw(trainer, directory, pace))
            except MissingItemError as miss:
                misses.add(miss, trainer.step)
                with pace.owners(self._prepared.encoder.cache):
                    encode_for_validation(self._prepared, has_failed=True)

    def _record(self, trainer: Trainer, directory: Path, parts: Sequence[Part]) -> dict[str, Any]:
        """Put together what all processes have done; write it down, and return the fields of the event."""
        fields: dict[str, Any] = {"step": trainer.step}
        prepared, requests, facts = self._prepared, self._prepared.requests, {}
        if self._held_out is not None and prepared.held_out_plan is not None:
            rows = {number: row for part in parts for number, row in part.losses.items()}
            loss = self._held_out.summary(trainer, [rows[number] for number in sorted(rows)])
            fields |= {"held_out_loss": loss.overall, "held_out_bins": loss.bins, "held_out_samples": loss.num_samples}
            fields["held_out_levels"] = self._session.config.validation.noise_levels
            paths = [data.config.path for data in prepared.held_out_plan.catalog.sets]
            sets = set_losses(paths, prepared.held_out_sets, rows)
            fields |= {} if sets is None else {"held_out_sets": sets}
        if self._items is not None:
            items = item_facts(prepared.items, {number: row for part in parts for number, row in part.items.items()})
            fields["items"] = item_table(items, first_losses(self._directory, trainer.step))
            facts = {ITEMS: items}
        if requests:
            names = {number: name for part in parts for number, name in part.samples.items()}
            fields["samples"] = [names[number] for number in sorted(names)]
        facts |= plain(fields) | {"prompts": [asdict(request) for request in requests]}
        write_whole(directory / FACTS_FILE, to_json(facts, indent=1))
        return fields

    def _measure(self, held_out: HeldOut | None, trainer: Trainer, pace: Pace, *, stage: str) -> dict[int, Tensor]:
        """Measure this copy's share of some samples: losses [levels] by number."""
        if held_out is None:
            return {}
        jobs, own = held_out.jobs, self._session.world.replica_rows(len(held_out.jobs))
        return {number: held_out._losses(trainer, jobs[number], pace) for number in self._telling(stage, own)}

    def _telling(self, stage: str, numbers: Sequence[int]) -> Iterator[int]:
        """Go through what this process has to do; the first of them tells how far it is with its own."""
        last = -math.inf
        for done, number in enumerate([*numbers, None] if numbers else []):
            now = time.monotonic()
            if self._session.world.is_first and (number is None or now - last >= TELLING_SECONDS):
                self._session.emit(ProgressEvent(stage=stage, done=done, total=len(numbers)))
                last = now
            if number is not None:
                yield number

    def _draw(self, trainer: Trainer, directory: Path, pace: Pace) -> dict[int, str]:
        """Generate this copy's share of the requests; return the names of the files by number."""
        model, world, requests = self._prepared.model, self._session.world, self._prepared.requests
        own = world.replica_rows(len(requests))
        if not own:
            return {}
        names, data = {}, self._session.config.data[0]
        with self._prepared.encoder.residency.drawing() as parts:
            sampler = Sampler(model, parts, trainer.device, trainer.conditioning, data, interrupt=pace.within)
            for number in self._telling("generate samples", own):
                pace.between()
                text = partial(self._text, pace, picture=requests[number].image)
                frames = sampler.frames(requests[number], text, with_control=True)
                if world.is_first_of_replica:
                    names[number] = sampler.write(frames, requests[number], directory / f"{number:02d}").name
        return names

    def _text(self, pace: Pace, caption: str, picture: str | None) -> Text:
        prepared = self._prepared
        key = prepared.plan.text_job(caption, picture).key
        tensors, _ = pace.read(lambda: prepared.encoder.cache.read("text", key))
        return {name: tensor[None] for name, tensor in tensors.items()}


@contextmanager
def eval_weights(trainer: Trainer) -> Iterator[None]:
    """Put the weights that are exported (averaged ones, if there are) into the denoiser, in evaluation mode."""
    with trainer.update.in_use():
        trainer.denoiser.eval()
        try:
            yield
        finally:
            trainer.denoiser.train()
