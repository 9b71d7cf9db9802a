"""Adapters added into the base, extracted from full weights, added up; and files that are never written over."""

import json
import os
import shutil
import stat
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel, WanTransformer3DModel
from runs import Tree
from safetensors import safe_open
from safetensors.torch import load_file
from weights_made import Deltas, added, deltas, make_run

from finetrainers.cli.entry import main
from finetrainers.errors import ConfigError
from finetrainers.export.export import Asked, export
from finetrainers.export.lowrank import nearest
from finetrainers.export.writing import Spec, cast, write_stream

Tiny = Callable[[str, str], Path]
LORA: Tree = {"kind": "lora", "rank": 4, "alpha": 6}


def weights_of(folder: Path) -> Deltas:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def header_of(file: Path) -> dict[str, str]:
    with safe_open(file, framework="pt") as opened:
        return dict(opened.metadata())


@pytest.fixture(scope="module")
def run(tiny_flux: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Deltas]:
    """A run of Flux with a trigger word. Shared: export elsewhere."""
    root = tmp_path_factory.mktemp("export")
    data = [{"path": str(root / "data"), "buckets": [[1, 64, 64]], "caption_prefix": "ohwx"}]
    made, denoisers = make_run(tiny_flux, root / "private", LORA, data=data)
    return made, deltas(denoisers["transformer"])


@pytest.mark.parametrize(
    "tuning", [LORA, {**LORA, "dora": True}, {"kind": "lokr", "rank": 2, "alpha": 6}], ids=["lora", "dora", "lokr"]
)
def test_fused_weights_are_the_base_with_what_was_trained(tiny_flux: Path, tmp_path: Path, tuning: Tree) -> None:
    """They load in diffusers; tensors that nothing was added to are the base's."""
    made, denoisers = make_run(tiny_flux, tmp_path, tuning)
    (folder,) = export(Asked([made], "fused")).files
    assert folder.name == "run-step000012"
    found = FluxTransformer2DModel.from_pretrained(folder / "transformer").state_dict()
    base = weights_of(tiny_flux / "transformer")
    trained = {f"{name}.weight": delta for name, delta in deltas(denoisers["transformer"]).items()}
    assert found.keys() == base.keys()
    for name, tensor in base.items():
        if name in trained:
            torch.testing.assert_close(found[name], tensor + trained[name])
        else:
            assert torch.equal(found[name], tensor)


def test_fused_experts_keep_the_files_and_types_of_the_base(tiny: Tiny, tmp_path: Path) -> None:
    """Of several files each, read tensor by tensor; what diffusers keeps in float32 stays so."""
    base = tmp_path / "base"
    model = tiny("wan", "2.2-t2v-a14b")
    for component in ("transformer", "transformer_2"):
        WanTransformer3DModel.from_pretrained(model / component).save_pretrained(base / component, max_shard_size="200KB")
    made, denoisers = make_run(model, tmp_path, LORA, components=("transformer", "transformer_2"))
    names = [file.name for file in export(Asked([made], "comfyui")).files]
    assert names == [f"run-step000012-{level}_noise.safetensors" for level in ("high", "low")]
    second = made / "weights/step-000012/pytorch_lora_weights_2.safetensors"  # which expert's it is, its header says
    assert export(Asked([second], "comfyui", output=tmp_path / "one")).files[0].name.endswith("-low_noise.safetensors")
    named = second.with_name("run-step000012-low_noise.safetensors")  # as its folder has it since
    shutil.copyfile(second, named)
    assert export(Asked([named], "comfyui", output=tmp_path / "two")).files[0].name == named.name
    (folder,) = export(Asked([made], "fused", base=str(base), dtype="bf16")).files
    for component, denoiser in denoisers.items():
        names = [sorted(file.name for file in at.iterdir()) for at in (folder / component, base / component)]
        assert names[0] == names[1]
        assert len(names[0]) > 3
        assert WanTransformer3DModel.from_pretrained(folder / component).config["num_layers"] == 2
        stored, trained = weights_of(folder / component), deltas(denoiser)
        before = weights_of(base / component)
        assert {name for name, tensor in stored.items() if tensor.dtype == torch.float32} == {
            name for name in stored if any(kept in name.split(".") for kept in WanTransformer3DModel._keep_in_fp32_modules)
        }
        for layer, delta in trained.items():
            wanted = (before[f"{layer}.weight"] + delta).bfloat16()
            torch.testing.assert_close(stored[f"{layer}.weight"], wanted, rtol=8e-3, atol=1e-6)


