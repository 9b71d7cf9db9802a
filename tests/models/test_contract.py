"""The contract suite, over all families, variants and tasks; and over adapters that are wrong in one thing."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import SkipTest

import pytest
import torch
from cases import all_cases
from torch import Tensor

from finetrainers.batch import Prompt
from finetrainers.models.flux import Flux
from finetrainers.testing.attention import ATTENTION_CHECKS
from finetrainers.testing.contract import CHECKS, ModelUnderTest

CASES = {name: case for name, case in all_cases().items() if not case.label}
IMAGES = {f"{name}, images": case for name, case in CASES.items() if case.task == "text-to-video"}
"""Video models that train on images, too: one frame at the same height and width."""


@pytest.fixture(scope="module")
def subjects(tiny: Callable[[str, str], Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelUnderTest]:
    """Each case once: its samples are encoded for the first check and stay."""
    made: dict[str, ModelUnderTest] = {}
    for name, case in (CASES | IMAGES).items():
        size = case.size if name in CASES else (1, *case.size[1:])
        section = case.section(tiny(case.family, case.variant))
        made[name] = ModelUnderTest(section, size, tmp_path_factory.mktemp("contract"))
    return made


OF_REFERENCES = [name for name in CHECKS if name.startswith("references_")]
TAKES_REFERENCES = [name for name, case in CASES.items() if case.family == "flux"]
"""On all others the checks of references are skipped."""
OF_ATTENTION = [function.__name__.removeprefix("check_") for function in ATTENTION_CHECKS]
FIRSTS = list({case.family: name for name, case in reversed(CASES.items())}.values())
"""One of each family; the others compute attention as it does."""

OF_RUNS = (
    "a_resumed_run_is_the_same_run",
    "control_is_learned_and_kept",
    "control_is_drawn_where_it_was_trained",
)
"""What trains and draws several times."""
OF_TRAINING = (
    *OF_RUNS,
    "exported_weights_load_in_plain_diffusers",
    "control_reaches_its_columns",
    "control_begins_where_sft_does",
    "gradient_checkpointing_gives_equal_gradients",
    "lora_begins_at_the_base",
)
"""What looks at blocks and layers by their names, which variants have in common."""
RUN_ALIKE = (
    "cogvideox 5b text-to-video",
    "cogvideox 1.5-5b text-to-video",
    "cogvideox 5b-i2v image-to-video",
    "flux schnell text-to-image",
    "ltx_video 0.9.1 text-to-video",
    "ltx_video 0.9.1 image-to-video",
    "ltx_video 0.9.5 text-to-video",
    "ltx_video 0.9.7 text-to-video",
    "ltx_video 0.9.7 first-last-frame-to-video",
    "wan 2.2-i2v-a14b image-to-video",
    "wan 2.2-i2v-a14b first-last-frame-to-video",
    "wan 2.2-ti2v-5b text-to-video",
)
"""Cases whose runs go the way of another of their family and task: they differ in sizes, positions or the autoencoder,
which other checks look at. For `make test-long`."""


RESUMED = (*FIRSTS, "flux kontext image-to-image", "wan 2.2-t2v-a14b text-to-video")
"""Cases that go on without a control: one of each family, references and two experts. All others do so with one, in
``control_is_learned_and_kept``, which compares as much; without one for `make test-long`."""


def is_of_use(check: str, name: str) -> bool:
    """Whether a check may find something in a case that it does not find in others."""
    if check in OF_REFERENCES:
        return name in TAKES_REFERENCES
    return check not in OF_ATTENTION or name in FIRSTS or "hunyuan" in name


def cell(name: str, check: str) -> Any:
    is_alike = check in OF_TRAINING and name in RUN_ALIKE
    is_resumed_elsewhere = check == "a_resumed_run_is_the_same_run" and name not in RESUMED
    return pytest.param(name, check, marks=[pytest.mark.long] if is_alike or is_resumed_elsewhere else [])


@pytest.mark.parametrize(
    ("name", "check"), [cell(name, check) for name in CASES for check in CHECKS if is_of_use(check, name)]
)
def test_contract(name: str, check: str, subjects: dict[str, ModelUnderTest]) -> None:
    CHECKS[check](subjects[name])


@pytest.mark.parametrize(
    "check",
    [
        "latents_have_the_shape_of_the_grid",
        "everything_told_matters",
        "a_batch_is_its_samples",
        "denoise_answers_as_the_pipeline",
        "latents_are_those_of_the_vae",
    ],
)
@pytest.mark.parametrize("name", IMAGES)
def test_contract_with_images(name: str, check: str, subjects: dict[str, ModelUnderTest]) -> None:
    CHECKS[check](subjects[name])


@dataclass(frozen=True)
class Mistake:
    """An adapter that is wrong in one thing, and the checks of which at least one finds it."""

    checks: tuple[str, ...]
    make: Callable[[Any, ModelUnderTest], Mapping[str, Any]]
    """From (right adapter, its subject) to attributes of the wrong one."""
    finds: str
    """Part of the message."""


DENOISE, ATTENTION = ("denoise_answers_as_the_pipeline",), ("attention_is_dispatched_as_stated",)
LATENTS = (*DENOISE, "latents_are_those_of_the_vae")
"""The second for pipelines that hand latents to the scheduler as they are arranged."""


def told(change: Callable[[Tensor, Prompt], tuple[Tensor, Prompt]]) -> Callable[[Any, ModelUnderTest], Mapping[str, Any]]:
    """Let ``denoise`` be told other noise levels, or another prompt."""

    def make(adapter: Any, _: ModelUnderTest) -> Mapping[str, Any]:
        def denoise(denoiser: Any, x: Tensor, sigma: Tensor, prompt: Prompt) -> Tensor:
            answer: Tensor = adapter.denoise(denoiser, x, *change(sigma, prompt))
            return answer

        return {"denoise": denoise}

    return make


def negated(adapter: Any, _: ModelUnderTest) -> Mapping[str, Any]:
    return {"denoise": lambda *arguments: -adapter.denoise(*arguments)}


def other_caption(adapter: Any, subject: ModelUnderTest) -> Mapping[str, Any]:
    other = subject.alone(1).prompt.text
    return told(lambda sigma, prompt: (sigma, replace(prompt, text=other)))(adapter, subject)


def mirrored_arrange(adapter: Any, _: ModelUnderTest) -> Mapping[str, Any]:
    return {"arrange": lambda x: adapter.arrange(x.flip(-1))}


def mirrored(adapter: Any, _: ModelUnderTest) -> Mapping[str, Any]:
    """In both directions, so that ``denoise`` answers as the pipeline does."""

    def denoise(denoiser: Any, x: Tensor, *others: Any) -> Tensor:
        answer: Tensor = adapter.denoise(denoiser, x.flip(-1), *others)
        return answer.flip(-1)

    return {"denoise": denoise, "arrange": lambda x: adapter.arrange(x.flip(-1))}


def inverted(flag: str) -> Callable[[Any, ModelUnderTest], Mapping[str, Any]]:
    return lambda adapter, _: {flag: not getattr(adapter, flag)}


MISTAKES = {
    "the velocity points to the data": Mistake(DENOISE, negated, "its sign is wrong"),
    "time runs backwards": Mistake(
        DENOISE,
        told(lambda sigma, prompt: (1 - sigma, prompt)),
        "is not what the pipe.*it is with 1 - sigma in",
    ),
    "the time step is the noise level": Mistake(
        DENOISE,
        told(lambda sigma, prompt: (sigma / 1000, prompt)),
        r"is not what the pipeline.*it is with 1000 \* sigma in the place",
    ),
    "the caption is another's": Mistake(DENOISE, other_caption, "is not what the pipeline"),
    "arrange mirrors": Mistake(DENOISE, mirrored_arrange, "is not what the pipeline"),
    "arrange mirrors, and denoise undoes it": Mistake(LATENTS, mirrored, "is not what the"),
    "dispatches_attention is wrong": Mistake(ATTENTION, inverted("dispatches_attention"), "dispatches_attention is"),
    "masks_attention is wrong": Mistake(ATTENTION, inverted("masks_attention"), "masks_attention is"),
}


def run(checks: tuple[str, ...], subject: ModelUnderTest) -> None:
    for check in checks:
        CHECKS[check](subject)


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] if name in RUN_ALIKE else []) for name in CASES]
)
def test_a_wrong_adapter_does_not_pass(name: str, mistake: str, subjects: dict[str, ModelUnderTest]) -> None:
    subject, planted = subjects[name], MISTAKES[mistake]
    right = subject.model.adapter
    if mistake == "masks_attention is wrong" and not right.dispatches_attention:
        pytest.skip("nothing is seen of attention that diffusers does not dispatch, and nothing depends on its mask")
    wrong_adapter = copy.copy(right)
    vars(wrong_adapter).update(planted.make(right, subject))
    wrong = copy.copy(subject)  # with all that is encoded and drawn already
    vars(wrong)["model"] = replace(subject.model, adapter=wrong_adapter)
    with pytest.raises(AssertionError, match=planted.finds):
        run(planted.checks, wrong)


Change = Callable[[dict[str, Any], Mapping[str, Any], Sequence[Tensor]], dict[str, Any]]
"""From (what the denoiser is called with, what it would be without references, these) to what it is called with."""


def shows(change: Change) -> Callable[[Any], Mapping[str, Any]]:
    """Let ``append_references`` show something else."""
    right = Flux.append_references

    def make(adapter: Any) -> Mapping[str, Any]:
        def append(told: Mapping[str, Any], references: Sequence[Tensor]) -> dict[str, Any]:
            return change(right(adapter, told, references), told, references)

        return {"append_references": append}

    return make


def one_picture(called: dict[str, Any], told: Mapping[str, Any], references: Sequence[Tensor]) -> dict[str, Any]:
    return {**called, "img_ids": called["img_ids"].clamp(max=torch.tensor([1.0, 99.0, 99.0]))}


def drawn_picture(called: dict[str, Any], told: Mapping[str, Any], references: Sequence[Tensor]) -> dict[str, Any]:
    return {**called, "img_ids": called["img_ids"] * torch.tensor([0.0, 1.0, 1.0])}


def first_alone(called: dict[str, Any], told: Mapping[str, Any], references: Sequence[Tensor]) -> dict[str, Any]:
    count = told["hidden_states"].shape[1] + sum(own.shape[-1] * own.shape[-2] // 4 for own in references[:1])
    return {**called, "hidden_states": called["hidden_states"][:, :count], "img_ids": called["img_ids"][:count]}


def first_row(called: dict[str, Any], told: Mapping[str, Any], references: Sequence[Tensor]) -> dict[str, Any]:
    count, hidden = told["hidden_states"].shape[1], called["hidden_states"]
    return {**called, "hidden_states": torch.cat([hidden[:, :count], hidden[:1, count:].expand(len(hidden), -1, -1)], 1)}


REFERENCE_MISTAKES: dict[str, tuple[str, Callable[[Any], Mapping[str, Any]]]] = {
    "all pictures have the coordinate of the first": ("references_are_told_apart", shows(one_picture)),
    "pictures have the coordinate of the one that is drawn": (
        "references_are_shown_as_the_pipeline_shows_them",
        shows(drawn_picture),
    ),
    "only the first is shown": ("references_are_told_apart", shows(first_alone)),
    "all samples see the pictures of the first": (
        "references_of_a_batch_are_those_of_each_sample",
        shows(first_row),
    ),
    "no picture is shown": ("references_are_learned_from", shows(lambda called, told, references: dict(told))),
}
"""Adapters that show references otherwise, and the check that finds each."""


@pytest.mark.parametrize("mistake", REFERENCE_MISTAKES)
def test_an_adapter_that_shows_references_otherwise_does_not_pass(mistake: str, subjects: dict[str, ModelUnderTest]) -> None:
    subject, (check, make) = subjects["flux kontext image-to-image"], REFERENCE_MISTAKES[mistake]
    wrong_adapter = copy.copy(subject.model.adapter)
    vars(wrong_adapter).update(make(subject.model.adapter))
    model = replace(subject.model, adapter=wrong_adapter)
    wrong = copy.copy(subject)
    referenced = copy.copy(subject.referenced)
    vars(referenced)["model"] = vars(wrong)["model"] = model
    vars(wrong)["referenced"] = referenced
    with pytest.raises(AssertionError):
        CHECKS[check](wrong)


def test_a_family_without_references_is_not_asked_for_any(subjects: dict[str, ModelUnderTest]) -> None:
    for name, subject in subjects.items():
        takes = subject.model.task in subject.model.adapter.pictures.reference_pipelines
        assert takes == (name in TAKES_REFERENCES)
        if not takes:
            for check in OF_REFERENCES:
                with pytest.raises(SkipTest, match="supports no references in the task"):
                    CHECKS[check](subject)
