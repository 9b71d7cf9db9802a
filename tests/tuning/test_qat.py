"""Training for quantisation: what trains is what the exported, quantised model computes."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import Tree, config_of, curve, flux_tree, merged, write_pictures
from torch import nn

import finetrainers
from finetrainers.errors import ConfigError
from finetrainers.sampling.sample import sample_run
from finetrainers.testing.model_under_test import FULL, ModelUnderTest
from finetrainers.training.export import export_facts
from finetrainers.tuning import build_tuning
from finetrainers.tuning.qat import rounded_layers, train_rounded

CASES = {
    "cogvideox": ("5b", (9, 64, 64), "int4"),
    "cogview4": ("6b", (1, 64, 64), "int8"),
    "flux": ("dev", (1, 64, 64), "int8_int4"),
    "hunyuan_video": ("t2v", (9, 64, 64), "int8"),
    "ltx_video": ("0.9.0", (9, 64, 64), "int8_int4"),
    "wan": ("2.1-t2v", (9, 64, 64), "int4"),
}
KINDS = ("int8", "int4", "int8_int4")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torchao", "ignore::DeprecationWarning:torchao")


@pytest.fixture(scope="module")
def subjects(tiny: Callable[[str, str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ModelUnderTest]:
    """Each family once."""
    made: dict[str, ModelUnderTest] = {}

    def make(family: str) -> ModelUnderTest:
        if family not in made:
            variant, size, _ = CASES[family]
            section = {"path": str(tiny(family, variant)), "dtype": "bfloat16"}
            made[family] = ModelUnderTest(section, size, tmp_path_factory.mktemp(family))
        return made[family]

    return make


def quantized(denoiser: nn.Module) -> set[str]:
    """Layers that round their weights in training, or whose weights are rounded for good."""
    return {
        name
        for name, layer in denoiser.named_modules()
        if isinstance(layer, nn.Linear)
        and (type(layer).__name__ == "FakeQuantizedLinear" or type(layer.weight).__name__ == "IntxUnpackedToInt8Tensor")
    }


@pytest.mark.parametrize("family", CASES)
def test_plain_diffusers_loads_the_quantised_model_and_it_answers_as_what_was_trained(
    family: str, subjects: Callable[[str], ModelUnderTest], tmp_path: Path
) -> None:
    """After a step, of float32 masters; from safetensors alone."""
    subject, kind = subjects(family), CASES[family][2]
    tuning = {**FULL, "qat": kind}
    trainer = subject.trainer(tuning, optimizer={"lr": 1e-3})
    before = [parameter.detach().clone() for parameter in trainer.update.parameters]
    assert trainer.train_step(subject.batch).is_finite
    assert all(not torch.equal(one, other) for one, other in zip(before, trainer.update.parameters, strict=True))
    config = subject.config("run", tuning)
    own = build_tuning(config.tuning)
    with trainer.update.masters():
        facts = export_facts(trainer, config, subject.model)["transformer"]
        own.export(trainer.denoiser, dict(own.exported(trainer.denoiser, facts)), tmp_path, facts)
    assert not [file for file in tmp_path.rglob("*") if file.suffix in (".bin", ".pt", ".pth")]
    loaded = type(trainer.denoiser).from_pretrained(tmp_path / "transformer", torch_dtype=torch.bfloat16)
    assert quantized(loaded) == quantized(trainer.denoiser) != set()
    trainer.denoiser.eval()
    answers = []
    for denoiser in (trainer.denoiser, loaded):
        trainer.denoiser = denoiser
        with torch.no_grad():
            answers.append(trainer.predict(subject.batch.noise, subject.batch.sigma, subject.batch).float())
    assert float((answers[1] - answers[0]).norm() / answers[0].norm()) < 2e-3


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_pass_the_rounding_straight_through(kind: str) -> None:
    """That of the weight as if nothing was rounded, that of the input by the weight that is."""
    block = type("Block", (nn.Sequential,), {})(nn.Linear(64, 32))
    root = nn.ModuleList([block])
    plain = block[0]
    train_rounded(root, kind, ("Block",))
    assert rounded_layers(root) == {"0.0"}
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    answer = block(x)
    rounded = block[0].weight_fake_quantizer(plain.weight.detach())
    steps = 255 if kind == "int8" else 15
    assert 0 < float((rounded - plain.weight).detach().abs().max()) <= 1.2 * float(plain.weight.detach().abs().max()) / steps
    seen = x if block[0].activation_fake_quantizer is None else block[0].activation_fake_quantizer(x)
    torch.testing.assert_close(answer, nn.functional.linear(seen, rounded, plain.bias))
    answer.sum().backward()
    found, expected = plain.weight.grad, seen.detach().sum(0).expand_as(plain.weight)
    assert found is not None
    is_within = found != 0  # beyond the largest number of a format there is none
    assert is_within.float().mean() > 0.98
    torch.testing.assert_close(found[is_within], expected[is_within])
    torch.testing.assert_close(x.grad, rounded.sum(0).expand_as(x))


def test_layers_whose_rows_are_no_whole_groups_stay_as_they_are() -> None:
    root = nn.ModuleList([type("Block", (nn.Sequential,), {})(nn.Linear(48, 32), nn.Linear(64, 32))])
    train_rounded(root, "int4", ("Block",))
    assert rounded_layers(root) == {"0.1"}


def run(tree: Tree, directory: Path, **sections: Any) -> Path:
    finetrainers.train(config_of(merged(tree, {"output_dir": str(directory), **sections})))
    return directory


@pytest.fixture(scope="module")
def tree(tiny_flux: Path, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    root = tmp_path_factory.mktemp("qat")
    (root / "prompts.json").write_text('[{"prompt": "a dog", "num_inference_steps": 2}]')
    tuning = {"kind": "full", "qat": "int4"}
    validation = {"prompts": str(root / "prompts.json")}
    tree = flux_tree(tiny_flux, write_pictures(root / "media", 4), root, tuning=tuning, validation=validation)
    return merged(tree, {"model": {"dtype": "bfloat16"}})


def test_a_run_goes_on_draws_and_its_export_can_be_begun_from(tree: Tree, tmp_path: Path) -> None:
    whole = run(tree, tmp_path / "whole", checkpoint={"every": 2})
    run(tree, tmp_path / "parts", checkpoint={"every": 2}, train={"steps": 2})
    parts = run(tree, tmp_path / "parts", checkpoint={"every": 2})
    assert curve(parts, "loss", "grad_norm") == curve(whole, "loss", "grad_norm")
    file = "weights/step-000004/transformer/diffusion_pytorch_model.safetensors"
    assert (parts / file).read_bytes() == (whole / file).read_bytes()
    (drawn,) = sample_run(whole, [{"prompt": "a dog", "num_inference_steps": 2}], device="cpu")
    assert drawn.exists()
    begun = run(tree, tmp_path / "begun", tuning={"start_from": str(whole / "weights/step-000004")}, train={"steps": 1})
    assert curve(begun, "loss") != curve(whole, "loss")[:1]


def test_a_missing_package_is_named_before_anything_is_loaded(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(
        ConfigError, match=r"tuning\.qat: int4 needs the package torchao: pip install '\./finetrainers\[torcha"
    ):
        run(tree, tmp_path / "run")