def test_one_tensor_at_a_time_is_in_memory(tmp_path: Path) -> None:
    references: list[Any] = []

    def read(name: str) -> torch.Tensor:
        assert all(reference() is None for reference in references)
        tensor = torch.full((1000,), float(name))
        references.append(weakref.ref(tensor))
        return tensor

    write_stream(tmp_path / "file", {str(n): Spec(torch.float32, (1000,)) for n in range(4)}, read, {"a": "b"})
    assert len(references) == 4
    assert {name: tensor[0].item() for name, tensor in load_file(tmp_path / "file").items()} == {str(n): n for n in range(4)}


def test_a_lora_is_extracted_from_full_weights(tiny_flux: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Of as many ranks as the change has, it is the change; of fewer, the command says what is left, and as much is."""
    made, _ = make_run(tiny_flux, tmp_path, {"kind": "full", "modules": r"blocks\.0\.attn\.to_[qk]\.(weight|bias)"})
    full, base = weights_of(made / "weights/step-000012/transformer"), weights_of(tiny_flux / "transformer")
    changed = {name.removesuffix(".weight"): full[name] - base[name] for name in base if (full[name] != base[name]).any()}
    layers = {name: delta for name, delta in changed.items() if delta.ndim == 2}
    assert len(layers) == 4
    tensors = load_file(export(Asked([made], "comfyui", rank=32, dtype="fp32")).files[0])
    for layer, delta in layers.items():
        torch.testing.assert_close(added(tensors, f"transformer.{layer}"), delta, rtol=1e-4, atol=1e-5)
    assert main(["export", str(made), "--to", "comfyui", "--rank", "8", "--dtype", "fp32"]) == 0
    out, err = capfd.readouterr()
    tensors = load_file(Path(out.strip()))
    errors = [(added(tensors, f"transformer.{layer}") - delta).square().sum() for layer, delta in layers.items()]
    share = (sum(errors) / sum(delta.square().sum() for delta in layers.values())) ** 0.5
    assert f"rank 8 leaves {share:.2%} of the change" in err
    assert "4 tensors changed that no LoRA holds" in err
    with pytest.raises(ConfigError, match="give --rank N"):
        export(Asked([made], "comfyui"))


def test_the_largest_singular_values_are_found_at_random_too() -> None:
    """The same each time, and the nearest matrix, within rounding, where values fall off."""
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(size, 40, generator=generator))[0] for size in (700, 600))
    matrix = u @ torch.diag(0.5 ** torch.arange(40)) @ v.T
    first, second = nearest(matrix, 6), nearest(matrix, 6)
    assert torch.equal(first.up, second.up)
    left = torch.linalg.norm(matrix - first.product())
    torch.testing.assert_close(left, (0.25 ** torch.arange(6, 40)).sum().sqrt(), rtol=1e-3, atol=0)


def test_adapters_are_added_up_exactly(tiny_flux: Path, run: tuple[Path, Deltas], tmp_path: Path) -> None:
    """By their ranks side by side; LoKr and DoRA take a rank."""
    made, trained = run
    second, others = make_run(tiny_flux, tmp_path, {**LORA, "rank": 2, "targets": ["to_q"]}, seed=1)
    other = deltas(others["transformer"])
    asked = Asked([made, second], "comfyui", dtype="fp32", factors=[0.6, -0.4], output=tmp_path / "merged.safetensors")
    file = export(asked).files[0]
    tensors = load_file(file)
    for layer, delta in trained.items():
        wanted = 0.6 * delta - 0.4 * other.get(layer, torch.zeros(1))
        torch.testing.assert_close(added(tensors, f"transformer.{layer}"), wanted)
        assert len(tensors[f"transformer.{layer}.lora_A.weight"]) == (6 if layer in other else 4)
    assert header_of(file)["modelspec.merged_from"] == "run-step000012, run-step000012"
    fused = export(Asked([made, second], "fused", factors=[0.6, -0.4], output=tmp_path / "fused")).files[0]
    layer = next(iter(other))
    base = weights_of(tiny_flux / "transformer")[f"{layer}.weight"]
    found = weights_of(fused / "transformer")[f"{layer}.weight"]
    torch.testing.assert_close(found, base + 0.6 * trained[layer] - 0.4 * other[layer])
    loaded = FluxTransformer2DModel.from_pretrained(tiny_flux / "transformer")
    loaded.load_lora_adapter(load_file(export(Asked(**{**fields(asked), "to": "diffusers", "output": tmp_path})).files[0]))


def fields(asked: Asked) -> dict[str, Any]:
    return {name: getattr(asked, name) for name in Asked.__slots__}


def test_lokr_becomes_lora_where_it_cannot_be_carried(tiny: Tiny, tmp_path: Path) -> None:
    made, denoisers = make_run(tiny("hunyuan_video", "t2v"), tmp_path, {"kind": "lokr", "rank": 2, "alpha": 4})
    tensors = load_file(export(Asked([made], "kohya", rank=96, dtype="fp32")).files[0])
    trained, block = deltas(denoisers["transformer"]), "transformer_blocks.0.attn"
    wanted = torch.cat([trained[f"{block}.to_{own}"] for own in "qkv"])
    torch.testing.assert_close(added(tensors, "lora_unet_double_blocks_0_img_attn_qkv"), wanted, rtol=1e-3, atol=1e-4)


def test_the_file_says_what_it_is_and_nothing_private(run: tuple[Path, Deltas], tmp_path: Path) -> None:
    """In bfloat16, with the mode of other files; names of folders are not in it."""
    before = os.umask(0o027)
    try:
        (file,) = export(Asked([run[0]], "kohya", output=tmp_path)).files
    finally:
        os.umask(before)
    assert file == tmp_path / "run-step000012.safetensors"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert {tensor.dtype for name, tensor in load_file(file).items() if not name.endswith(".alpha")} == {torch.bfloat16}
    header = header_of(file)
    expected = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "flux-1-dev/lora",
        "modelspec.implementation": "https://github.com/black-forest-labs/flux",
        "modelspec.resolution": "64x64",
        "modelspec.trigger_phrase": "ohwx",
        "finetrainers.base_model": "flux",
        "ss_base_model_version": "flux1",
        "ss_network_dim": "4",
        "ss_network_alpha": "6",
        "ss_learning_rate": "0.001",
        "ss_steps": "12",
        "ss_output_name": "run-step000012",
        "ss_resolution": "(64, 64)",
    }
    assert {name: header.get(name) for name in expected} == expected
    assert "private" not in json.dumps(header)
    assert "/tmp" not in json.dumps(header)


def test_files_are_never_written_over(run: tuple[Path, Deltas], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The same export is there already; another one is refused, and leaves nothing behind."""
    output = tmp_path / "mine.safetensors"
    command = ["export", str(run[0]), "--to", "comfyui", "--output", str(output)]
    assert main(command) == 0
    first = output.read_bytes()
    assert main(command) == 0
    assert main([*command, "--dtype", "fp32"]) == 2
    assert "exists, and holds something else" in capfd.readouterr().err
    assert output.read_bytes() == first
    assert list(tmp_path.iterdir()) == [output]
    fused = ["export", str(run[0]), "--to", "fused", "--output", str(tmp_path)]
    assert main(fused) == 2
    assert "name another folder" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "there is no nowhere"),
        (["RUN", "--step", "3"], "the weights step-000003 are missing or incomplete"),
        (["RUN", "RUN", "--weights", "1"], "1 numbers for 2 sources"),
        (["WEIGHTS", "--step", "12"], "is not a run"),
        (["RUN", "--to", "fused", "--rank", "2"], "--rank: has no effect"),
        (["RUN", "--to", "fused", "--leave-out"], "--leave-out: has no effect"),
        (["RUN", "--to", "fused", "--family", "flux"], "--family: has no effect"),
        (["FULL", "--to", "diffusers", "--base", "mine"], "--base: has no effect"),
        (["RUN", "--to", "fused", "--output", "x.safetensors"], "full weights are a folder, and x.safetensors has the name"),
        (["RUN", "FULL", "--to", "fused"], "has full weights, which are added to nothing"),
        (["FULL", "RUN", "--to", "fused"], "has full weights, which are added to nothing"),
        (["FULL", "--to", "fused", "--weights", "0.5"], "has full weights, which are added to nothing"),
        (["RUN", "--to", "fused", "--base", "nowhere/at/all"], "neither a folder that exists"),
    ],
)
def test_what_cannot_be_exported_is_said_in_one_line(
    run: tuple[Path, Deltas], tiny_flux: Path, capfd: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    full = str(tiny_flux / "transformer")
    named = {"RUN": str(run[0]), "WEIGHTS": str(run[0] / "weights/step-000012"), "FULL": full}
    assert (
        main(["export", *(named.get(word, word) for word in words), *([] if "--to" in words else ["--to", "comfyui"])]) == 2
    )
    err = capfd.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1


def test_layers_of_a_control_are_refused_and_fused(tiny_flux: Path, tmp_path: Path) -> None:
    """They are whole layers, which no adapter's file holds; fused weights have them, and the config that fits them."""
    made, _ = make_run(tiny_flux, tmp_path, LORA, conditioning={"kind": "channel_concat", "signal": "canny"})
    for to in ("comfyui", "kohya", "diffusers"):
        with pytest.raises(ConfigError, match="trained in full along with the adapter"):
            export(Asked([made], to))
    assert "x_embedder" in export(Asked([made], "comfyui", leave_out=True)).notes[0]
    (folder,) = export(Asked([made], "fused")).files
    found = FluxTransformer2DModel.from_pretrained(folder / "transformer")
    layers = load_file(made / "weights/step-000012/transformer/layers.safetensors")
    assert found.x_embedder.weight.shape == layers["x_embedder.weight"].shape
    assert torch.equal(found.x_embedder.weight, layers["x_embedder.weight"])


def test_what_is_of_another_model_is_refused(tiny: Tiny, run: tuple[Path, Deltas], tmp_path: Path) -> None:
    """By what the files say of themselves, and by the shapes of their layers."""
    wan, _ = make_run(tiny("wan", "2.1-t2v"), tmp_path / "wan", {**LORA, "dora": True})
    with pytest.raises(ConfigError, match="adapters of different models"):
        export(Asked([run[0], wan], "fused", output=tmp_path / "fused"))
    for to in ("fused", "comfyui"):
        with pytest.raises(ConfigError, match="name what it was trained from"):
            export(Asked([wan], to, base=str(tiny("wan", "2.2-ti2v-5b")), output=tmp_path / to))
    assert not (tmp_path / "fused").exists()


def test_numbers_that_fp16_does_not_hold_are_refused() -> None:
    tensors = {"a.lora_B.weight": torch.tensor([1e6]), "a.alpha": torch.tensor(1e6)}
    with pytest.raises(ConfigError, match="take bf16"):
        cast(tensors, "fp16")
    assert cast(tensors, "bf16")["a.alpha"].dtype == torch.float32
    assert cast({"a.alpha": torch.tensor(1e6)}, "fp16")["a.alpha"] == 1e6
