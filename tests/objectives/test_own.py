"""Losses of the user's own: any number of forward passes, with the adapter and without it, and no change of the loop."""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import Tree, config_of, curve, events_of, flux_tree, merged, write_pictures
from torch import Tensor
from torch.nn.functional import huber_loss, logsigmoid

import finetrainers
from finetrainers import Batch, ConfigError, OwnObjective, Predict, load_config, train
from finetrainers.config import Config
from finetrainers.models import open_model
from finetrainers.objectives.base import losses_of
from finetrainers.objectives.diffusion import Diffusion
from finetrainers.objectives.flow import FlowMatching
from finetrainers.testing import ModelUnderTest
from finetrainers.testing.model_under_test import FULL, LORA
from finetrainers.training.objective import build_objective
from finetrainers.tuning.base import trained_parameters

PAGE = Path(__file__).parents[2] / "docs/change.md"
PYTHON = Path(__file__).parents[2] / "docs/python.md"
LOSSES = ("loss", "grad_norm")


class Preference(OwnObjective):
    """Diffusion-DPO (arXiv:2311.12908, eq. 14), with mirrored latents in place of rejected ones."""

    needs_base = True

    def losses(self, predict: Predict, batch: Batch) -> Tensor:
        """Four forward passes: policy and reference, for what is preferred and what is not."""
        rejected = replace(batch, latents=batch.latents.flip(-1), noise=batch.noise.flip(-1))
        gains = [self._gain(predict, each) for each in (batch, rejected)]
        return -logsigmoid(5.0 * (gains[0] - gains[1]))

    def _gain(self, predict: Predict, batch: Batch) -> Tensor:
        """By how much the policy's error is below the reference's, [B]."""
        noised = self.family.noised(batch)
        reference, policy = (ask(noised.x, noised.sigma, batch) for ask in (predict.base, predict))
        return self.family.loss(reference, noised) - self.family.loss(policy, noised)


PREFERENCE = f"{__file__}:Preference"


