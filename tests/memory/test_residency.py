"""What is on the device: never an encoder beside the denoiser, everything loaded once that is used again."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, ref

import pytest
import torch
from runs import Tree, config_of, curve, flux_tree, merged, write_pictures
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from finetrainers import train
from finetrainers.data.cache.store import Cache
from finetrainers.memory.quantize.layer import CompressedLinear
from finetrainers.memory.residency import Residency
from finetrainers.memory.stream import Streamed
from finetrainers.memory.waiting import to_device, to_host
from finetrainers.models.pretrained import Pretrained
from finetrainers.sampling.sample import sample_run
from finetrainers.testing.model_under_test import LORA, ModelUnderTest

ENCODERS = {"text_encoder", "text_encoder_2", "vae", "image_encoder"}


class Seen:
    """Which components were on the device whenever one of them computed, and what was loaded how often."""

    def __init__(self) -> None:
        self.beside: dict[str, set[frozenset[str]]] = {}
        self.loads: Counter[str] = Counter()
        self.residencies: list[Residency] = []
        # No ids: a component that is dropped leaves its own to one that is loaded later. Nor is any kept from being dropped.
        self._owners = WeakKeyDictionary[nn.Module, tuple[str, ref[nn.Module]]]()

    def look(self, module: nn.Module, _: object) -> None:
        for residency in self.residencies:
            loaded = {name: part for name, part in residency._loaded.items() if isinstance(part, nn.Module)}
            for name, part in loaded.items():
                first = next(part.children(), None)  # all modules are walked once, not at each call
                if first is not None and first not in self._owners:
                    # Not the components themselves: this is called before their own hooks, which bring them.
                    self._owners.update(dict.fromkeys(list(part.modules())[1:], (name, ref(part))))
            name, owner = self._owners.get(module, ("", lambda: None))
            if name in loaded and loaded[name] is owner():
                self.beside.setdefault(name, set()).add(residency.on_device)


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    seen, begin, load, load_denoiser = Seen(), Residency.__init__, Pretrained.load, Pretrained.load_denoiser

    def beginning(self: Residency, *rest: Any, **named: Any) -> None:
        begin(self, *rest, **named)
        seen.residencies.append(self)

    def loading(self: Pretrained, component: str) -> Any:
        seen.loads[component] += 1
        return load(self, component)

    def loading_denoiser(self: Pretrained, component: str, *rest: Any, **named: Any) -> Any:
        seen.loads[component] += 1
        return load_denoiser(self, component, *rest, **named)

    hook = register_module_forward_pre_hook(seen.look)
    with monkeypatch.context() as patch:
        patch.setattr(Residency, "__init__", beginning)
        patch.setattr(Pretrained, "load", loading)
        patch.setattr(Pretrained, "load_denoiser", loading_denoiser)
        try:
            yield seen
        finally:
            hook.remove()


def assert_alone(seen: Seen, *denoisers: str) -> None:
    """Each component computed, and while it did, no encoder was beside a denoiser."""
    for name, situations in seen.beside.items():
        for present in situations:
            assert name in present, f"{name} computed on the host, beside {set(present)}"
            assert not present.intersection(denoisers) or not present & ENCODERS, f"beside {name}: {set(present)}"


@pytest.fixture
def tree(tiny_flux: Path, tmp_path: Path) -> Tree:
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps([{"prompt": text, "num_inference_steps": 1} for text in ("one", "two")]))
    sections = {
        "train": {"batch_size": 1, "micro_batch_size": 1},
        "validation": {"prompts": str(prompts), "every": 2, "held_out": 0.2},
    }
    return flux_tree(tiny_flux, write_pictures(tmp_path / "data", 8), tmp_path, **sections)


def test_encoders_are_never_beside_the_denoiser(tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in validation nor when a later window is encoded; and what is used again is loaded once."""
    with watched(monkeypatch) as seen:
        train(config_of(tree))
    assert seen.beside.keys() == {"transformer", "vae", "text_encoder", "text_encoder_2"}
    assert_alone(seen, "transformer")
    assert seen.loads["vae"] == 1, "three validations and the encoding share one"
    assert seen.loads["text_encoder_2"] == 1
    assert seen.residencies[0].on_device == {"transformer"}
    assert "text_encoder_2" not in seen.residencies[0]._loaded, "nobody needs it again"

    size = sum(entry.bytes for entry in Cache(tmp_path / "cache").entries())
    limits = {
        "output_dir": str(tmp_path / "windows"),
        "cache": {"path": str(tmp_path / "small"), "max_gb": 0.75 * size / 1e9},
    }
    with watched(monkeypatch) as seen:
        train(config_of(merged(tree, limits)))
    assert curve(tmp_path / "windows", "loss", "grad_norm") == curve(tmp_path / "run", "loss", "grad_norm")
    assert_alone(seen, "transformer")
    assert len(seen.beside["vae"]) >= 1
    assert (seen.loads["vae"], seen.loads["text_encoder_2"]) == (1, 1), "parked between windows"


