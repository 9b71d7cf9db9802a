"""A denoiser is filled tensor by tensor: to the bits that diffusers loads, and nothing exists twice."""

import json
import re
import shutil
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from runs import config_of, flux_tree
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import T5EncoderModel

from finetrainers.config import ModelConfig
from finetrainers.errors import ConfigError, ModelError
from finetrainers.export.base import weight_files
from finetrainers.export.source import component_settings
from finetrainers.models import Model, open_model
from finetrainers.models.weights import _stored
from finetrainers.testing.tiny import FACTORIES
from finetrainers.training.checks.files import check_files, check_start_fits
from finetrainers.training.plan.encoders import text_passes
from finetrainers.training.rehearse.twin_model import write_twin

CPU = torch.device("cpu")
FILE = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def copied(tiny: Callable[[str, str], Path], tmp_path: Path) -> Path:
    """FLUX.1 in small, in a folder of the test's own."""
    return Path(shutil.copytree(tiny("flux", "dev"), tmp_path / "flux"))


def opened(folder: Path, dtype: str = "bfloat16") -> Model:
    return open_model(ModelConfig(path=str(folder), dtype=dtype))


def tensors_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """All parameters and buffers, those that are not saved as well."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FACTORIES)
def test_a_filled_shell_is_what_diffusers_loads(tiny: Callable[[str, str], Path], family: str, dtype: str) -> None:
    """To the bit, with types and buffers: also those that Wan keeps in float32."""
    model = opened(tiny(family, next(iter(FACTORIES[family]))), dtype)
    (name, *_) = model.denoisers.trained
    own, theirs = model.pretrained.load_denoiser(name, CPU), model.pretrained.load(name)
    assert type(own) is type(theirs)
    assert not own.training
    found, wanted = tensors_of(own), tensors_of(theirs)
    assert found.keys() == wanted.keys()
    for key, tensor in wanted.items():
        assert found[key].dtype == tensor.dtype, key
        assert torch.equal(found[key], tensor), key
    assert not any(p.requires_grad for p in own.parameters())


def test_weights_in_several_files_are_those_of_one(copied: Path) -> None:
    whole = opened(copied).load_denoiser().state_dict()
    folder = copied / "transformer"
    stored = load_file(folder / FILE)
    halves = {f"part-{n}.safetensors": list(stored)[n::2] for n in range(2)}
    for file, names in halves.items():
        save_file({name: stored[name] for name in names}, folder / file)
    (folder / FILE).unlink()
    index = {"weight_map": {name: file for file, names in halves.items() for name in names}}
    (folder / f"{FILE}.index.json").write_text(json.dumps(index))
    parts = opened(copied).load_denoiser().state_dict()
    assert parts.keys() == whole.keys()
    assert all(torch.equal(parts[name], tensor) for name, tensor in whole.items())


def test_what_is_missing_or_of_another_shape_is_named(copied: Path) -> None:
    file = copied / "transformer" / FILE
    stored = load_file(file)
    name = "proj_out.weight"
    save_file({key: tensor for key, tensor in stored.items() if key != name}, file)
    with pytest.raises(ModelError, match=r"1 tensors of FluxTransformer2DModel are missing, such as proj_out\.weight"):
        opened(copied).load_denoiser()
    save_file({**stored, name: stored[name][:, :-1].contiguous()}, file)
    with pytest.raises(ModelError, match=r"proj_out\.weight has shape .* needs"):
        opened(copied).load_denoiser()
    save_file({**stored, "of.another.version": torch.zeros(3)}, file)
    assert opened(copied).load_denoiser().dtype == torch.bfloat16


def test_weights_settle_one_module_after_the_other(tiny: Callable[[str, str], Path]) -> None:
    """What is made of a module is made before the next is read: of the layers to come, none has any memory."""
    model = opened(tiny("flux", "dev"))
    settled: list[str] = []

    def settle(root: nn.Module, name: str) -> None:
        own = root.get_submodule(name)
        assert not any(p.is_meta for p in own.parameters(recurse=False)), f"{name} is not whole"
        settled.append(name)
        later = {n for n, _ in root.named_modules()} - set(settled)
        filled = [n for n in later for p in root.get_submodule(n).parameters(recurse=False) if not p.is_meta]
        assert len(set(filled)) <= 1, f"{filled} are filled before {name} has settled"  # one whose bias has come
        own.weight = nn.Parameter(own.weight.detach().clone() * 0 + len(settled), requires_grad=False)

    denoiser = model.load_denoiser(settle=settle)
    with_weights = {name for name, m in denoiser.named_modules() if list(m.parameters(recurse=False))}
    assert sorted(settled) == sorted(with_weights)
    assert all(bool((denoiser.get_submodule(name).weight == n).all()) for n, name in enumerate(settled, 1) if n < 100)


def test_no_tensor_outlives_its_turn(tiny: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is read in float32 for a bfloat16 model, one tensor is there at a time."""
    read: list[weakref.ref[torch.Tensor]] = []
    most = 0

    def stored(*rest: Any) -> Iterator[tuple[str, torch.Tensor]]:
        nonlocal most
        for name, tensor in _stored(*rest):
            read.append(weakref.ref(tensor))
            most = max(most, sum(own() is not None for own in read))
            yield name, tensor

    monkeypatch.setattr("finetrainers.models.weights._stored", stored)
    opened(tiny("flux", "dev")).load_denoiser()
    assert len(read) > 20
    assert most <= 2, "the one that is read, and the one before it, whose name is still held"