def huber_file(folder: Path) -> Path:
    """The example of the documentation, as a user would copy it."""
    (code,) = re.findall(r"^```python\n(\"\"\"A loss that outliers.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "huber.py"
    file.write_text(code)
    return file


@pytest.fixture(scope="module")
def base(tiny_flux: Path, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    root = tmp_path_factory.mktemp("own")
    own_data = [{"path": str(write_pictures(root / "held-out", 2, seed=1)), "buckets": [[1, 64, 64]]}]
    return flux_tree(
        tiny_flux,
        write_pictures(root / "data", 4),
        root,
        optimizer={"lr": 0.02},
        train={"steps": 3, "batch_size": 2, "micro_batch_size": 1},
        validation={"data": own_data, "noise_levels": 2},
    )


@pytest.fixture(scope="module")
def subject(tiny_flux: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelUnderTest:
    section = {"path": str(tiny_flux), "max_sequence_length": 16}
    return ModelUnderTest(section, size=(1, 64, 64), folder=tmp_path_factory.mktemp("subject"))


def held_out(directory: str | Path) -> list[float]:
    return [event["held_out_loss"] for event in events_of(directory) if event["event"] == "validation"]


def moved(trainer: Any) -> Any:
    """A trainer whose adapter is no longer that of the start."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trainer.update.parameters:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return trainer


# -- the base model ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tuning", [LORA, {**LORA, "dora": True}, {"kind": "lokr", "rank": 2}], ids=["lora", "dora", "lokr"])
def test_without_its_adapter_a_model_answers_as_the_base(subject: ModelUnderTest, tuning: dict[str, Any]) -> None:
    """Bit for bit, whatever has been trained, and the adapter is back afterwards."""
    trainer, batch = moved(subject.trainer(tuning)), subject.batch
    trained = list(trained_parameters(trainer.denoiser))
    policy = trainer.predict(batch.noise, batch.sigma, batch)
    reference = trainer.predict.base(batch.noise, batch.sigma, batch)
    assert not reference.requires_grad
    assert torch.equal(trainer.predict(batch.noise, batch.sigma, batch), policy)
    assert list(trained_parameters(trainer.denoiser)) == trained
    trainer.denoiser = subject.model.load_denoiser()
    assert torch.equal(trainer.predict(batch.noise, batch.sigma, batch), reference)
    assert not torch.allclose(reference, policy, rtol=1e-3)


@pytest.mark.parametrize("is_saving", [False, True], ids=["plain", "checkpointing"])
def test_asking_the_base_leaves_the_gradients_of_the_policy(subject: ModelUnderTest, is_saving: bool) -> None:
    """Before, between and after its own forward passes, also where they are computed again in the backward pass."""
    trainer, batch = moved(subject.trainer(train={"gradient_checkpointing": is_saving})), subject.batch
    trainer.denoiser.train()

    def gradients(*asks: Any) -> list[Tensor]:
        answers = [ask(batch.noise, batch.sigma, batch) for ask in asks]
        sum(answer.square().sum() for answer in answers if answer.requires_grad).backward()
        found = [parameter.grad for parameter in trainer.update.parameters]
        trainer.update.optimizer.zero_grad(set_to_none=True)
        return found

    policy, reference = trainer.predict, trainer.predict.base
    alone, beside = gradients(policy, policy), gradients(reference, policy, reference, policy, reference)
    assert all(torch.equal(a, b) for a, b in zip(alone, beside, strict=True))
    assert any(bool(gradient.any()) for gradient in alone)


def test_an_adapter_is_back_after_an_error(subject: ModelUnderTest) -> None:
    trainer, batch = subject.trainer(), subject.batch
    trained = list(trained_parameters(trainer.denoiser))
    with pytest.raises(RuntimeError):
        trainer.predict.base(batch.noise[..., :-1], batch.sigma, batch)
    assert list(trained_parameters(trainer.denoiser)) == trained


def test_there_is_no_base_where_the_model_itself_is_trained(subject: ModelUnderTest) -> None:
    batch = subject.batch
    with pytest.raises(ConfigError, match=r"tuning\.kind: full trains the weights themselves.*set lora or lokr"):
        subject.trainer(FULL).predict.base(batch.noise, batch.sigma, batch)
    control = subject.controlled
    with pytest.raises(ConfigError, match=r"conditioning: channel_concat trains x_embedder itself.*remove it"):
        control.trainer().predict.base(control.batch.noise, control.batch.sigma, control.batch)


# -- runs -------------------------------------------------------------------------------------------------------------


def test_the_loss_in_the_documentation_is_a_huber_loss(base: Tree, tmp_path: Path) -> None:
    """It trains, is measured by itself, and is that of torch."""
    sections = {"objective": {"kind": f"{huber_file(tmp_path)}:Huber"}}
    train(config_of(merged(base, {"output_dir": str(tmp_path / "huber"), **sections})))
    train(config_of(merged(base, {"output_dir": str(tmp_path / "plain")})))
    assert curve(tmp_path / "huber", *LOSSES) != curve(tmp_path / "plain", *LOSSES)
    assert len(set(held_out(tmp_path / "huber"))) == 2
    assert held_out(tmp_path / "huber")[0] < held_out(tmp_path / "plain")[0] / 2
    config = config_of(merged(base, sections))
    objective = build_objective(config, open_model(config.model))
    batch = batch_of(2)
    answer = torch.randn(batch.latents.shape, generator=torch.Generator().manual_seed(5))
    wanted = huber_loss(answer, batch.noise - batch.latents, reduction="none", delta=0.1).mean(dim=(1, 2, 3, 4))
    torch.testing.assert_close(losses_of(objective, lambda *_: answer, batch), wanted)  # type: ignore[arg-type]


@pytest.mark.parametrize("micro", [1, 2])
def test_a_preference_of_four_forward_passes_trains(base: Tree, tmp_path: Path, micro: int) -> None:
    """Policy and reference begin as one model: log 2, in training and for held-out samples, and from there on less."""
    sections = {"objective": {"kind": PREFERENCE}, "train": {"steps": 6, "micro_batch_size": micro}}
    train(config_of(merged(base, {"output_dir": str(tmp_path / "run"), **sections})))
    losses = [loss for loss, _ in curve(tmp_path / "run", *LOSSES)]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert min(losses) < math.log(2) - 1e-3
    before, after = held_out(tmp_path / "run")
    assert before == pytest.approx(math.log(2), abs=1e-6)
    assert after < before - 1e-3


def test_a_resumed_run_of_an_own_loss_is_the_same_run(base: Tree, tmp_path: Path) -> None:
    own = {"objective": {"kind": PREFERENCE}}
    train(config_of(merged(base, {"output_dir": str(tmp_path / "whole"), **own, "train": {"steps": 4}})))
    for steps in (2, 4):
        train(config_of(merged(base, {"output_dir": str(tmp_path / "parts"), **own, "train": {"steps": steps}})))
    assert curve(tmp_path / "parts", *LOSSES) == curve(tmp_path / "whole", *LOSSES)


def test_a_run_does_not_go_on_with_another_file(base: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = huber_file(tmp_path)

    def run(steps: int) -> None:
        changes = {"output_dir": str(tmp_path / "run"), "objective": {"kind": "huber.py:Huber"}, "train": {"steps": steps}}
        train(config_of(merged(base, changes)))

    run(1)
    assert load_config(tmp_path / "run/config.yaml").objective.kind == f"{file}:Huber"
    code = file.read_text()
    file.write_text(code.replace("delta=0.1", "delta=0.2"))
    with pytest.raises(
        ConfigError, match=r"objective\.kind: .*huber\.py has changed since .*run was last started"
    ) as caught:
        run(2)
    assert str(caught.value).endswith(
        f", which can begin from these weights: tuning.start_from={tmp_path}/run/weights/step-000001"
    )
    file.write_text(code)
    run(2)
    assert len(curve(tmp_path / "run", *LOSSES)) == 2


# -- what is wrong is said before anything is encoded -----------------------------------------------------------------


def built(base: Tree, **sections: Any) -> OwnObjective:
    config: Config = config_of(merged(base, sections))
    objective = build_objective(config, open_model(config.model))
    assert isinstance(objective, OwnObjective)
    return objective


def test_an_own_objective_has_all_keys_of_the_family(base: Tree, tmp_path: Path) -> None:
    kind = f"{huber_file(tmp_path)}:Huber"
    own = built(base, objective={"kind": kind, "weighting": "cosmap", "noise_levels": "uniform", "shift": 2.0})
    plain = merged(base, {"objective": {"weighting": "cosmap", "noise_levels": "uniform", "shift": 2.0}})
    assert own.family == build_objective(config_of(plain), open_model(config_of(plain).model))
    assert own.measured().family == own.family.measured()
    assert own.family.measured().weighting == "none"


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"tuning": {"kind": "full"}},
            r"Preference compares with the base model, of which tuning\.kind: full leaves nothing",
        ),
        (
            {"conditioning": {"kind": "channel_concat", "signal": "gray"}},
            r"Preference compares with the base model, of which conditioning\.kind: channel_concat leaves nothing",
        ),
    ],
)
def test_a_base_model_that_is_needed_has_to_be_left(base: Tree, sections: Tree, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        built(base, objective={"kind": PREFERENCE}, **sections)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (None, r"objective\.kind: the file of .*mine\.py:Mine' cannot be read"),
        ("x = 1", r"objective\.kind: .*mine\.py has no OwnObjective 'Mine'"),
        (
            "class Mine: pass",
            r"objective\.kind: .*mine\.py: Mine is in the file, but is not a subclass of OwnObjective; derive it",
        ),
        ("import nothing_of_this_name", r"objective\.kind: .*mine\.py fails when it is imported"),
        (
            "from finetrainers import OwnObjective\nclass Mine(OwnObjective): pass",
            r"objective\.kind: .*mine\.py: Mine has no losses",
        ),
    ],
)
def test_a_file_without_an_objective_is_refused(base: Tree, tmp_path: Path, code: str | None, message: str) -> None:
    if code is not None:
        (tmp_path / "mine.py").write_text(code)
    with pytest.raises(ConfigError, match=message):
        built(base, objective={"kind": f"{tmp_path / 'mine.py'}:Mine"})


@pytest.mark.parametrize("kind", ["huber", "huber.py", "huber.py:", "Huber"])
def test_a_kind_is_auto_or_a_place_in_a_file(base: Tree, kind: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"objective\.kind: {kind!r} is none of auto, masked, dpo, and not a file\.py:Name"
    ):
        config_of(merged(base, {"objective": {"kind": kind}}))


# -- the answer -------------------------------------------------------------------------------------------------------


def batch_of(size: int, frames: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(3)
    latents, noise = (torch.randn(size, 4, frames, 2, 2, generator=generator) for _ in range(2))
    sigma = torch.rand(size, frames, generator=generator)
    prompt = finetrainers.Prompt({}, torch.zeros(size))
    return Batch(torch.arange(size), latents, noise, sigma, torch.ones(size, frames), prompt)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (torch.tensor(1.0), r"torch\.float32 \[\]"),
        (torch.ones(2, 1), r"torch\.float32 \[2, 1\]"),
        (torch.ones(2).bfloat16(), r"torch\.bfloat16 \[2\]"),
        (1.0, "a float"),
    ],
)
def test_losses_are_one_for_each_sample(answer: object, found: str) -> None:
    class Wrong(OwnObjective):
        def losses(self, predict: Predict, batch: Batch) -> Any:
            return answer

    with pytest.raises(ConfigError, match=rf"Wrong\.losses returned {found}; expected .*: torch\.float32 \[2\]"):
        losses_of(Wrong(FlowMatching()), lambda *_: None, batch_of(2))  # type: ignore[arg-type]


def test_the_weighted_loss_in_the_documentation_is_measured_without_its_weights() -> None:
    (code,) = re.findall(r"^```python\n([^`]*class Weighted.*?)^```$", PYTHON.read_text(), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    own, batch = names["Weighted"](FlowMatching()), batch_of(3, frames=2)
    answer = torch.randn(batch.latents.shape, generator=torch.Generator().manual_seed(4))
    plain = FlowMatching().losses(lambda *_: answer, batch)  # type: ignore[arg-type]
    for objective, weight in ((own.measured(), 1.0), (own, 2 - batch.sigma.amax(1))):
        torch.testing.assert_close(losses_of(objective, lambda *_: answer, batch), plain * weight)  # type: ignore[arg-type]


@pytest.mark.parametrize("ending, finds", [("", False), (".detach()", True)])
def test_a_loss_without_a_gradient_is_named(subject: ModelUnderTest, ending: str, finds: bool) -> None:
    class Mine(OwnObjective):
        def losses(self, predict: Predict, batch: Batch) -> Tensor:
            losses = self.family.losses(predict, batch)
            return losses.detach() if ending else losses

    trainer = subject.trainer()
    trainer.objective = Mine(trainer.objective)
    if not finds:
        assert trainer.micro_losses(subject.batch).requires_grad
        return
    with pytest.raises(ConfigError, match=r"^objective\.kind: Mine\.losses has no gradient; let it depend on what predict"):
        trainer.micro_losses(subject.batch)


@pytest.mark.parametrize("family", [FlowMatching(), Diffusion(alphas_cumprod=(0.9, 0.5, 0.1))], ids=["flow", "diffusion"])
def test_what_is_measured_is_what_trains_without_its_weights(family: FlowMatching) -> None:
    """Up to the order of the sum, over the frames that count."""
    batch, loss_mask = batch_of(3, frames=3), torch.tensor([[0.0, 1.0, 1.0], [1.0, 1.0, 1.0], [0.0, 0.0, 1.0]])
    answer = torch.randn(batch.latents.shape, generator=torch.Generator().manual_seed(4))

    def losses(objective: FlowMatching, batch: Batch) -> Tensor:
        return objective.losses(lambda *_: answer, batch)  # type: ignore[arg-type]

    weighted = replace(family, weighting="sigma_sqrt")
    torch.testing.assert_close(losses(weighted.measured(), batch), losses(family, batch))
    some = replace(batch, loss_mask=loss_mask)
    torch.testing.assert_close(losses(weighted.measured(), some), losses(family, some))
    assert not torch.allclose(losses(weighted, some), losses(family, some))
