"""Models of two experts: each step to the expert of its noise levels, one trained or both, resumed, exported, drawn with."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import CAPTION
from runs import adapter_file, card_lines
from safetensors.torch import load_file
from torch import Tensor, nn

from finetrainers import sample_run, train
from finetrainers.config import ModelConfig
from finetrainers.errors import ConfigError
from finetrainers.models import open_model
from finetrainers.models.experts import Experts, expert_of
from finetrainers.testing.contract import CHECKS
from finetrainers.testing.model_under_test import FULL, LORA, ModelUnderTest

BOUNDARY = 0.875
SIZE = (5, 32, 32)
PARTS = {"high_noise": ("transformer",), "low_noise": ("transformer_2",), "both": ("transformer", "transformer_2")}
LEVELS = {"transformer": "high_noise", "transformer_2": "low_noise"}


def subject_of(path: Path, folder: Path, expert: str | None, **model: Any) -> ModelUnderTest:
    section = {"path": str(path), "max_sequence_length": 16, **model}
    return ModelUnderTest(section if expert is None else {**section, "expert": expert}, SIZE, folder)


@pytest.fixture
def a14b(tiny: Callable[[str, str], Path]) -> Path:
    return tiny("wan", "2.2-t2v-a14b")


def test_noise_levels_are_answered_by_their_expert() -> None:
    """As the pipeline has it: ``transformer`` from the boundary on, ``transformer_2`` below; 0.9 is no float32."""
    high, low = nn.Identity(), nn.Identity()
    for boundary in (0.875, 0.9):
        experts = Experts({"transformer": high, "transformer_2": low}, [boundary, 0.0])
        levels = torch.tensor([0.0, 0.5, boundary, boundary, 1.0])
        levels[2] = levels[2].nextafter(torch.tensor(0.0))
        assert [expert_of(experts, level) for level in levels.split(1)] == [low, low, low, high, high]
        assert expert_of(experts, levels[:3]) is low
        assert expert_of(experts, levels[3:]) is high
        with pytest.raises(ConfigError, match=r"objective\.kind: noise levels .* are for transformer and transformer_2"):
            expert_of(experts, levels)
    assert expert_of(low, levels) is low


@pytest.mark.parametrize("expert", [None, *PARTS])
def test_noise_levels_are_those_of_the_experts_that_train(a14b: Path, tmp_path: Path, expert: str | None) -> None:
    """The distribution is that of the whole model, cut at the boundary."""
    subject = subject_of(a14b, tmp_path, expert)
    objective: Any = subject.objective
    u = (torch.arange(4096) + 0.5)[:, None] / 4096
    whole = replace(objective.noise_levels, between=(0.0, 1.0), cuts=())(u[:, 0], 8)
    names = {"high_noise": ["high_noise"], "low_noise": ["low_noise"]}.get(str(expert), ["low_noise", "high_noise"])
    assert len(objective.step_draws) == len(names) - 1
    for name, turn in zip(names, (0.0, 0.999), strict=False):  # of both, a draw of the step chooses one
        sigma = objective.sigma(torch.cat([u, torch.full_like(u, turn)][: len(names)], dim=1), tokens=8)
        low, high = {"high_noise": (BOUNDARY, 1.0), "low_noise": (0.0, BOUNDARY)}[name]
        assert float(sigma.min()) >= low - 1e-6
        assert float(sigma.max()) <= high + 1e-6
        kept = whole[(whole >= low) & (whole < high)]
        quantiles = torch.tensor([0.1, 0.5, 0.9])
        torch.testing.assert_close(sigma.quantile(quantiles), kept.quantile(quantiles), rtol=0, atol=2e-3)
    assert subject.model.denoisers.trained == PARTS[expert or "both"]


OF_RUNS = ("control_is_", "exported_weights_")
"""How the names of checks that train and draw begin."""


@pytest.fixture(scope="module")
def alone(tiny: Callable[[str, str], Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelUnderTest]:
    """Each expert once: its samples are encoded for the first check and stay."""
    path = tiny("wan", "2.2-t2v-a14b")
    return {expert: subject_of(path, tmp_path_factory.mktemp(expert), expert) for expert in ("high_noise", "low_noise")}


def cell(expert: str, check: str) -> Any:
    """What trains and draws, with one of the two; going on, which both do with a control, for `make test-long`."""
    is_alike = check == "a_resumed_run_is_the_same_run" or (expert == "low_noise" and check.startswith(OF_RUNS))
    return pytest.param(check, expert, marks=[pytest.mark.long] if is_alike else [])


@pytest.mark.parametrize(
    ("check", "expert"), [cell(expert, check) for expert in ("high_noise", "low_noise") for check in CHECKS]
)
def test_one_expert_passes_the_contract(alone: dict[str, ModelUnderTest], expert: str, check: str) -> None:
    CHECKS[check](alone[expert])


def test_training_both_is_training_each_in_its_steps(a14b: Path, tmp_path: Path) -> None:
    """A step of each expert gives it the gradient that it gets alone, and the other none."""
    both = subject_of(a14b, tmp_path, "both")
    for level, expert in ((0.95, "high_noise"), (0.3, "low_noise")):
        batch = replace(both.batch, sigma=torch.full_like(both.batch.sigma, level))
        trainer, alone = both.trainer(FULL), subject_of(a14b, tmp_path / expert, expert).trainer(FULL)
        for own in (trainer, alone):
            own.micro_losses(batch).sum().backward()
        for name, part in trainer.denoiser.named_children():
            if name not in PARTS[expert]:
                assert all(own.grad is None for own in part.parameters())
                continue
            for (weight, one), other in zip(part.named_parameters(), alone.denoiser.parameters(), strict=True):
                assert (one.grad is None) == (other.grad is None)
                assert other.grad is None or torch.equal(one.grad, other.grad), weight


@pytest.mark.filterwarnings("ignore:`torch_dtype` is deprecated:FutureWarning")  # pipelines of diffusers 0.38 take no other
@pytest.mark.parametrize(
    "expert, kind", [(expert, kind) for expert in PARTS for kind in ("lora", "full")] + [("both", "lokr")]
)
def test_weights_of_the_trained_experts_are_exported_and_drawn_with(
    a14b: Path, tmp_path: Path, expert: str, kind: str
) -> None:
    """The model card's snippet gives a pipeline whose experts answer as trained, and those not trained as before."""
    tuning: dict[str, Mapping[str, Any]] = {"lora": LORA, "full": FULL, "lokr": {"kind": "lokr", "rank": 2, "alpha": 8}}
    subject = subject_of(a14b, tmp_path, expert)
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps([{"prompt": CAPTION, "num_inference_steps": 3, "guidance_scale": 1.0}]))
    sections = {"train": {"steps": 6}, "validation": {"prompts": str(prompts)}, "optimizer": {"lr": 0.05}}
    result = train(subject.config("run", tuning[kind], **sections))
    files = {
        f"run-step000006-{LEVELS[name]}.safetensors" if kind != "full" else f"{name}/diffusion_pytorch_model.safetensors"
        for name in PARTS[expert]
    }
    assert {str(file.relative_to(result.weights)) for file in result.weights.rglob("*.safetensors")} == files

    names: dict[str, Any] = {}
    exec(card_lines(result.weights), names)  # noqa: S102 - our card
    plain = type(names["pipeline"]).from_pretrained(a14b)
    for name in PARTS["both"]:
        ours, base = (answer_of(pipeline.components[name]) for pipeline in (names["pipeline"], plain))
        assert torch.allclose(ours, base) == (name not in PARTS[expert]), name
    validated = frames_of(tmp_path / "run/validation/step-000006/00.mp4")
    untrained = frames_of(tmp_path / "run/validation/step-000000/00.mp4")
    (sampled,) = sample_run(
        tmp_path / "run", [{"prompt": CAPTION, "num_inference_steps": 3, "guidance_scale": 1.0}], device="cpu"
    )
    assert np.abs(frames_of(sampled) - validated).max() <= 3, "sampling and validation draw with the same experts"
    assert np.abs(untrained - validated).max() > 3


