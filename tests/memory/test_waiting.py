"""What each process has whole waits in its files: the host holds no copy of it, before it works or after."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from private_memory import IS_KNOWN, Peak
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from finetrainers.config import MemoryConfig, ModelConfig
from finetrainers.config.tuning import LoraConfig
from finetrainers.memory.quantize.compress import compress_text_encoders
from finetrainers.memory.residency import Residency
from finetrainers.memory.waiting import to_device, to_host, unchanged, wait_in_files
from finetrainers.models import open_model
from finetrainers.models.experts import Denoisers
from finetrainers.models.pretrained import Pretrained
from finetrainers.models.stored import stored_of, tensors_of
from finetrainers.tuning import build_tuning

CPU, META = torch.device("cpu"), torch.device("meta")
FAMILIES = (
    ("flux", "dev"),
    ("ltx_video", "0.9.0"),
    ("wan", "2.1-i2v"),
    ("hunyuan_video", "i2v"),
    ("cogvideox", "2b"),
    ("cogview4", "6b"),
)
INDEX = {"text_encoder": ["transformers", "T5EncoderModel"], "vae": ["diffusers", "AutoencoderKL"]}


def check_same(network: nn.Module, expected: nn.Module) -> None:
    found, wanted = (dict(own.state_dict(keep_vars=True)) | tensors_of(own) for own in (network, expected))
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name
    assert not any(own.requires_grad for own in network.parameters())
    assert not network.training


def brought(pretrained: Pretrained, name: str) -> tuple[nn.Module, Any]:
    """A network that has waited, gone to the device, and come back and gone there once more."""
    stored = pretrained.load_stored(name)
    network = wait_in_files(stored)
    names = frozenset(tensors_of(network))
    to_device(network, names, CPU, stored.mapped)
    to_host(network, CPU, stored.mapped)
    to_device(network, names, CPU, stored.mapped)
    return network, stored


@pytest.mark.parametrize("family, variant", FAMILIES)
def test_weights_are_those_that_libraries_load(tiny: Callable[[str, str], Path], family: str, variant: str) -> None:
    """To the last bit: what stays in float32, what is tied, and buffers that no file has."""
    model = open_model(ModelConfig(path=str(tiny(family, variant)), dtype="bfloat16"))
    for name in ("vae", *model.text_components, *model.image_components):
        if model.pretrained.has_weights(name):
            network, stored = brought(model.pretrained, name)
            assert stored.mapped, f"{name} was read"
            check_same(network, model.pretrained.load(name))


def small(folder: Path, **options: Any) -> Pretrained:
    """A text encoder with one layer that stays in float32, and two names for one weight."""
    config = T5Config(vocab_size=16, d_model=8, num_heads=2, d_kv=4, d_ff=16, num_layers=2)
    T5EncoderModel(config).save_pretrained(folder / "text_encoder", **options)
    return Pretrained(ModelConfig(path=str(folder), dtype="float16"), INDEX)


def split(folder: Path) -> bool:
    shutil.rmtree(folder)
    small(folder.parent, max_shard_size=2000)
    return len(list(folder.glob("*.safetensors"))) > 1


def variant_beside(folder: Path) -> bool:
    save_file({"other": torch.ones(3, dtype=torch.bfloat16)}, folder / "model.fp16.safetensors")
    return True


def several_types(folder: Path) -> bool:
    tensors = load_file(folder / "model.safetensors")
    name = "encoder.block.0.layer.0.SelfAttention.q.weight"
    save_file({**tensors, name: tensors[name].bfloat16()}, folder / "model.safetensors", metadata={"format": "pt"})
    return False


def pickled(folder: Path) -> bool:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return False


@pytest.mark.parametrize("change", [split, variant_beside, several_types, pickled])
def test_files_of_any_kind_give_what_libraries_load(change: Callable[[Path], bool], tmp_path: Path) -> None:
    """Whatever cannot be mapped is read as before."""
    pretrained = small(tmp_path)
    is_mapped = change(tmp_path / "text_encoder")
    network, stored = brought(pretrained, "text_encoder")
    kept = {own.dtype for own in network.parameters()}
    assert kept == {torch.float16, torch.float32}, "T5 has layers that stay in float32"
    assert bool(stored.mapped) == is_mapped
    check_same(network, pretrained.load("text_encoder"))


class Buffered(nn.Module):
    """Computes a buffer in the type that it is made in, and saves none of it."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, dtype=dtype))
        self.register_buffer("sines", torch.arange(9, dtype=dtype).sin(), persistent=False)


def test_buffers_that_are_computed_in_another_type_are_not_cast() -> None:
    types = {"weight": torch.bfloat16, "sines": torch.bfloat16}
    assert stored_of(Buffered(torch.float32), torch.float32, types) is None
    assert stored_of(Buffered(torch.float32), torch.float32, {**types, "sines": torch.float32}) is not None