@pytest.mark.parametrize("family", FACTORIES)
def test_without_files_a_denoiser_is_random_or_nothing(
    tiny: Callable[[str, str], Path], tmp_path: Path, family: str
) -> None:
    """Config files are enough; random weights are the same each time, and a shell takes no memory at all."""
    source = tiny(family, next(iter(FACTORIES[family])))
    shutil.copytree(source, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    model = opened(tmp_path / "bare")
    first, second = (model.load_denoiser(weights="random").state_dict() for _ in range(2))
    assert all(torch.equal(second[name], tensor) for name, tensor in first.items())
    assert all(bool(tensor.isfinite().all()) for tensor in first.values())
    wanted = tensors_of(opened(source).load_denoiser())
    empty = tensors_of(model.load_denoiser(torch.device("meta"), weights="none"))
    assert {name: (t.shape, t.dtype) for name, t in empty.items()} == {n: (t.shape, t.dtype) for n, t in wanted.items()}
    assert all(tensor.is_meta for tensor in empty.values())
    with pytest.raises(ModelError, match=r"diffusion_pytorch_model\.safetensors"):
        model.load_denoiser()


INDEX = "text_encoder_2/model.safetensors.index.json"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model_index.json", '{"_class'),
        ("transformer/config.json", "[1]"),
        (f"transformer/{FILE}.index.json", '{"weight_map": {"a": "mod'),
        (INDEX, '{"weight_map": {"a": "mod'),
        (INDEX, '{"metadata": {}}'),
        (INDEX, '{"weight_map": {"a": 1}}'),
    ],
)
def test_a_json_file_that_is_cut_off_is_named(copied: Path, tmp_path: Path, name: str, content: str) -> None:
    """Whichever it is, and whoever reads it: a run before it encodes, or an export."""
    config = config_of(flux_tree(copied, tmp_path / "data", tmp_path))
    (copied / name).write_text(content)
    if name == INDEX:  # else nobody reads it
        (copied / INDEX.removesuffix(".index.json")).unlink()
    with pytest.raises(ModelError, match=re.escape(str(copied / name.partition("/")[0]))):
        check_files(config, open_model(config.model))
    if "transformer/" in name:
        with pytest.raises(ModelError, match=re.escape(name)):
            weight_files(copied / "transformer") if name.endswith("index.json") else component_settings(
                copied / "transformer"
            )


def test_an_index_that_is_left_beside_whole_weights_is_read_where_the_libraries_read_it(
    copied: Path, tmp_path: Path
) -> None:
    """transformers takes the whole file, and so does a run; diffusers takes the index, and a run says so at its start."""
    config = config_of(flux_tree(copied, tmp_path / "data", tmp_path))
    stale = json.dumps({"metadata": {}, "weight_map": {"a": "gone-00001-of-00002.safetensors"}})
    (copied / INDEX).write_text(stale)
    check_files(config, open_model(config.model))
    T5EncoderModel.from_pretrained(copied / "text_encoder_2")
    (copied / f"vae/{FILE}.index.json").write_text(stale)
    with pytest.raises(ModelError, match=rf"vae: .*gone-00001.* is missing, .*; remove {FILE}\.index\.json"):
        check_files(config, open_model(config.model))
    with pytest.raises(OSError, match=re.escape("gone-00001")):
        AutoencoderKL.from_pretrained(copied / "vae")


def test_weights_to_begin_from_with_half_a_config_are_named(copied: Path, tmp_path: Path) -> None:
    tuning = {"kind": "full", "start_from": str(tmp_path / "start")}
    config = config_of(flux_tree(copied, tmp_path / "data", tmp_path, tuning=tuning))
    (tmp_path / "start/transformer").mkdir(parents=True)
    (tmp_path / "start/transformer/config.json").write_text('{"quantiz')
    with pytest.raises(ConfigError, match=r"tuning\.start_from: .*config\.json: is damaged or not whole"):
        check_start_fits(config, open_model(config.model))


def test_a_class_that_nobody_knows_is_named_when_a_run_is_planned_or_rehearsed(copied: Path, tmp_path: Path) -> None:
    index = json.loads((copied / "model_index.json").read_text())
    (copied / "model_index.json").write_text(json.dumps({**index, "text_encoder_2": ["transformers", "T9EncoderModel"]}))
    config = config_of(flux_tree(copied, tmp_path / "data", tmp_path))
    model = open_model(config.model)
    with pytest.raises(
        ModelError, match=r"text_encoder_2: transformers\.T9EncoderModel of model_index\.json cannot be imported"
    ):
        list(text_passes(config, model))
    with pytest.raises(ModelError, match=r"T9EncoderModel of model_index\.json cannot be imported"):
        write_twin(model, tmp_path / "twin")