def answer_of(transformer: Any) -> Tensor:
    """What a transformer makes of fixed noise and a fixed prompt."""
    generator = torch.Generator().manual_seed(0)
    x, text = torch.randn(1, 16, 2, 4, 4, generator=generator), torch.randn(1, 8, 48, generator=generator)
    with torch.no_grad():
        answer: Tensor = transformer(x, torch.tensor([500.0]), text, return_dict=False)[0]
    return answer


def frames_of(file: Path) -> np.ndarray:
    import av

    with av.open(str(file)) as container:
        return np.stack([frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)])


@pytest.mark.parametrize("options", [{}, {"ema_decay": 0.5, "gradient_checkpointing": True}], ids=["plain", "EMA"])
def test_resuming_both_is_the_same_run_to_the_bit(a14b: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    """Also after a first step, which is one expert's: the other has no averages yet."""
    subject = subject_of(a14b, tmp_path, "both")
    one_row = {"batch_size": 1, "micro_batch_size": 1, "steps": 12, **options}
    whole = train(subject.config("whole", train=one_row))
    first = train(subject.config("parts", train={**one_row, "steps": 1}))
    assert len(trained_files(first.weights)) == 1
    for steps in (3, 12):
        parts = train(subject.config("parts", train={**one_row, "steps": steps}))
    assert len(trained_files(whole.weights)) == 2
    for component in PARTS["both"]:
        one, other = (load_file(adapter_file(weights, component)) for weights in (whole.weights, parts.weights))
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items()), component


def trained_files(weights: Path) -> list[str]:
    """LoRA files whose second factors are no longer the zeros that they begin at."""
    files = {file.name: load_file(file) for file in weights.glob("*.safetensors")}
    return [name for name, state in files.items() if any(t.any() for key, t in state.items() if "lora_B" in key)]


def test_held_out_loss_of_one_expert_is_that_of_its_noise_levels(a14b: Path, tmp_path: Path) -> None:
    subject = subject_of(a14b, tmp_path, "high_noise")
    train(subject.config("run", validation={"held_out": 0.5}, train={"batch_size": 1, "micro_batch_size": 1, "steps": 1}))
    report = json.loads((tmp_path / "run/validation/step-000000/validation.json").read_text())
    assert list(report["held_out_bins"]) == ["0.75-1.00"]


def test_an_expert_of_a_model_with_one_denoiser_is_refused(tiny: Callable[[str, str], Path]) -> None:
    with pytest.raises(ConfigError, match=r"model\.expert: high_noise has no effect: .* has one denoiser; remove it"):
        open_model(ModelConfig(path=str(tiny("wan", "2.1-t2v")), expert="high_noise"))


def test_experts_of_two_data_types_are_refused(a14b: Path, tmp_path: Path) -> None:
    subject = subject_of(a14b, tmp_path, "both", components={"transformer_2": {"dtype": "bfloat16"}})
    with pytest.raises(ConfigError, match=r"model\.components\.transformer_2\.dtype: all experts have one data type"):
        train(subject.config("run"))
