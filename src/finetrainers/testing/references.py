"""The part of the contract that is about references: ``contract.CHECKS`` has it.

Shape letters as in ``finetrainers.batch``; H' and W' are latent height and width of one picture.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from pathlib import Path
from unittest import SkipTest

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from finetrainers.batch import Batch, Medium
from finetrainers.conditioning import build_conditioning
from finetrainers.models import Request
from finetrainers.models.vae import load_vae
from finetrainers.sampling.references import decode_reference, encode_references
from finetrainers.sampling.sampler import Sampler
from finetrainers.testing.drawn import record_drawing
from finetrainers.testing.model_under_test import FULL, LORA, ModelUnderTest
from finetrainers.testing.pipeline import assert_answers_as_drawn
from finetrainers.training.trainer import Trainer
from finetrainers.tuning.base import trained_parameters

CPU = torch.device("cpu")
SHAPES = ((4, 2), (2, 4))
"""Height and width of two pictures, in tokens: unlike each other, and unlike the samples."""


def of_references(check: Callable[[ModelUnderTest], None]) -> Callable[[ModelUnderTest], None]:
    """Skip a check, as pytest and unittest understand it, if the model takes no references."""

    @wraps(check)
    def check_or_skip(subject: ModelUnderTest) -> None:
        if subject.model.task not in subject.model.adapter.pictures.reference_pipelines:
            raise SkipTest(f"{subject.model.adapter.name} supports no references in the task {subject.model.task}")
        check(subject)

    return check_or_skip


@of_references
def check_references_are_shown_as_the_pipeline_shows_them(subject: ModelUnderTest) -> None:
    """``denoise`` answers as the reference pipeline, which is given one picture; and as our sampler, which shows several."""
    config = subject.referenced.config("run")
    conditioning = build_conditioning(config.conditioning)
    (stream,) = conditioning.streams
    files, model = _pictures(subject), subject.model
    clip, text = subject.pixels(), subject.alone(0).prompt.text
    named = [name for name, value in model.pretrained.index.items() if isinstance(value, list) and value[0]]
    components = {name: model.pretrained.load(name) for name in named} | {"vae": load_vae(model.pretrained)}
    denoisers = [components[name] for name in model.denoisers.trained]
    sampler = Sampler(model, components, CPU, conditioning, config.data[0])
    for count, way in ((1, "the pipeline's own picture"), (1, "our sampler"), (2, "our sampler, two pictures")):
        request = Request("", subject.size, steps=2, seed=0, guidance=1.0, references=tuple(map(str, files[:count])))
        pipeline, told = sampler.pipeline(request), sampler.arguments(request, lambda _: text)
        pictures = [decode_reference(file, stream.sizes) for file in files[:count]]
        media = encode_references(pictures, stream, vae=components["vae"], adapter=model.adapter)
        hooked = media
        if way == "the pipeline's own picture":
            told, hooked = {**told, "image": Image.fromarray(pictures[0][0].numpy())}, {}
        with torch.no_grad(), conditioning.sampling(denoisers, model.adapter, hooked):
            drawn = record_drawing(pipeline, told, clip)
        assert assert_answers_as_drawn(subject, drawn, way, [medium.latents for medium in media.values()]) == 2


@of_references
def check_references_that_are_not_shown_change_nothing(subject: ModelUnderTest) -> None:
    """Without references, and with those that are not shown, answers and losses are those of the plain model to the bit."""
    plain, referenced = subject.trainer(), subject.referenced.trainer()
    assert torch.equal(_answer(referenced, subject.batch), _answer(plain, subject.batch)), "none changes the answer"
    hidden = show(subject, subject.batch, is_shown=False)
    assert torch.equal(_answer(referenced, hidden), _answer(plain, subject.batch)), "one that is not given has an effect"
    assert torch.equal(referenced.micro_losses(hidden), plain.micro_losses(subject.batch))
    for tuning in (LORA, FULL):
        names = [list(trained_parameters(own.trainer(tuning).denoiser)) for own in (subject, subject.referenced)]
        assert names[0] == names[1], "references train something else"


@of_references
def check_references_of_a_batch_are_those_of_each_sample(subject: ModelUnderTest) -> None:
    """Each sample of a batch is answered as if it were alone with its references."""
    trainer, both = subject.referenced.trainer(), show(subject, subject.batch)
    answers = _answer(trainer, both)
    for row in range(2):
        alone = _answer(trainer, both.rows(slice(row, row + 1)))[0]
        torch.testing.assert_close(alone, answers[row], rtol=1e-4, atol=1e-5)


@of_references
def check_references_are_told_apart(subject: ModelUnderTest) -> None:
    """Which pictures are shown, how many, and in which order, each changes the answer."""
    trainer = subject.referenced.trainer()
    first, second = _latents(subject, 0), _latents(subject, 1)
    shown: dict[str, Sequence[Tensor]] = {
        "none": (),
        "the first": (first,),
        "the second": (second,),
        "both": (first, second),
        "both, the other way round": (second, first),
        "the first, mirrored": (first.flip(-1),),
        "the first twice": (first, first),
    }
    answers = {what: _answer(trainer, show(subject, subject.batch, latents=own)) for what, own in shown.items()}
    for what, answer in answers.items():
        for other, another in answers.items():
            close = torch.allclose(answer, another, rtol=1e-4, atol=1e-5)
            assert what == other or not close, f"references: {what} and {other} give one answer"


@of_references
def check_references_are_learned_from(subject: ModelUnderTest) -> None:
    """A reference changes loss and gradients, of LoRA and of all weights, and training with it changes the answer to it."""
    shown = show(subject, subject.batch)
    for tuning in (LORA, FULL):
        gradients, losses = [], []
        for batch in (shown, subject.batch):
            trainer = subject.referenced.trainer(tuning)
            losses.append(trainer.micro_losses(batch))
            losses[-1].mean().backward()
            gradients.append({name: p.grad for name, p in trained_parameters(trainer.denoiser).items()})
        assert not torch.allclose(losses[0], losses[1], rtol=1e-4), "a reference does not change the loss"
        pairs = [(own, gradients[1][name]) for name, own in gradients[0].items()]
        moved = sum(own is not None and other is not None and not torch.equal(own, other) for own, other in pairs)
        most = sum(own is not None and bool(own.any()) for own, _ in pairs)
        assert moved > most / 2, f"{tuning['kind']}: a reference changes {moved} of {most} gradients"
        trainer = subject.referenced.trainer(tuning)
        before = _answer(trainer, shown)
        trainer.train_step(shown)
        assert not torch.equal(_answer(trainer, shown), before), f"{tuning['kind']}: a step changes nothing"


def _pictures(subject: ModelUnderTest) -> list[Path]:
    """Files of two pictures, of the sizes that references have."""
    unit, files = subject.model.adapter.grid.vae_step * subject.model.adapter.grid.patch, []
    for number, (rows, columns) in enumerate(SHAPES):
        files.append(subject.folder / f"reference-{number}.png")
        blocks = np.random.default_rng(10 + number).integers(0, 256, (rows, columns, 3), np.uint8)
        Image.fromarray(blocks.repeat(unit, 0).repeat(unit, 1)).save(files[-1])
    return files


def _latents(subject: ModelUnderTest, number: int) -> Tensor:
    """Latents [2, C, 1, H', W'] of one picture for each of two samples."""
    grid, (rows, columns) = subject.model.adapter.grid, SHAPES[number]
    generator = torch.Generator().manual_seed(number)
    return torch.randn(2, grid.channels, 1, rows * grid.patch, columns * grid.patch, generator=generator)


def show(
    subject: ModelUnderTest,
    batch: Batch,
    *,
    is_shown: bool = True,
    latents: Sequence[Tensor] | None = None,
) -> Batch:
    """Give a batch of two samples references, by default two of each sample, and say whether they see them."""
    mask = torch.full((2, 1), float(is_shown))
    own = [_latents(subject, number) for number in range(len(SHAPES))] if latents is None else latents
    return replace(batch, media={f"reference.{number}": Medium(tensor, mask) for number, tensor in enumerate(own)})


@torch.no_grad()
def _answer(trainer: Trainer, batch: Batch) -> Tensor:
    """Return what the denoiser answers to a batch's noise, [B, C, F, H, W]."""
    trainer.denoiser.eval()
    return trainer.predict(batch.noise, batch.sigma, batch)


REFERENCE_CHECKS = (
    check_references_are_shown_as_the_pipeline_shows_them,
    check_references_that_are_not_shown_change_nothing,
    check_references_of_a_batch_are_those_of_each_sample,
    check_references_are_told_apart,
    check_references_are_learned_from,
)