def test_samples_are_drawn_without_encoders_beside_the_denoiser(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    result = train(config_of(merged(tree, {"validation": {"prompts": None, "held_out": 0.0, "every": None}})))
    assert result.weights is not None
    with watched(monkeypatch) as seen:
        sample_run(Path(tree["output_dir"]), [{"prompt": "one", "num_inference_steps": 1}], device="cpu")
    assert seen.beside.keys() == {"transformer", "vae", "text_encoder", "text_encoder_2"}
    assert_alone(seen, "transformer")


def test_of_two_experts_the_one_that_draws_is_alone(
    tiny: Callable[[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The expert that does not train is loaded once, and takes turns with the other."""
    section = {"path": str(tiny("wan", "2.2-t2v-a14b")), "max_sequence_length": 16, "expert": "low_noise"}
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps([{"prompt": text, "num_inference_steps": 3} for text in ("one", "two")]))
    sections = {"train": {"steps": 2}, "validation": {"prompts": str(prompts), "every": 1}}
    subject = ModelUnderTest(section, (5, 32, 32), tmp_path)
    with watched(monkeypatch) as seen:
        train(subject.config("run", LORA, **sections))
    assert_alone(seen, "transformer", "transformer_2")
    for name, other in (("transformer", "transformer_2"), ("transformer_2", "transformer")):
        assert all(other not in present for present in seen.beside[name]), f"{other} beside {name}"
    assert seen.loads["transformer"] == 1, "once for three validations"
    assert seen.residencies[0].on_device == {"transformer_2"}


def test_an_expert_that_draws_is_no_larger_than_the_one_that_trains(
    tiny: Callable[[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It rests in the same format, and as many of its blocks stay on the device."""
    section = {"path": str(tiny("wan", "2.2-t2v-a14b")), "max_sequence_length": 16, "expert": "low_noise"}
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps([{"prompt": "one", "num_inference_steps": 3}]))
    sections = {
        "train": {"steps": 1, "gradient_checkpointing": True},
        "validation": {"prompts": str(prompts)},
        "memory": {"weights": "fp8_e4m3", "resident_blocks": 0},
    }
    subject = ModelUnderTest(section, (5, 32, 32), tmp_path)
    with watched(monkeypatch) as seen:
        train(subject.config("run", LORA, **sections))
    (residency,) = seen.residencies
    kept = residency._loaded
    for name in ("transformer", "transformer_2"):
        resting = [module.numbers.dtype for module in kept[name].modules() if isinstance(module, CompressedLinear)]
        assert set(resting) == {torch.float8_e4m3fn}
        blocks = [module for module in kept[name].modules() if isinstance(module, Streamed)]
        assert blocks
        assert all(block._turns is not None for block in blocks)
    assert_alone(seen, "transformer", "transformer_2")


def test_only_what_was_on_the_device_comes_back() -> None:
    """What is kept on the host on purpose, such as blocks that are streamed, stays there."""
    model = nn.Sequential(nn.Linear(2, 2, device="meta"), nn.Linear(2, 2))
    device = torch.device("meta")  # takes the part of a device here: nothing can be computed on it
    model[0].to_empty(device="cpu")
    to_device(model, ["0.weight", "0.bias"], device)
    assert [model[0].weight.is_meta, model[0].bias.is_meta, model[1].weight.is_meta] == [True, True, False]
    with pytest.raises(NotImplementedError, match="meta"):  # there is nothing to copy, so it was to be moved
        to_host(model, device)


@pytest.mark.gpu
def test_parameters_stay_what_optimizers_hold(tree: Tree) -> None:
    model, device = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).cuda(), torch.device("cuda")
    kept = model[1].running_mean.cpu()
    before = dict(model.named_parameters())
    values = {name: parameter.detach().cpu() for name, parameter in before.items()}
    names = to_host(model, device)
    assert all(not tensor.is_cuda for tensor in (*model.parameters(), *model.buffers()))
    to_device(model, names, device)
    for name, parameter in model.named_parameters():
        assert parameter is before[name]
        assert parameter.is_cuda
        assert torch.equal(parameter.cpu(), values[name])
    assert torch.equal(model[1].running_mean.cpu(), kept)


@pytest.mark.gpu
def test_validation_takes_no_more_than_training(tree: Tree) -> None:
    """Peak of the device's memory with and without validation is the same, but for the weights of the VAE."""
    peaks = []
    for name, validation in (("without", {"prompts": None, "held_out": 0.0, "every": None}), ("with", {})):
        torch.cuda.reset_peak_memory_stats()
        large = {
            "output_dir": tree["output_dir"] + name,
            "train": {"device": "cuda", "batch_size": 4, "micro_batch_size": 4},
        }
        train(config_of(merged(tree, {**large, "validation": validation})))
        peaks.append(torch.cuda.max_memory_allocated())
    assert peaks[1] <= 1.05 * peaks[0]
