"""The part of the contract that is about control: ``contract.CHECKS`` has it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any
from unittest import SkipTest

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.modules.module import register_module_forward_pre_hook

from finetrainers.batch import Medium
from finetrainers.conditioning.widen import WideLayer, WideLinear, two_parts
from finetrainers.data.conditions import CONTROL, draw_latents
from finetrainers.data.loader import read_encoded
from finetrainers.errors import ModelError
from finetrainers.sampling.sample import sample_run
from finetrainers.testing.model_under_test import CAPTIONS, FULL, LORA, STEPS, ModelUnderTest
from finetrainers.training.build import build_trainer
from finetrainers.training.directory import run_directory
from finetrainers.training.export import export_weights
from finetrainers.training.run import train
from finetrainers.training.trainer import Trainer
from finetrainers.tuning import build_tuning


def of_control(check: Callable[[ModelUnderTest], None]) -> Callable[[ModelUnderTest], None]:
    """Skip a check, as pytest and unittest understand it, if the model takes no control."""

    @wraps(check)
    def check_or_skip(subject: ModelUnderTest) -> None:
        if subject.model.adapter.input_layout is None:
            raise SkipTest(f"{subject.model.adapter.name} takes no control: its input_layout is None")
        check(subject)

    return check_or_skip


@of_control
def check_control_reaches_its_columns(subject: ModelUnderTest) -> None:
    """The columns that ``input_layout`` gives to a control get it, and no other."""
    trainer = subject.controlled.trainer()
    try:
        trainer.conditioning.verify(
            _parts(subject, trainer), subject.model.adapter, trainer.predict, subject.controlled.alone(0)
        )
    except ModelError as error:
        raise AssertionError(str(error)) from error


@of_control
def check_control_begins_where_sft_does(subject: ModelUnderTest) -> None:
    """With an input that is widened for a control, the first losses equal those without it to the last bit."""
    controlled = subject.controlled
    for tuning in (LORA, FULL):
        plain = subject.trainer(tuning).micro_losses(subject.batch)
        widened = controlled.trainer(tuning)
        assert torch.equal(widened.micro_losses(controlled.batch), plain), f"{tuning['kind']}: zeros change the first loss"
        layers = [part.get_submodule(subject.model.adapter.input_layer) for part in _parts(subject, widened)]
        assert all(layer.weight.requires_grad for layer in layers), "the widened layer does not train"


@of_control
def check_control_is_learned_and_kept(subject: ModelUnderTest) -> None:
    """A control changes what is generated after training; a resumed run and one from exported weights have it."""
    controlled = subject.controlled
    whole = train(controlled.config("control-whole"))
    train(controlled.config("control-parts", train={"steps": STEPS // 2}))
    parts = train(controlled.config("control-parts"))
    assert_equal_files(whole.weights, parts.weights, "the resumed run")
    prompt = {"prompt": CAPTIONS[0], "num_inference_steps": 2, **subject.given_pictures}
    shown = [{**prompt, "control": subject.picture(sample)} for sample in (0, 1)]
    drawn = sample_run(parts.output_dir, [*shown, prompt], device="cpu")
    pictures = {file.read_bytes() for file in drawn}
    assert len(pictures) == 3, "two controls, or one and none, generate the same"
    for tuning in (LORA, FULL):
        weights = parts.weights
        if tuning == FULL:
            weights = train(controlled.config("control-full", FULL, train={"steps": 1})).weights
        config = controlled.config("control-on", {**tuning, "start_from": str(weights)})
        own = build_tuning(config.tuning)
        trainer = build_trainer(config, subject.model, objective=subject.objective, tuning=own, device=torch.device("cpu"))
        trainer.step = 1 + (tuning == FULL)  # a folder for each
        assert_equal_files(weights, export_weights(trainer, config, subject.model, own), "a new run")


@of_control
def check_control_is_drawn_where_it_was_trained(subject: ModelUnderTest) -> None:
    """At each call and for each row, the sampler puts a control's latents where training does, and zeros for none."""
    controlled = subject.controlled
    job = controlled.prepared.plan.step(controlled.prepared.order, 0)[0]
    known = read_encoded(controlled.prepared.encoder.cache, job).media[CONTROL]
    known = known if subject.model.adapter.pictures.draws_control else replace(known, std=None)
    padding, generator = subject.model.adapter.grid.num_padding_frames(subject.size[0]), torch.Generator().manual_seed(3)
    latents = draw_latents(known, generator, padding=padding)[None]  # as samplers draw it, before the noise
    shown = Medium(latents, torch.ones(1, latents.shape[2]))
    with _control_channels() as trained:
        controlled.trainer().micro_losses(replace(controlled.alone(0), media={CONTROL: shown}))
    with run_directory(controlled.config("control-drawn")) as run:  # its configuration is all that the base needs
        prompt = {"prompt": CAPTIONS[0], "num_inference_steps": 2, "seed": 3, **subject.given_pictures}
    for control, expected in ((job.target.path, trained[0]), (None, torch.zeros_like(trained[0]))):
        with _control_channels() as calls:
            sample_run(run, [{**prompt, "control": control}], use_base=True, device="cpu")
        assert len(calls) >= 2, "not each step sees the control"
        for rows in (rows for call in calls for rows in call.split(len(expected))):
            before = rows.shape[1] - expected.shape[1]  # tokens that are not the clip's, such as those of given frames
            torch.testing.assert_close(rows, functional.pad(expected, (0, 0, before, 0)), rtol=1e-4, atol=1e-5)


@contextmanager
def _control_channels() -> Iterator[list[Tensor]]:
    """Collect what each call of a widened layer takes of a control."""
    calls = []

    def keep(layer: Any, arguments: Any) -> None:
        if isinstance(layer, WideLayer):
            calls.append(two_parts(layer, arguments[0].detach(), -1 if isinstance(layer, WideLinear) else 1)[1])

    with register_module_forward_pre_hook(keep):
        yield calls


def _parts(subject: ModelUnderTest, trainer: Trainer) -> list[Any]:
    """The denoisers that a trainer trains."""
    return list(subject.model.denoisers.split(trainer.denoiser).values())


def assert_equal_files(one: Path, other: Path, what: str) -> None:
    """Compare the tensors of two folders of weights; adapters are named after their run."""
    from safetensors.torch import load_file

    files, others = (sorted(folder.rglob("*.safetensors")) for folder in (one, other))
    assert files, f"no weights in {one}"
    for file, its in zip(files, others, strict=True):
        assert file.parent.relative_to(one) == its.parent.relative_to(other)
        here, there = load_file(file), load_file(its)
        assert here.keys() == there.keys()
        assert all(torch.equal(tensor, there[name]) for name, tensor in here.items()), f"{what} differs in {file.name}"


CONTROL_CHECKS = (
    check_control_reaches_its_columns,
    check_control_begins_where_sft_does,
    check_control_is_learned_and_kept,
    check_control_is_drawn_where_it_was_trained,
)
