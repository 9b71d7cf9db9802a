"""Samples for prompts, and held-out loss. Neither changes anything that training depends on."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetrainers.batch import Batch, Text, sample_generator
from finetrainers.config import DataConfig
from finetrainers.data.cache.store import Cache
from finetrainers.data.conditions import draw, draw_latents, make_condition
from finetrainers.data.loader import make_prompt, read_encoded
from finetrainers.data.order.jobs import SampleJob, TextJob
from finetrainers.data.order.plan import Plan
from finetrainers.data.streams import MEDIA
from finetrainers.encoding.encoder import free_memory
from finetrainers.errors import DataError, MissingItemError
from finetrainers.files.whole import to_json, whole_directory, write_whole
from finetrainers.models import Model, Request
from finetrainers.models.vae import load_vae
from finetrainers.optim.optimizers import weights_for_use
from finetrainers.sampling.sampler import Sampler
from finetrainers.training.trainer import Trainer

MISSES_IN_A_ROW = 3
"""Times that the same items may be gone from the cache when they are read: then encoding them again is of no use."""
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

    def measure(self, trainer: Trainer, interrupt: Callable[[], None] = lambda: None) -> HeldOutLoss:
        """Mean loss over all samples and noise levels; ``interrupt`` is called before each of them and may raise."""
        low, high = trainer.objective.noise_levels.between
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
        padding = trainer.adapter.grid.num_padding(job.bucket[0])
        latents = draw_latents(
            sample.media[MEDIA.name], sample_generator(0, content, "held-out posterior"), padding=padding
        )[None]
        frames, place = latents.shape[2], torch.tensor([content])
        u = draw(trainer.objective.draws(frames), place, seed=0)
        shown = replace(trainer.conditioning.shown, dropout=0.0)
        control = make_condition([sample], place, seed=0, shown=shown, frames=frames, padding=padding)
        losses = []
        for number, level in enumerate(levels):
            interrupt()
            noise = torch.randn(latents.shape, generator=sample_generator(0, content, f"held-out noise {number}"))
            sigma, counted, given = trainer.objective.at_level(level, u, frames=frames)
            prompt = make_prompt([sample], given=given)
            batch = Batch(torch.tensor([number]), latents, noise, sigma, counted, prompt, control).to(trainer.device)
            noised = trainer.objective.corrupt(batch.latents, batch.noise, sigma=batch.sigma, counted=batch.counted)
            error = trainer.predict(noised, batch).float() - noised.target
            counts = noised.counted[:, None, :, None, None].expand_as(error)
            losses.append((error.square() * counts).sum().div(counts.sum()).cpu())
        return torch.stack(losses)


@dataclass(kw_only=True)
class Validator:
    """Draws the prompts and measures the held-out loss, where they are due."""

    directory: Path
    """Receives step-000500/ and so on."""
    model: Model
    cache: Cache
    plan: Plan
    requests: Sequence[Request]
    held_out: HeldOut | None
    every: int | None
    last_step: int
    emit: Callable[..., None]
    """Called with an event's name and its fields."""
    attention: Callable[[], AbstractContextManager[None]] = nullcontext
    interrupt: Callable[[], None] = lambda: None
    """Called before each forward pass, and within the draw of a sample; raises where the run is to stop."""
    vae_tiling: bool = False
    vae_slicing: bool = False
    data: DataConfig | None = None
    """How the controls of prompts are read: as this data set is."""
    encode: Callable[..., None] = lambda **_: None
    """Encodes what the cache has lost of what is read here; with ``has_failed=True`` what is damaged as well."""

    def __call__(self, trainer: Trainer, metrics: object = None) -> None:
        """Validate at step 0, every so many steps and at the last; once each, also if the run was interrupted."""
        is_due = trainer.step in (0, self.last_step) or (self.every is not None and trainer.step % self.every == 0)
        directory = self.directory / f"step-{trainer.step:06d}"
        if is_due and (self.requests or self.held_out) and not directory.exists():
            self.validate(trainer, directory)

    def validate(self, trainer: Trainer, directory: Path) -> None:
        """Draw and measure with the weights that would be exported now.

        Raises:
            DataError: If what is read is gone from the cache again and again.
        """
        self.encode()
        for attempt in itertools.count(1):
            try:
                self._validate(trainer, directory)
            except MissingItemError as miss:
                if attempt == MISSES_IN_A_ROW:
                    raise DataError(str(miss)) from miss
                self.encode(has_failed=True)
            else:
                return

    def _validate(self, trainer: Trainer, directory: Path) -> None:
        fields: dict[str, Any] = {"step": trainer.step}
        with whole_directory(directory) as temporary, weights_in_use(trainer), torch.no_grad(), self.attention():
            if self.held_out is not None:
                loss = self.held_out.measure(trainer, self.interrupt)
                fields |= {"held_out_loss": loss.overall, "held_out_bins": loss.bins, "held_out_samples": loss.num_samples}
            if self.requests:
                fields["samples"] = [file.name for file in self._draw(trainer, temporary)]
            write_whole(
                temporary / "validation.json",
                to_json({**fields, "prompts": [asdict(r) for r in self.requests]}, indent=1),
            )
        self.emit("validation", **fields, directory=str(directory))

    def _draw(self, trainer: Trainer, directory: Path) -> list[Path]:
        pretrained, options = self.model.pretrained, {"has_tiling": self.vae_tiling, "has_slicing": self.vae_slicing}
        vae = load_vae(pretrained, trainer.device, **options)
        parts = self.model.denoisers.split(trainer.denoiser)
        parts |= {name: pretrained.load(name).to(trainer.device) for name in self.model.denoisers.others}
        with trainer.autocast():
            drawing, own = {**parts, "vae": vae}, trainer.conditioning
            sampler = Sampler(self.model, drawing, trainer.device, own, self.data, interrupt=self.interrupt)
            files = []
            for number, request in enumerate(self.requests):
                self.interrupt()
                text = partial(self._text, picture=request.image)
                files.append(sampler.draw(request, text, directory / f"{number:02d}", with_control=True))
        del vae, sampler, parts
        free_memory()
        return files

    def _text(self, caption: str, picture: str | None) -> Text:
        tensors, _ = self.cache.read("text", self.plan.text_job(caption, picture).key)
        return {name: tensor[None] for name, tensor in tensors.items()}


@contextmanager
def weights_in_use(trainer: Trainer) -> Iterator[None]:
    """Put the weights that are exported (averaged ones, if there are) into the denoiser, in evaluation mode."""
    trainer.is_whole = False  # until those that train are back
    with ExitStack() as stack:
        stack.enter_context(weights_for_use(trainer.optimizer))
        if trainer.ema is not None:
            trainer.ema.store(trainer.parameters)
            stack.callback(trainer.ema.restore, trainer.parameters)
            trainer.ema.copy_to(trainer.parameters)
        trainer.denoiser.eval()
        stack.callback(trainer.denoiser.train)
        back = stack.pop_all()
    try:
        yield
    finally:
        back.close()
        trainer.is_whole = True


def texts_to_encode(requests: Sequence[Request], model: Model, plan: Plan) -> list[TextJob]:
    """Jobs of all captions, negative ones included, that drawing the requests will read from the cache."""
    jobs = [plan.text_job(request.prompt, request.image) for request in requests]
    if model.adapter.has_negative_prompt:
        jobs += [plan.text_job(request.negative_prompt or "", request.image) for request in requests]
    return jobs
