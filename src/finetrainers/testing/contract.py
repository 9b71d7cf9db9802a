"""What every model family has to do, as checks that anyone can run on a model of their own.

    subject = ModelUnderTest({"path": "tiny-mine", "adapter": "mine.py:Mine"}, size=(9, 64, 64), folder=tmp_path)
    for check in CHECKS.values():
        check(subject)

Each check raises an AssertionError that says what is wrong, or the ModelError that a run would end with, such as one about
the shape that a method returned; or ``unittest.SkipTest`` if there is nothing to check, which pytest reports as skipped.

A tiny model in float32 keeps them quick. All of them go through the code of a real run: files, plan, encoders, cache,
batches, loop, export.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from finetrainers.batch import Batch
from finetrainers.models.blocks import check_blocks_exist, repeated_classes
from finetrainers.objectives.base import Predict
from finetrainers.sampling.sample import sample_run
from finetrainers.testing.attention import ATTENTION_CHECKS
from finetrainers.testing.control import CONTROL_CHECKS, assert_equal_files
from finetrainers.testing.model_under_test import CAPTIONS, FULL, LORA, STEPS, ModelUnderTest as ModelUnderTest
from finetrainers.testing.pipeline import PIPELINE_CHECKS
from finetrainers.testing.references import REFERENCE_CHECKS
from finetrainers.testing.trials import TRIAL_CHECKS
from finetrainers.training.checks.parts import check_tuning
from finetrainers.training.export import export_weights
from finetrainers.training.run import train
from finetrainers.training.trainer import Trainer
from finetrainers.tuning import build_tuning
from finetrainers.tuning.base import trained_parameters


def check_latents_have_the_shape_of_the_grid(subject: ModelUnderTest) -> None:
    """What the encoders make is what the table of facts says, and finite."""
    batch = subject.batch
    expected = (2, *subject.model.adapter.grid.latent_shape(subject.size))
    assert tuple(batch.latents.shape) == expected, f"latents {tuple(batch.latents.shape)}, but the grid says {expected}"
    assert len(batch.prompt.text) > 0, "encode_prompt returns nothing"
    for name, tensor in {**batch.prompt.text, **batch.prompt.image}.items():
        assert len(tensor) == 2, f"{name} has no row for each sample"
        assert bool(tensor.float().isfinite().all()), f"{name} is not finite"


def check_tuning_is_tried_without_weights(subject: ModelUnderTest) -> None:
    """The config alone makes a denoiser without weights, with all names and shapes, in which all that trains is found."""
    model = subject.model
    for name, part in model.denoisers.split(model.load_denoiser()).items():
        shapes, wanted = ({key: t.shape for key, t in m.state_dict().items()} for m in (model.pretrained.shell(name), part))
        assert shapes == wanted, f"the shell of {name} differs in {sorted(dict(shapes.items() ^ wanted.items()))[:3]}"
    for tuning in (LORA, {**LORA, "dora": True}, {"kind": "lokr"}, FULL):
        check_tuning(subject.config("run", tuning), model)


def check_blocks_are_all_that_repeat(subject: ModelUnderTest) -> None:
    """``blocks`` names every class of repeated layers: what it leaves out is neither checkpointed, offloaded nor sharded."""
    model = subject.model
    for name in model.denoisers.trained:
        shell = model.pretrained.shell(name)
        check_blocks_exist(shell, model.adapter.blocks, type(model.adapter).__name__)
        missing = [own for own in repeated_classes(shell) if own not in model.adapter.blocks]
        assert not missing, f"{name} repeats {', '.join(missing)}, which blocks does not name; add it"


def check_everything_told_matters(subject: ModelUnderTest) -> None:
    """Noise level, caption and what is made of given frames each change the answer."""
    trainer, batch = subject.trainer(), subject.batch
    answer = _predict(trainer, batch)
    other = replace(batch, sigma=torch.where(_counts(batch), batch.sigma * 0.9, batch.sigma))
    x, _ = _asked(trainer, batch)
    with torch.no_grad():
        retold = trainer.predict(x, other.sigma, other)
    assert not torch.equal(answer, retold), "the noise level is not told"
    names = [("text", name) for name in batch.prompt.text] + [("image", name) for name in batch.prompt.image]
    swapped = [(part, name) for part, name in names if not torch.equal(*getattr(batch.prompt, part)[name])]
    assert any(part == "text" for part, _ in swapped), "two captions have one encoding"
    assert not batch.prompt.image or any(part == "image" for part, _ in swapped), "two pictures have one encoding"
    for part, name in swapped:
        flipped = {**getattr(batch.prompt, part), name: getattr(batch.prompt, part)[name].flip(0)}
        prompt = replace(batch.prompt, text=flipped) if part == "text" else replace(batch.prompt, image=flipped)
        again = _predict(trainer, replace(batch, prompt=prompt))
        assert not torch.equal(answer, again), (
            f"{name} changes nothing: leave it out of what {'encode_prompt' if part == 'text' else 'encode_image'} returns"
            f"{'; what the pipeline alone asks for, sampling_text adds' if part == 'text' else ''}"
        )


def check_loss_is_that_of_each_sample(subject: ModelUnderTest) -> None:
    """One finite loss a sample, above zero."""
    losses = subject.trainer().micro_losses(subject.batch).detach()
    assert tuple(losses.shape) == (2,)
    assert bool(losses.isfinite().all())
    assert bool((losses > 0).all())


def check_lora_begins_at_the_base(subject: ModelUnderTest) -> None:
    """Adapters wrap the default targets, change nothing before the first step, something after it, and can be left out."""
    trainer = subject.trainer()
    base = subject.model.load_denoiser()
    before = _predict(trainer, subject.batch)
    trained = trained_parameters(trainer.denoiser)
    assert trained, "no parameter trains"
    assert all("lora_" in name for name in trained)
    trainer.denoiser, lora = base, trainer.denoiser
    assert torch.equal(_predict(trainer, subject.batch), before), "a new LoRA changes the model"
    trainer.denoiser = lora
    trainer.train_step(subject.batch)
    assert not torch.equal(_predict(trainer, subject.batch), before), "a step changes nothing"
    without = trainer.predict.base(*_asked(trainer, subject.batch), subject.batch)
    assert torch.equal(without, before), "the model answers otherwise than the base once its LoRA is left out"


def check_full_tuning_reaches_every_weight(subject: ModelUnderTest) -> None:
    """Nine in ten parameters get a gradient: published models have a few that their own forward pass does not use."""
    trainer, batch = subject.trainer(FULL), subject.batch
    for level in (0.05, 0.95):  # experts for some noise levels see no others
        sigma = torch.where(_counts(batch), level, batch.sigma)
        trainer.micro_losses(replace(batch, sigma=sigma)).mean().backward()
    without = [name for name, parameter in trained_parameters(trainer.denoiser).items() if parameter.grad is None]
    trained = len(trained_parameters(trainer.denoiser))
    assert len(without) <= trained // 10, f"{len(without)} of {trained} parameters get no gradient: {', '.join(without[:5])}"


def check_gradient_checkpointing_gives_equal_gradients(subject: ModelUnderTest) -> None:
    """Time for memory, and nothing else."""
    plain, saving = (_gradients(subject, train={"gradient_checkpointing": on}) for on in (False, True))
    assert plain.keys() == saving.keys() != set()
    for name, gradient in plain.items():
        torch.testing.assert_close(saving[name], gradient, rtol=1e-4, atol=1e-7, msg=f"gradient of {name}")


def check_a_batch_is_its_samples(subject: ModelUnderTest) -> None:
    """One micro-batch of two equals two of one: losses and gradients."""
    both, single = subject.trainer(FULL), subject.trainer(FULL)
    losses = []
    # Each of the single ones is made anew: it has none of the padding that the other sample's prompt brought.
    for trainer, micros in ((both, [subject.batch]), (single, [subject.alone(row) for row in range(2)])):
        losses.append(torch.cat([_backward(trainer, micro) for micro in micros]))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-6)
    for (name, one), other in zip(trained_parameters(both.denoiser).items(), single.update.parameters, strict=True):
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-5, msg=f"gradient of {name}")


def check_samples_do_not_see_each_other(subject: ModelUnderTest) -> None:
    """Changing the second sample changes nothing in the first one's answer, and something in its own."""
    trainer, batch = subject.trainer(), subject.batch
    answer = _predict(trainer, batch)
    again = _predict(trainer, replace(batch, noise=torch.stack([batch.noise[0], batch.noise[1].flip(-1)])))
    torch.testing.assert_close(again[0], answer[0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(again[1], answer[1], rtol=1e-4, atol=1e-5)
    for row in range(2):
        torch.testing.assert_close(_predict(trainer, subject.alone(row))[0], answer[row], rtol=1e-4, atol=1e-5)


def check_exported_weights_load_in_plain_diffusers(subject: ModelUnderTest) -> None:
    """LoRA with alpha != rank and full-rank weights answer, in a pipeline that is loaded without us, as trained."""
    import diffusers

    for tuning in (LORA, FULL):
        config = subject.config(f"export-{tuning['kind']}", tuning)
        trainer = subject.trainer(tuning)
        trainer.train_step(subject.batch)
        weights = export_weights(trainer, config, subject.model, build_tuning(config.tuning))
        pipeline = diffusers.DiffusionPipeline.from_pretrained(subject.model_section["path"])
        trained = _predict(trainer, subject.batch)
        trainer.denoiser = subject.model.denoisers.join(pipeline.components).eval()
        untrained = _predict(trainer, subject.batch)
        build_tuning(config.tuning).load_exported(pipeline, weights)
        trainer.denoiser = subject.model.denoisers.join(pipeline.components).eval()
        assert not torch.allclose(trained, untrained, rtol=1e-3, atol=1e-4), "training changed nothing"
        torch.testing.assert_close(_predict(trainer, subject.batch), trained, rtol=1e-4, atol=1e-5)


def check_a_resumed_run_is_the_same_run(subject: ModelUnderTest) -> None:
    """2 + 2 steps equal 4 steps bit for bit, and the run's own sampler generates with what came out."""
    whole = train(subject.config("whole"))
    train(subject.config("parts", train={"steps": STEPS // 2}))
    parts = train(subject.config("parts"))
    assert_equal_files(whole.weights, parts.weights, "the resumed run")
    prompt = {"prompt": CAPTIONS[0], "num_inference_steps": 2, **subject.given_pictures}
    drawn, base = (sample_run(parts.output_dir, [prompt], use_base=use, device="cpu") for use in (False, True))
    assert drawn[0].read_bytes() != base[0].read_bytes(), "the trained weights generate what the base generates"


@dataclass(frozen=True, slots=True)
class _Recorder:
    """Passes on what an objective asks a denoiser, and keeps it."""

    predict: Predict
    asked: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """x [B, C, F, H, W] and sigma [B, F] of each call."""
    answers: list[Tensor] = field(default_factory=list)
    """[B, C, F, H, W] of each call."""

    def __call__(self, x: Tensor, sigma: Tensor, batch: Batch) -> Tensor:
        self.asked.append((x, sigma))
        self.answers.append(self.predict(x, sigma, batch))
        return self.answers[-1]

    def base(self, x: Tensor, sigma: Tensor, batch: Batch) -> Tensor:
        return self.predict.base(x, sigma, batch)


def _counts(batch: Batch) -> Tensor:
    """Which frames count in the loss, bool [B, F]."""
    return torch.ones_like(batch.sigma, dtype=torch.bool) if batch.loss_mask is None else batch.loss_mask > 0


def _recorded(trainer: Trainer, batch: Batch) -> _Recorder:
    """Compute the losses of a batch in evaluation mode."""
    trainer.denoiser.eval()
    recorder = _Recorder(trainer.predict)
    with torch.no_grad():
        trainer.objective.losses(recorder, batch)
    return recorder


def _asked(trainer: Trainer, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return what the objective makes of a batch for the denoiser: x [B, C, F, H, W] and sigma [B, F]."""
    return _recorded(trainer, batch).asked[0]


def _predict(trainer: Trainer, batch: Batch) -> Tensor:
    """Return what the denoiser answers to a batch, [B, C, F, H, W], in evaluation mode."""
    return _recorded(trainer, batch).answers[0]


def _backward(trainer: Trainer, micro: Batch) -> Tensor:
    """Add the gradient of the losses of a micro-batch, and return them, [B]."""
    losses = trainer.micro_losses(micro)
    losses.sum().backward()
    return losses.detach()


def _gradients(subject: ModelUnderTest, **sections: Any) -> dict[str, Tensor]:
    """Return the gradients of all LoRA parameters; their second factors are made random, since they begin at zero."""
    trainer = subject.trainer(**sections)
    trainer.denoiser.train()
    parameters = trained_parameters(trainer.denoiser)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    trainer.micro_losses(subject.batch).mean().backward()
    return {name: parameter.grad for name, parameter in parameters.items() if parameter.grad is not None}


CHECKS: Mapping[str, Callable[[ModelUnderTest], None]] = {
    function.__name__.removeprefix("check_"): function
    for function in (
        check_latents_have_the_shape_of_the_grid,
        check_tuning_is_tried_without_weights,
        check_blocks_are_all_that_repeat,
        check_everything_told_matters,
        check_loss_is_that_of_each_sample,
        check_lora_begins_at_the_base,
        check_full_tuning_reaches_every_weight,
        check_gradient_checkpointing_gives_equal_gradients,
        check_a_batch_is_its_samples,
        check_samples_do_not_see_each_other,
        check_exported_weights_load_in_plain_diffusers,
        check_a_resumed_run_is_the_same_run,
        *PIPELINE_CHECKS,
        *ATTENTION_CHECKS,
        *CONTROL_CHECKS,
        *REFERENCE_CHECKS,
        *TRIAL_CHECKS,
    )
}
"""Every check by its name."""
