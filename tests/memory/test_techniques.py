"""The table of families and techniques: in each cell a denoiser trains, and computes what it does without the technique.

A technique is one line of ``TECHNIQUES``. Beside its cells, each has a run of one family, which saves, goes on to the bit,
exports and draws. What is taken together is tried with one family. torch.compile has its cells in test_compile.py, the
formats of memory.weights have theirs in test_quantize.py.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from blocks import CHECKPOINTED, FAMILIES
from runs import curve
from torch import Tensor

from finetrainers import train
from finetrainers.config import Config
from finetrainers.memory.precision import matmul_precision
from finetrainers.models import open_model
from finetrainers.testing.control import assert_equal_files
from finetrainers.testing.model_under_test import CAPTIONS, FULL, LORA, ModelUnderTest
from finetrainers.training.build import build_trainer
from finetrainers.training.trainer import Trainer
from finetrainers.tuning import build_tuning
from finetrainers.tuning.base import trained_parameters

Sections = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Technique:
    """What trades one thing for another, as changes of a configuration, and what it promises."""

    sections: Sections
    tolerance: float = 0.0
    """Largest difference from the plain run, as a part of the largest value of each tensor; 0 is to the bit."""
    tolerance_of: Mapping[str, float] = field(default_factory=dict)
    """That of some families."""
    compares: Literal["gradients", "weights"] = "gradients"
    """What of the two runs is compared: gradients, or weights after two steps, where gradients do not outlive the step or
    where it is the step that is another."""
    plain: Sections = field(default_factory=dict)
    """What the plain run has in common with it."""
    tunings: tuple[Mapping[str, Any], ...] = (LORA, FULL)


UNCLIPPED = {"clip_norm": float("inf")}
SGD, HALF, INT8 = {"name": "sgd"}, {"dtype": "bfloat16"}, {"weights": "int8"}
TECHNIQUES: Mapping[str, Technique] = {
    "checkpointing": Technique({"train": CHECKPOINTED}),
    "average": Technique({"train": {"ema_decay": 0.9}}, compares="weights"),
    "precision of products": Technique({"train": {"matmul_precision": "high"}}),  # on a CPU the same products
    "every second block": Technique({"train": CHECKPOINTED, "memory": {"checkpoint_every": 2}}),
    "attention kept": Technique({"train": CHECKPOINTED, "memory": {"checkpoint_keep": "attention"}}),
    "inputs on the host": Technique({"train": CHECKPOINTED, "memory": {"activations": "host"}}),
    "streamed": Technique(  # CogView4 asks a layer twice: what two rows make of its weights is summed in another order
        {"train": CHECKPOINTED, "memory": {"resident_blocks": 0}}, tolerance_of={"cogview4": 1e-6}
    ),
    "steps inside backward": Technique(
        {"train": UNCLIPPED, "optimizer": {"in_backward": True}}, compares="weights", plain={"train": UNCLIPPED}
    ),
    "states on the host": Technique({"optimizer": {"state": "cpu"}}, compares="weights", tolerance=1e-3),
    "rounded at random": Technique(
        {"model": HALF, "optimizer": {**SGD, "masters": "stochastic_rounding"}},
        compares="weights",
        plain={"model": HALF, "optimizer": SGD},
        tolerance=2**-6,
    ),
    "8-bit states": Technique({"optimizer": {"name": "adamw_8bit"}}),
}
"""By name; a run's family is the next one in turn, so that all have some."""
SMALL = {"memory": {**INT8, "activations": "host", "resident_blocks": 0}, "train": CHECKPOINTED}
ROUNDED = {"model": HALF, "optimizer": {"name": "adamw_8bit", "masters": "stochastic_rounding"}, "train": UNCLIPPED}
TOGETHER: Mapping[str, tuple[str, Technique]] = {
    "small LoRA": ("flux", Technique(SMALL, plain={"memory": INT8}, tunings=(LORA,))),
    "full rank on the host": (
        "wan",
        Technique(
            {"train": CHECKPOINTED, "memory": {"resident_blocks": 0}, "optimizer": {"state": "cpu"}},
            compares="weights",
            tolerance=1e-3,
            tunings=(FULL,),
        ),
    ),
    "small full rank": (
        "ltx_video",
        Technique(
            {**ROUNDED, "optimizer": {**ROUNDED["optimizer"], "in_backward": True}},
            compares="weights",
            plain=ROUNDED,
            tunings=(FULL,),
        ),
    ),
}
"""What users take together, each with one family."""
EAGER = {"compile": {"kind": "regional", "backend": "aot_eager"}, "train": CHECKPOINTED}
COMPILED: Mapping[str, tuple[str, Technique]] = {  # sums of another order
    "streamed, compiled": ("wan", Technique({**EAGER, "memory": {"resident_blocks": 0}}, tolerance=1e-6, tunings=(FULL,))),
    "small LoRA, compiled": (
        "ltx_video",
        Technique({**SMALL, **EAGER}, tolerance=1e-6, plain={"memory": INT8}, tunings=(LORA,)),
    ),
    "inputs on the host, compiled": (
        "cogview4",
        Technique({**EAGER, "memory": {"activations": "host"}}, tolerance=1e-6, tunings=(LORA,)),
    ),
}
ALONE = [(family, own) for own in TECHNIQUES.items() for family in FAMILIES]
COMBINED = [(family, (name, own)) for name, (family, own) in {**TOGETHER, **COMPILED}.items()]