def test_nobody_computes_with_what_waits(tmp_path: Path) -> None:
    network: Any = wait_in_files(small(tmp_path).load_stored("text_encoder"))
    assert network.dtype == torch.float16
    assert network(torch.ones(1, 2, dtype=torch.long)).last_hidden_state.isnan().all()


@pytest.mark.skipif(not IS_KNOWN, reason="Linux says how much memory is private")
def test_the_host_holds_no_copy(tmp_path: Path) -> None:
    """Of files of another type than asked for: neither on the way to the device, nor while it waits to go there again."""
    config = CLIPTextConfig(vocab_size=4000, hidden_size=512, num_hidden_layers=2)
    CLIPTextModel(config).save_pretrained(tmp_path / "text_encoder")  # on the meta device tied weights would come apart
    AutoencoderKL(block_out_channels=(192,), layers_per_block=4).save_pretrained(tmp_path / "vae")
    index = {**INDEX, "text_encoder": ["transformers", "CLIPTextModel"]}
    pretrained = Pretrained(ModelConfig(path=str(tmp_path), dtype="bfloat16"), index)
    text = ("text_encoder",)
    model: Any = SimpleNamespace(
        pretrained=pretrained, text_components=text, image_components=(), denoisers=Denoisers(("transformer",))
    )
    residency = Residency(model, META, keeps=("vae",))  # the meta device takes the part of one that is not the host
    for name in INDEX:
        pretrained.load_empty(name) if name in text else pretrained.shell(name)  # imports what it needs
    for name in INDEX:
        sizes = list[int]()
        with Peak() as peak:
            for _ in range(2):
                with residency.alone(name) as components:
                    for module in components[name].modules():
                        module._buffers.clear()  # which come back by value, and are small
                    sizes = [weight.nbytes for weight in components[name].parameters()]
                    assert {(own.device, own.dtype) for own in components[name].parameters()} >= {(META, torch.bfloat16)}
        assert sum(sizes) > 1e7
        assert peak.mib < 0.2 * sum(sizes) / 2**20, name
        assert (name in residency._mapped) == (name == "vae")


def test_a_denoiser_waits_in_its_files_but_for_what_changed(tiny_flux: Path) -> None:
    """Layers with an adapter beside them are as they were; what trains, and what was merged, is copied."""
    model = open_model(ModelConfig(path=str(tiny_flux), dtype="bfloat16"))
    denoiser = model.load_denoiser()
    build_tuning(LoraConfig(rank=2, alpha=2)).apply(denoiser, model.adapter, component="transformer", seed=0)
    merged, trained = "x_embedder.weight", {name for name, own in denoiser.named_parameters() if own.requires_grad}
    with torch.no_grad():
        denoiser.get_parameter(merged).add_(0.5)
    before = {name: own.clone() for name, own in tensors_of(denoiser).items()}
    mapped = unchanged(denoiser, model.pretrained.mapped_weights("transformer"))
    assert trained
    assert mapped.keys() == dict(denoiser.named_parameters()).keys() - trained - {merged}
    objects = dict(denoiser.named_parameters())
    names = to_host(denoiser, CPU, mapped)
    assert all(objects[name].isnan().all() for name in mapped), "their numbers are in the files alone"
    to_device(denoiser, names, CPU, mapped)
    for name, own in tensors_of(denoiser).items():
        assert torch.equal(own, before[name]), name
        assert own.dtype == before[name].dtype
    assert all(own is objects[name] for name, own in denoiser.named_parameters())


def test_what_waits_is_compressed_layer_by_layer(tiny_flux: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the files, in the type that is asked for; layers that stay in float32 do."""
    model = open_model(ModelConfig(path=str(tiny_flux), dtype="float16"), MemoryConfig(text_encoder_weights="fp8_e4m3"))
    residency = Residency(model, CPU)
    monkeypatch.setattr(residency, "_load_frozen", residency._load_waiting)  # as for another device than the host
    expected = model.pretrained.load("text_encoder_2")
    compress_text_encoders([expected], "fp8_e4m3", CPU)
    with residency.alone("text_encoder_2") as components:
        assert residency._mapped["text_encoder_2"]
        check_same(components["text_encoder_2"], expected)


@pytest.mark.gpu
def test_a_gpu_has_the_weights_that_libraries_load(tiny_flux: Path) -> None:
    """Compressed text encoders, too: each layer is brought on its own."""
    device = torch.device("cuda")
    for kind in ("none", "fp8_e4m3"):
        model = open_model(ModelConfig(path=str(tiny_flux), dtype="bfloat16"), MemoryConfig(text_encoder_weights=kind))
        residency = Residency(model, device, keeps=("text_encoder", "vae"))
        for name in ("text_encoder", "vae"):
            expected = model.pretrained.load(name).to(device)
            if name == "text_encoder":
                compress_text_encoders([expected], kind, device)
            for _ in range(2):
                with residency.alone(name) as components:
                    check_same(components[name], expected)
