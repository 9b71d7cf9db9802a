"""Runs with a control beside other settings: LoKr, averages, checkpointing, one expert, bfloat16, damaged files, caches."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from runs import adapter_file, config_of, flux_tree, merged, write_pictures
from safetensors.torch import load_file
from torch import Tensor

import finetrainers
from finetrainers.errors import DataError
from finetrainers.models import open_model
from finetrainers.sampling.sample import sample_run
from finetrainers.testing.model_under_test import ModelUnderTest
from finetrainers.training.build import build_trainer
from finetrainers.training.export import export_weights
from finetrainers.training.prepare import prepare
from finetrainers.tuning import build_tuning
from finetrainers.tuning.base import trained_parameters

GRAY = {"kind": "channel_concat", "signal": "gray"}
LOKR = {"kind": "lokr", "rank": 2, "alpha": 6}
LAYERS = "transformer/layers.safetensors"
CPU = torch.device("cpu")
STILL = (1, 64, 64)


def flux(model: Path, folder: Path, conditioning: dict[str, Any] = GRAY, **section: Any) -> ModelUnderTest:
    """A tiny Flux that learns from pictures and a control."""
    return ModelUnderTest({"path": str(model), "max_sequence_length": 16, **section}, STILL, folder, conditioning)


def tensors_of(weights: Path) -> dict[str, Tensor]:
    """All tensors of a folder of weights, by file and name; that of the adapter is named after the run."""
    files = {str(file.relative_to(weights)): file for file in sorted(weights.rglob("*/*.safetensors"))}
    files["adapter"] = adapter_file(weights)
    return {f"{place} {name}": t for place, file in files.items() for name, t in load_file(file).items()}


def assert_both_weights_and_control_count(subject: ModelUnderTest, run: Path) -> None:
    """What is drawn depends on what was trained, and on which control is shown."""
    request = {"prompt": "a dog", "num_inference_steps": 2, "seed": 5}
    shown = [{**request, "control": subject.picture(sample)} for sample in (0, 1)]
    drawn = sample_run(run, [*shown, request], device="cpu")
    base = sample_run(run, [*shown, request], use_base=True, device="cpu")
    assert len({file.read_bytes() for file in drawn}) == 3
    assert base[0].read_bytes() == base[1].read_bytes()  # before training, no control counts
    assert not {file.read_bytes() for file in drawn} & {file.read_bytes() for file in base}


# -- what trains and is exported --------------------------------------------------------------------------------------


def test_lokr_trains_draws_and_begins_again_with_a_control(tiny_flux: Path, tmp_path: Path) -> None:
    subject = flux(tiny_flux, tmp_path)
    result = finetrainers.train(subject.config("run", LOKR))
    known = tensors_of(result.weights)
    assert {name for name in known if name.startswith(LAYERS)} == {
        f"{LAYERS} x_embedder.{own}" for own in ("weight", "bias")
    }
    assert any("lokr_w" in name for name in known)
    assert_both_weights_and_control_count(subject, tmp_path / "run")

    config = subject.config("on", {**LOKR, "start_from": str(result.weights)})
    tuning = build_tuning(config.tuning)
    trainer = build_trainer(config, subject.model, objective=subject.objective, tuning=tuning, device=CPU)
    again = tensors_of(export_weights(trainer, config, subject.model, tuning))
    assert again.keys() == known.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in known.items())
    continued = finetrainers.train(subject.config("more", {**LOKR, "start_from": str(result.weights)}, train={"steps": 1}))
    assert any(not torch.equal(tensor, known[name]) for name, tensor in tensors_of(continued.weights).items())


def test_the_averages_of_the_widened_layer_are_exported(tiny_flux: Path, tmp_path: Path) -> None:
    subject = flux(tiny_flux, tmp_path)
    config = subject.config("run", train={"ema_decay": 0.5})
    tuning = build_tuning(config.tuning)
    trainer = build_trainer(config, subject.model, objective=subject.objective, tuning=tuning, device=CPU)
    lived = []
    for _ in range(3):
        trainer.train_step(subject.batch)
        lived.append({name: p.detach().clone() for name, p in trainer.denoiser.named_parameters() if "x_embedder" in name})
        trainer.step += 1
    layers = load_file(export_weights(trainer, config, subject.model, tuning) / LAYERS)
    assert layers.keys() == lived[-1].keys()
    decays = (0.0, 2 / 11, 3 / 12)  # diffusers lets averages warm up: at most (1 + n) / (10 + n)
    for name, tensor in layers.items():
        average = lived[0][name]
        for decay, values in zip(decays, lived, strict=True):
            average = decay * average + (1 - decay) * values[name]
        torch.testing.assert_close(tensor, average, rtol=1e-5, atol=1e-7)
        assert not torch.allclose(tensor, lived[-1][name], rtol=1e-3, atol=1e-4)
    assert all(torch.equal(trainer.denoiser.get_parameter(name), value) for name, value in lived[-1].items())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_checkpointing_gives_norms_and_layer_equal_gradients(dtype: str, tiny_flux: Path, tmp_path: Path) -> None:
    subject = flux(tiny_flux, tmp_path, {**GRAY, "train_norms": True}, dtype=dtype)
    found = []
    for is_on in (False, True):
        trainer = subject.trainer(train={"gradient_checkpointing": is_on})
        trainer.denoiser.train()
        assert trainer.denoiser.is_gradient_checkpointing is is_on
        parameters, generator = trained_parameters(trainer.denoiser), torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in parameters.values():  # of which many are zero
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        trainer.micro_losses(subject.batch).mean().backward()
        masters = zip(parameters, trainer.update.parameters, strict=True)
        found.append({name: p.grad for name, p in masters if p.grad is not None and bool(p.grad.any())})
    plain, saving = found
    assert {name.split(".")[-2] for name in plain if "lora_" not in name} == {
        "x_embedder",
        "norm_q",
        "norm_k",
        "norm_added_q",
        "norm_added_k",
    }
    assert plain.keys() == saving.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(saving[name], gradient, rtol=1e-4, atol=1e-7, msg=name)


def test_one_expert_learns_a_control_and_draws_beside_the_other(tiny: Callable[[str, str], Path], tmp_path: Path) -> None:
    model = {"path": str(tiny("wan", "2.2-t2v-a14b")), "max_sequence_length": 16, "expert": "high_noise"}
    subject = ModelUnderTest(model, (9, 64, 64), tmp_path, {**GRAY, "mask": True})
    result = finetrainers.train(subject.config("run"))
    files = {str(file.relative_to(result.weights)) for file in result.weights.rglob("*.safetensors")}
    assert files == {"run-step000004-high_noise.safetensors", LAYERS}
    channels = subject.model.adapter.grid.channels
    weight = load_file(result.weights / LAYERS)["patch_embedding.weight"]
    assert weight.shape[1] == 2 * channels + 1
    assert weight[:, channels : 2 * channels].any()
    assert weight[:, 2 * channels].any()
    assert_both_weights_and_control_count(subject, tmp_path / "run")


@pytest.mark.parametrize("alpha", [1e-6, 8], ids=["the layer alone counts", "the adapter counts too"])
def test_layers_of_a_run_in_bfloat16_are_float32_and_drawn_as_in_validation(
    alpha: float, tiny_flux: Path, tmp_path: Path
) -> None:
    """To the bit: the pipeline rounds the exported masters as training does."""
    media = write_pictures(tmp_path / "media", 4)
    request = {"prompt": "a dog", "control": str(media / "00.png"), "num_inference_steps": 2, "seed": 5}
    (tmp_path / "prompts.json").write_text(json.dumps([request]))
    tree = flux_tree(
        tiny_flux,
        media,
        tmp_path,
        conditioning=GRAY,
        tuning={"alpha": alpha},
        optimizer={"lr": 0.02},
        validation={"prompts": str(tmp_path / "prompts.json")},
    )
    result = finetrainers.train(config_of(merged(tree, {"model": {"dtype": "bfloat16"}})))
    layers = load_file(result.weights / LAYERS)
    assert {tensor.dtype for tensor in layers.values()} == {torch.float32}
    assert not torch.equal(layers["x_embedder.weight"], layers["x_embedder.weight"].bfloat16().float())  # no bit is lost
    first, last = (
        np.asarray(Image.open(tmp_path / "run" / "validation" / step / "00.png"))[:, 64:].astype(int)
        for step in ("step-000000", "step-000004")
    )
    ours = np.asarray(Image.open(sample_run(tmp_path / "run", [request], device="cpu")[0]))
    assert np.array_equal(last, ours)
    assert np.abs(first - ours).max() > 100


# -- files ------------------------------------------------------------------------------------------------------------

DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "no picture": lambda _: b"not a picture",  # seen when files are looked at
    "cut off": lambda whole: whole[: len(whole) // 2],  # seen when they are decoded
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_control_is_left_out_or_stops_the_run_and_is_named(damage: str, tiny_flux: Path, tmp_path: Path) -> None:
    media = write_pictures(tmp_path / "media", 4)
    bad = write_pictures(tmp_path / "controls", 4, size=(256, 256), seed=9) / "02.png"
    bad.write_bytes(DAMAGE[damage](bad.read_bytes()))
    data = {"path": str(media), "control_path": str(tmp_path / "controls"), "buckets": [[1, 64, 64]]}
    tree = flux_tree(
        tiny_flux,
        media,
        tmp_path,
        conditioning={**GRAY, "signal": "files"},
        train={"steps": 2, "batch_size": 3, "micro_batch_size": 3},
    )
    result = finetrainers.train(config_of({**tree, "data": [{**data, "on_error": "skip"}]}))
    (left_out,) = json.loads((tmp_path / "run" / "report.json").read_text())["bad_samples"]
    assert left_out["path"] == str(media / "02.png")
    assert left_out["reason"].startswith(f"its control {bad}: ")
    assert result.report["num_samples"] == 3
    with pytest.raises(DataError) as error:
        finetrainers.train(config_of({**tree, "output_dir": str(tmp_path / "strict"), "data": [data]}))
    assert f"{media / '02.png'}: its control {bad}: " in str(error.value)
    assert str(tmp_path / "controls" / "01.png") not in str(error.value)
    assert not (tmp_path / "strict" / "weights").exists()


def test_controls_are_cached_by_the_settings_of_their_signal(tiny_flux: Path, tmp_path: Path) -> None:
    media = write_pictures(tmp_path / "media", 1)

    def key_of(signal: str, **settings: float) -> str:
        section = {"kind": "channel_concat", "signal": signal, **settings}
        config = config_of(flux_tree(tiny_flux, media, tmp_path, conditioning=section))
        plan = prepare(config, open_model(config.model), CPU, progress=lambda *_: None, warn=lambda _: None).plan
        return plan.job(0, 0, view=0, caption=0).media["control"].key

    different = [
        ("identity", {}),
        ("gray", {}),
        ("canny", {}),
        ("canny", {"canny_low": 50.0}),
        ("canny", {"canny_high": 250.0}),
        ("canny", {"canny_low": 50.0, "canny_high": 250.0}),
        ("downscale", {}),
        ("downscale", {"downscale_factor": 8}),
        ("blur", {}),
        ("blur", {"blur_sigma": 8.0}),
    ]
    keys = [key_of(signal, **settings) for signal, settings in different]
    assert len(set(keys)) == len(different)
    assert keys == [key_of(signal, **settings) for signal, settings in different]
    assert key_of("canny", canny_low=100, canny_high=200) == key_of("canny")  # written out or not
    assert key_of("downscale", downscale_factor=4) == key_of("downscale")
    assert key_of("blur", blur_sigma=4) == key_of("blur")