def marks_of(family: str, name: str, tuning: Mapping[str, Any]) -> list[pytest.MarkDecorator]:
    """Each family has each technique, in turn with a LoRA and at full rank; the other of the two is for `make test-long`."""
    if name not in TECHNIQUES:
        return []
    place = list(FAMILIES).index(family) + list(TECHNIQUES).index(name)
    return [pytest.mark.long] if (place + (tuning is FULL)) % 2 else []


CELLS = [
    pytest.param(family, own, tuning, id=f"{family}-{name}-{tuning['kind']}", marks=marks_of(family, name, tuning))
    for family, (name, own) in ALONE + COMBINED
    for tuning in own.tunings
]
RUNS = [
    *(pytest.param(own, list(FAMILIES)[number % 6], id=name) for number, (name, own) in enumerate(TECHNIQUES.items())),
    *(pytest.param(own, family, id=name) for name, (family, own) in TOGETHER.items()),
]


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Let no test find what another has compiled."""
    names = ("recompile_limit", "accumulated_recompile_limit", "fail_on_recompile_limit_hit")
    with torch._dynamo.config.patch({name: getattr(torch._dynamo.config, name) for name in names}):
        yield
    torch._dynamo.reset()


class Plain:
    """The families, each made and encoded once, and what they compute without a technique, each computed once."""

    def __init__(self, tiny: Callable[[str, str], Path], root: Path) -> None:
        self._tiny, self._root = tiny, root
        self._subjects: dict[str, ModelUnderTest] = {}
        self._computed: dict[str, dict[str, Tensor]] = {}

    def subject(self, family: str) -> ModelUnderTest:
        if family not in self._subjects:
            variant, size = FAMILIES[family]
            length = {} if family == "cogvideox" else {"max_sequence_length": 16}
            section = {"path": str(self._tiny(family, variant)), **length}
            self._subjects[family] = ModelUnderTest(section, size, self._root / family)
        return self._subjects[family]

    def computed(self, family: str, tuning: Mapping[str, Any], technique: Technique) -> dict[str, Tensor]:
        key = f"{family} {tuning} {technique.plain} {technique.compares}"
        if key not in self._computed:
            same = replace(technique, sections=technique.plain)
            self._computed[key] = computed(trainer_of(self.subject(family), tuning, same), self.subject(family), same)
        return self._computed[key]


@pytest.fixture(scope="module")
def plain(tiny: Callable[[str, str], Path], tmp_path_factory: pytest.TempPathFactory) -> Plain:
    """What techniques are compared with."""
    return Plain(tiny, tmp_path_factory.mktemp("techniques"))


def trainer_of(subject: ModelUnderTest, tuning: Mapping[str, Any], technique: Technique) -> tuple[Config, Trainer]:
    """A trainer whose weights are drawn: those of a LoRA begin at zero, where half of the gradients are zero, too."""
    config = subject.config("run", tuning, **technique.sections)
    model, device = open_model(config.model, config.memory), torch.device("cpu")
    own = build_tuning(config.tuning)
    trainer = build_trainer(config, model, objective=subject.objective, tuning=own, device=device)
    trainer.denoiser.train()
    generator = torch.Generator().manual_seed(0)
    with trainer.update.masters(), torch.no_grad():
        for parameter in trained_parameters(trainer.denoiser).values():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator).to(parameter))
    return config, trainer


def computed(made: tuple[Config, Trainer], subject: ModelUnderTest, technique: Technique) -> dict[str, Tensor]:
    """Gradients, or weights after two steps, by the names of weights."""
    config, trainer = made
    with trainer.update.masters():
        weights = trained_parameters(trainer.denoiser)
    with matmul_precision(config.train.matmul_precision):
        if technique.compares == "weights":
            trainer.train_step(subject.batch)
            trainer.train_step(subject.batch)
            return {name: own.detach().float().clone() for name, own in weights.items()}
        losses = trainer.micro_losses(subject.batch)
        trainer.update.backward(losses, batch_size=config.train.batch_size)
    stepped = zip(weights, trainer.update.parameters, strict=True)
    found = {name: own.grad.float().clone() for name, own in stepped if own.grad is not None}
    trainer.update.drop_gradients()
    return found


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own, tracing
@pytest.mark.parametrize(("family", "technique", "tuning"), CELLS)
def test_it_trains_and_computes_what_it_does_without(
    family: str, technique: Technique, tuning: Mapping[str, Any], plain: Plain
) -> None:
    subject = plain.subject(family)
    expected = plain.computed(family, tuning, technique)
    made = trainer_of(subject, tuning, technique)
    found = computed(made, subject, technique)
    assert found.keys() == expected.keys() != set()
    for weight, value in expected.items():
        most = float(value.abs().max()) * technique.tolerance_of.get(family, technique.tolerance)
        torch.testing.assert_close(found[weight], value, rtol=0, atol=most, msg=lambda text, of=weight: f"{of}: {text}")
    trainer = made[1]
    with trainer.update.masters():
        weights = trained_parameters(trainer.denoiser)
    before = {weight: own.detach().clone() for weight, own in weights.items()}
    assert trainer.train_step(subject.batch).is_finite
    assert any(not torch.equal(own, before[weight]) for weight, own in weights.items())


@pytest.mark.parametrize(("technique", "family"), RUNS)
def test_a_run_saves_goes_on_to_the_bit_exports_and_draws(
    technique: Technique, family: str, plain: Plain, tmp_path: Path
) -> None:
    """One step and one more, against two at once; each draws a picture at its end, for encoders of video repeat no bits."""
    subject = plain.subject(family)
    prompts = tmp_path / "prompts.json"
    prompts.write_text(f'[{{"prompt": "{CAPTIONS[0]}", "num_inference_steps": 2, "num_frames": 1}}]')

    def run(folder: str, steps: int) -> Any:
        sections = {**technique.sections, "validation": {"prompts": str(prompts)}}
        own = {**technique.sections.get("train", {}), "steps": steps}
        return train(subject.config(f"{tmp_path.name} {folder}", technique.tunings[0], **{**sections, "train": own}))

    whole = run("whole", 2)
    run("parts", 1)
    parts = run("parts", 2)
    assert_equal_files(whole.weights, parts.weights, "the resumed run")
    assert curve(whole.output_dir, "loss", "grad_norm") == curve(parts.output_dir, "loss", "grad_norm")
    drawn = [(own.output_dir / "validation/step-000002/00.png").read_bytes() for own in (whole, parts)]
    assert drawn[0] == drawn[1] != (whole.output_dir / "validation/step-000000/00.png").read_bytes()
