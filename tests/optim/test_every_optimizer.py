"""Every optimizer and way to step, LoRA and full rank in bfloat16: trains, and goes on from a checkpoint to the bit."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from finetrainers.config.optim import OwnOptimizer
from finetrainers.optim.state import tensors_of
from finetrainers.testing.contract import ModelUnderTest
from finetrainers.training.checkpoint.checkpoints import Checkpoints
from finetrainers.training.trainer import Trainer

STEPS = 4
TUNINGS: dict[str, dict[str, Any]] = {"lora": {"kind": "lora", "rank": 64, "alpha": 64}, "full": {"kind": "full"}}
"""A rank by which the states of a LoRA are large enough to be kept in few bits."""
FREE = {"clip_norm": math.inf}
OWN_LR = {"prodigy": {"lora": 2000.0, "full": 100.0}, "pytorch_optimizer:came": {"lora": 2e-4, "full": 2e-4}}
"""Prodigy begins a million times lower."""
NAMES = [*get_args(OwnOptimizer), "pytorch_optimizer:lion", "pytorch_optimizer:came"]
ROUNDED, IN_BACKWARD, ON_HOST = {"masters": "stochastic_rounding"}, {"in_backward": True}, {"state": "cpu"}
WAYS: list[dict[str, Any]] = [
    *({"name": name} for name in NAMES),
    {"name": "adamw", **ROUNDED},
    {"name": "adamw", **ON_HOST},
    {"name": "adamw_8bit", **ROUNDED, **IN_BACKWARD},
    {"name": "adamw_4bit", **ROUNDED, **IN_BACKWARD},
    {"name": "muon", **ROUNDED},
    {"name": "adamw_schedule_free", **IN_BACKWARD},
    {"name": "adafactor", **ON_HOST},
]


def called(way: dict[str, Any]) -> str:
    return " ".join(str(value) if key == "name" else key for key, value in way.items())


@pytest.fixture(scope="module")
def subject(tiny_flux: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelUnderTest:
    section = {"path": str(tiny_flux), "dtype": "bfloat16", "max_sequence_length": 16}
    return ModelUnderTest(section, size=(1, 64, 64), folder=tmp_path_factory.mktemp("optimizers"))


def trainer_of(subject: ModelUnderTest, tuning: str, *, train: dict[str, Any] = FREE, **optimizer: Any) -> Trainer:
    lr = OWN_LR.get(optimizer.get("name", ""), {"lora": 0.02, "full": 0.002})[tuning]
    return subject.trainer(TUNINGS[tuning], optimizer={"lr": lr, **optimizer}, train={"steps": STEPS, **train})


def take_steps(trainer: Trainer, subject: ModelUnderTest, *, stop: int) -> list[tuple[float, float]]:
    """Loss and norm of each step; all of one batch."""
    found: list[tuple[float, float]] = []

    def remember(_: Trainer, metrics: Any) -> None:
        found.append((metrics.loss, metrics.grad_norm))

    trainer.after_step = (remember,)
    trainer.run(iter([subject.batch] * stop), stop=stop)
    return found


def tensors(trainer: Trainer) -> Iterator[Tensor]:
    """All that a checkpoint has to hold."""
    yield from (parameter.detach() for parameter in trainer.update.parameters)
    yield from (tensor for _, tensor in tensors_of(trainer.update.optimizer_state()["state"]))


def assert_equal(one: Trainer, other: Trainer) -> None:
    pairs = list(zip(tensors(one), tensors(other), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    weights = zip(one.denoiser.parameters(), other.denoiser.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)


def case(number: int, tuning: str) -> Any:
    """Each optimizer with both, its other ways in turn with a LoRA and at full rank; the rest is for `make test-long`."""
    is_rest = number >= len(NAMES) and number % 2 == (tuning == "lora")
    return pytest.param(
        WAYS[number], tuning, id=f"{called(WAYS[number])}-{tuning}", marks=[pytest.mark.long] if is_rest else []
    )


@pytest.mark.parametrize(("way", "tuning"), [case(number, tuning) for number in range(len(WAYS)) for tuning in TUNINGS])
def test_trains_and_goes_on_from_a_checkpoint_to_the_bit(
    subject: ModelUnderTest, tmp_path: Path, way: dict[str, Any], tuning: str
) -> None:
    trainer, begun = (trainer_of(subject, tuning, **way) for _ in range(2))
    found = take_steps(trainer, subject, stop=STEPS // 2)
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(trainer)
    checkpoints.restore(begun, STEPS // 2)
    found += take_steps(trainer, subject, stop=STEPS)
    assert take_steps(begun, subject, stop=STEPS) == found[STEPS // 2 :]
    assert_equal(trainer, begun)
    assert found[-1][0] < found[0][0]


ALONE = ["adamw", "sgd", "adamw_8bit", "adamw_fp8", "adafactor", "muon", "adamw_schedule_free", "pytorch_optimizer:lion"]


@pytest.mark.parametrize(("name", "tuning"), [("adamw", "lora"), *((name, "full") for name in ALONE)])
def test_a_step_inside_backward_is_the_same_step(subject: ModelUnderTest, name: str, tuning: str) -> None:
    plain, inside = (trainer_of(subject, tuning, name=name, in_backward=value) for value in (False, True))
    assert take_steps(plain, subject, stop=3) == take_steps(inside, subject, stop=3)
    assert_equal(plain, inside)


@pytest.mark.parametrize("tuning", TUNINGS)
def test_rounded_weights_are_the_same_inside_backward(subject: ModelUnderTest, tuning: str) -> None:
    """Where blocks are computed again in the backward pass, too."""
    train = {**FREE, "gradient_checkpointing": True}
    plain, inside = (trainer_of(subject, tuning, train=train, **ROUNDED, in_backward=value) for value in (False, True))
    assert take_steps(plain, subject, stop=3) == take_steps(inside, subject, stop=3)
    assert_equal(plain, inside)


@pytest.mark.parametrize(
    ("name", "tuning"), [("adamw", "lora"), *((name, "full") for name in ("adamw", "sgd", "adamw_8bit", "muon", "prodigy"))]
)
def test_a_step_on_the_host_is_the_same_step(
    subject: ModelUnderTest, name: str, tuning: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With clipping and two micro-batches, and the kernels of the plain run: fused ones round otherwise."""
    monkeypatch.setattr("finetrainers.optim.optimizers.kernels_for", lambda *_, **__: {"foreach": False})
    train = {"micro_batch_size": 1, "clip_norm": 0.01}
    plain, host = (trainer_of(subject, tuning, train=train, name=name, state=value) for value in ("device", "cpu"))
    assert take_steps(plain, subject, stop=3) == take_steps(host, subject, stop=3)
    assert_equal(plain, host)
