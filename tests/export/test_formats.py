"""What ComfyUI and kohya's tools are given is what was trained: read back through diffusers' own converters."""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.loaders import lora_conversion_utils as lora_converters, single_file_utils as converters
from native_keys import NATIVE
from runs import Tree
from safetensors.torch import load_file
from torch import Tensor
from weights_made import Deltas, added, deltas, make_run

from finetrainers.errors import ConfigError
from finetrainers.export.changes import Change, LowRank
from finetrainers.export.export import Asked, Exported, export
from finetrainers.export.formats import make_keys
from finetrainers.export.names import FAMILIES
from finetrainers.export.source import Adapter

Tiny = Callable[[str, str], Path]
VARIANTS = {
    "cogvideox": "2b",
    "cogview4": "6b",
    "flux": "dev",
    "hunyuan_video": "t2v",
    "ltx_video": "0.9.0",
    "wan": "2.1-i2v",
}
ALL = r".*blocks\.\d+\.(attn\d?\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)|ff(n|_context)?\.net\.(0\.proj|2)|proj_mlp)"
"""Of the blocks: their attention and their perceptrons."""
LORA: Tree = {"kind": "lora", "rank": 4, "alpha": 4, "targets": ALL}
SCALED: Tree = {**LORA, "alpha": 6, "rslora": True}
LOKR: Tree = {"kind": "lokr", "rank": 2, "alpha": 6, "targets": ALL}
DORA: Tree = {**LORA, "alpha": 6, "dora": True}


def exported(run: Path, to: str, output: Path, **options: Any) -> tuple[dict[str, Tensor], Exported]:
    result = export(Asked([run], to, **{"dtype": "fp32", "output": output, **options}))
    return load_file(result.files[0]), result


def layers_of(tensors: dict[str, Tensor]) -> list[str]:
    """Names of layers in a file."""
    ending = r"\.(lora_(A|B|up|down)\.weight|lokr_w[12](_[ab])?|alpha|dora_scale)"
    return sorted({re.sub(f"{ending}$", "", name) for name in tensors})


def in_diffusers(family: str, native: Deltas) -> Deltas:
    """Let diffusers rename weights of an original checkpoint."""
    weights = {f"{name}.weight": delta for name, delta in native.items()}
    convert: Any = {
        "wan": converters.convert_wan_transformer_to_diffusers,
        "ltx_video": converters.convert_ltx_transformer_checkpoint_to_diffusers,
        "hunyuan_video": converters.convert_hunyuan_video_transformer_to_diffusers,
    }[family]
    return {name.removesuffix(".weight"): delta for name, delta in convert(weights).items()}


def same(found: Deltas, wanted: Deltas) -> None:
    assert found.keys() == wanted.keys()
    for layer, delta in wanted.items():
        torch.testing.assert_close(
            found[layer].flatten(1), delta.flatten(1), msg=lambda text, layer=layer: f"{layer}: {text}"
        )


Made = Callable[[str, Tree], tuple[Path, Deltas, Any]]


@pytest.fixture(scope="module")
def made(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A run by family and tuning, each made once: its folder, what it adds, its denoiser. Shared: export elsewhere."""
    known: dict[str, tuple[Path, Deltas, Any]] = {}

    def make(family: str, tuning: Tree) -> tuple[Path, Deltas, Any]:
        key = f"{family} {tuning}"
        if key not in known:
            run, denoisers = make_run(tiny(family, VARIANTS[family]), tmp_path_factory.mktemp("made"), tuning)
            known[key] = run, deltas(denoisers["transformer"]), denoisers["transformer"]
        return known[key]

    return make


BLOCKS_OF_HUNYUAN = ALL.replace(".*blocks", r"(transformer_blocks|context_embedder\.token_refiner\.refiner_blocks)")
"""Without single blocks: diffusers' converter takes these by the width of the real model alone."""


@pytest.mark.parametrize("tuning", [LORA, SCALED, LOKR], ids=["lora", "rslora of another alpha", "lokr"])
@pytest.mark.parametrize("family", ["wan", "ltx_video"])
def test_native_names_come_back_as_what_was_trained(made: Made, tmp_path: Path, family: str, tuning: Tree) -> None:
    run, trained, _ = made(family, tuning)
    tensors, _ = exported(run, "comfyui", tmp_path / "comfyui")
    assert all(name.startswith("diffusion_model.") for name in tensors)
    native = {layer.removeprefix("diffusion_model."): added(tensors, layer) for layer in layers_of(tensors)}
    assert {re.sub(r"(?<=\.)\d+(?=\.)", "*", name, count=1) for name in native} <= NATIVE[family]
    same(in_diffusers(family, native), trained)


@pytest.mark.parametrize("tuning", [LORA, SCALED], ids=["lora", "rslora of another alpha"])
def test_hunyuan_video_comes_back_as_what_was_trained(made: Made, tmp_path: Path, tuning: Tree) -> None:
    """q, k and v are one matrix there."""
    run, trained, _ = made("hunyuan_video", {**tuning, "targets": BLOCKS_OF_HUNYUAN})
    tensors, _ = exported(run, "comfyui", tmp_path / "comfyui")
    native = {layer.removeprefix("diffusion_model."): added(tensors, layer) for layer in layers_of(tensors)}
    assert {re.sub(r"(?<=\.)\d+(?=\.)", "*", name, count=1) for name in native} <= NATIVE["hunyuan_video"]
    same(in_diffusers("hunyuan_video", native), trained)


COGVIDEOX = {
    "q": "attn1.to_q", "k": "attn1.to_k", "v": "attn1.to_v", "attn_out": "attn1.to_out.0",
    "ff_proj": "ff.net.0.proj", "ff_out": "ff.net.2",
}  # fmt: skip
"""Layers of blocks in ComfyUI's own CogVideoX, and what they are in diffusers, which has no converter of them."""


def test_cogvideox_comes_back_from_comfyui_s_names_to_equal_tensors(made: Made, tmp_path: Path) -> None:
    run, trained, denoiser = made("cogvideox", SCALED)
    tensors, result = exported(run, "comfyui", tmp_path / "comfyui")
    assert "--to kohya" in result.notes[0]  # what a custom node takes
    state, found = denoiser.state_dict(), {}
    for layer in layers_of(tensors):
        number, name = re.fullmatch(r"diffusion_model\.blocks\.(\d+)\.(\w+)", layer).groups()  # type: ignore[union-attr]
        own = f"transformer_blocks.{number}.{COGVIDEOX[name]}"
        found[own] = added(tensors, layer)
        for letter in "AB":
            assert torch.equal(tensors[f"{layer}.lora_{letter}.weight"], state[f"{own}.lora_{letter}.default.weight"])
    same(found, trained)


@pytest.mark.parametrize("family", ["wan", "ltx_video", "hunyuan_video"])
def test_kohya_has_the_tensors_of_comfyui_under_its_names(made: Made, tmp_path: Path, family: str) -> None:
    run, _, _ = made(family, SCALED)
    comfyui, _ = exported(run, "comfyui", tmp_path / "comfyui")
    kohya, _ = exported(run, "kohya", tmp_path / "kohya")
    ours = {}
    for name, tensor in comfyui.items():
        layer, _, ending = (
            re.sub(r"lora_A(?=\.weight$)", "lora_down", name).replace("lora_B.weight", "lora_up.weight").partition(".lora_")
        )
        layer, _, alpha = layer.partition(".alpha")
        layer = layer.removeprefix("diffusion_model.").replace(".", "_")
        ours[f"lora_unet_{layer}" + (f".lora_{ending}" if ending else ".alpha")] = tensor
    assert ours.keys() == kohya.keys()
    assert all(torch.equal(ours[name], kohya[name]) for name in ours)


@pytest.fixture(scope="module")
def pipelines(tiny: Tiny) -> Callable[[str], Any]:
    """Plain pipelines by family, each loaded once. Shared: take off what you put on."""
    return cache(lambda family: diffusers.DiffusionPipeline.from_pretrained(tiny(family, VARIANTS[family])))


@pytest.mark.parametrize(
    ("family", "to"),
    [(family, to) for family in VARIANTS for to in ("comfyui", "diffusers") if (family, to) != ("cogvideox", "comfyui")],
)
def test_plain_pipelines_load_what_was_trained(
    made: Made, pipelines: Callable[[str], Any], tmp_path: Path, family: str, to: str
) -> None:
    """Where alpha is the rank, which is what diffusers' converters for LTX-Video and HunyuanVideo take."""
    targets = ALL.replace(".*blocks", "transformer_blocks") if family == "hunyuan_video" else ALL
    tuning = {**LORA, "targets": targets} if to == "comfyui" and family in ("ltx_video", "hunyuan_video") else SCALED
    run, trained, _ = made(family, {**tuning, "targets": targets})
    pipeline = pipelines(family)
    pipeline.load_lora_weights(export(Asked([run], to, dtype="fp32", output=tmp_path)).files[0])
    found = deltas(pipeline.transformer)
    pipeline.unload_lora_weights()
    same(found, trained)


def test_wan_comes_back_from_kohya_s_names(made: Made, pipelines: Callable[[str], Any], tmp_path: Path) -> None:
    run, trained, _ = made("wan", SCALED)
    pipeline = pipelines("wan")
    pipeline.load_lora_weights(export(Asked([run], "kohya", dtype="fp32", output=tmp_path)).files[0])
    found = deltas(pipeline.transformer)
    pipeline.unload_lora_weights()
    same(found, trained)


WIDTH = 3072
"""Of Flux and HunyuanVideo, which diffusers' converters for single blocks have as a constant."""


def wide(parts: dict[str, int], *, rank: int = 2) -> dict[str, Change]:
    """Random changes of a single block of the real width; parts with their rows."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    block = "single_transformer_blocks.0"
    return {f"{block}.{name}": LowRank(draw(rank, WIDTH), draw(rows, rank), 1.5) for name, rows in parts.items()}


QKV = {"attn.to_q": WIDTH, "attn.to_k": WIDTH, "attn.to_v": WIDTH}


def answers(tensors: dict[str, Tensor], layer: str, x: Tensor) -> Tensor:
    """What a layer's adapter answers, without making its product."""
    found: Tensor = tensors[f"{layer}.lora_B.weight"] @ (tensors[f"{layer}.lora_A.weight"] @ x)
    return found


@pytest.mark.parametrize("parts", [QKV, {**QKV, "proj_mlp": 4 * WIDTH}, {"attn.to_k": WIDTH}], ids=["qkv", "all", "k"])
def test_single_blocks_of_flux_come_back_from_kohya_s_names(parts: dict[str, int]) -> None:
    changes = wide(parts)
    keys = make_keys("kohya", Adapter(changes), "flux", lambda layer: torch.zeros(0))
    x = torch.randn(WIDTH, 4)
    read = lora_converters._convert_kohya_flux_lora_to_diffusers(dict(keys.tensors))
    assert len(read) == 8  # q, k, v and the perceptron, with nothing where nothing was trained
    for name in (*QKV, "proj_mlp"):
        layer = f"single_transformer_blocks.0.{name}"
        change = changes.get(layer)
        wanted = torch.zeros(1) if change is None else change.scale * change.up @ (change.down @ x)
        found = answers(read, f"transformer.{layer}", x)
        torch.testing.assert_close(found, wanted.expand_as(found), rtol=1e-4, atol=1e-2)
    if len(parts) == 4:  # as many ranks as parts: diffusers sees that each has its own, and takes them apart again
        for layer, change in changes.items():
            assert torch.equal(read[f"transformer.{layer}.lora_B.weight"], change.up)
            assert torch.equal(read[f"transformer.{layer}.lora_A.weight"], change.down * change.scale)


def test_single_blocks_of_hunyuan_video_come_back() -> None:
    changes = {layer: LowRank(c.down, c.up, 1.0) for layer, c in wide(QKV).items()}
    keys = make_keys("comfyui", Adapter(changes), "hunyuan_video", lambda layer: torch.zeros(0))
    read = lora_converters._convert_hunyuan_video_lora_to_diffusers(dict(keys.tensors))
    x = torch.randn(WIDTH, 4)
    for layer, change in changes.items():
        wanted = change.up @ (change.down @ x)
        torch.testing.assert_close(answers(read, f"transformer.{layer}", x), wanted, rtol=1e-4, atol=1e-2)


def test_double_blocks_of_flux_come_back_from_kohya_s_names_to_equal_tensors(made: Made, tmp_path: Path) -> None:
    tuning = {**SCALED, "targets": ALL.replace(".*blocks", "transformer_blocks")}
    run, trained, denoiser = made("flux", tuning)
    tensors, _ = exported(run, "kohya", tmp_path / "kohya")
    assert {re.sub(r"\d+", "*", name.partition(".")[0], count=1) for name in tensors} <= {
        f"lora_unet_{name.replace('.', '_')}" for name in NATIVE["flux"]
    }
    read = diffusers.FluxPipeline.lora_state_dict(tensors)
    state = denoiser.state_dict()
    for layer in trained:
        up, down = (state[f"{layer}.lora_{own}.default.weight"] for own in "BA")
        assert torch.equal(read[f"transformer.{layer}.lora_B.weight"], up)
        torch.testing.assert_close(read[f"transformer.{layer}.lora_A.weight"], down * 3.0, rtol=1e-6, atol=0)


def test_lokr_of_flux_is_read_by_names_of_lycoris(made: Made, tmp_path: Path) -> None:
    run, trained, _ = made("flux", {**LOKR, "targets": r"transformer_blocks\.\d+\.attn\.(to_q|to_out\.0)"})
    tensors, _ = exported(run, "comfyui", tmp_path / "comfyui")
    read = lora_converters._convert_lycoris_flux2_lokr_to_diffusers(tensors)
    same({layer: added(read, f"transformer.{layer}") for layer in trained}, trained)


@pytest.mark.parametrize("family", VARIANTS)
def test_denoisers_load_lokr(made: Made, pipelines: Callable[[str], Any], tmp_path: Path, family: str) -> None:
    run, trained, _ = made(family, LOKR)
    file = export(Asked([run], "diffusers", dtype="fp32", output=tmp_path)).files[0]
    transformer = pipelines(family).transformer
    transformer.load_lora_adapter(file, use_safetensors=True)
    found = deltas(transformer)
    transformer.unload_lora()
    same(found, trained)


@pytest.mark.parametrize("family", ["wan", "hunyuan_video", "flux", "cogvideox"])
def test_dora_counts_in_comfyui_as_in_training(made: Made, tmp_path: Path, family: str) -> None:
    """ComfyUI divides rows by their length before the change, peft by that after it."""
    targets = r".*blocks\.\d+\.attn\d?\.to_[qk]"  # v is in the same matrix, and does not change
    run, trained, denoiser = made(family, {**DORA, "targets": targets})
    tensors, _ = exported(run, "comfyui", tmp_path / "comfyui")
    names, base = FAMILIES[family], denoiser.state_dict()
    for layer, delta in trained.items():
        native = names.find(layer)
        assert native is not None
        weight = base[f"{layer}.base_layer.weight"]
        rows, name = slice(None), f"transformer.{layer}"
        if names.comfyui == "native":
            name = f"diffusion_model.{native.name}"
            begin = sum(native.parts[: native.part]) * weight.shape[1]
            rows = slice(begin, begin + len(weight))
        changed = weight + added(tensors, name)[rows]
        drawn = changed * (tensors[f"{name}.dora_scale"][rows] / weight.norm(dim=1, keepdim=True))
        torch.testing.assert_close(drawn, weight + delta, msg=lambda text, layer=layer: f"{layer}: {text}")
        if len(native.parts) > 1 and names.comfyui == "native":  # rows of v stay as long as they are
            still = base[f"{native.layers[2]}.weight"]
            length = tensors[f"{name}.dora_scale"][2 * len(weight) : 3 * len(weight)]
            torch.testing.assert_close(length, still.norm(dim=1, keepdim=True))


@pytest.mark.parametrize(
    ("family", "tuning", "to", "message"),
    [
        ("hunyuan_video", LOKR, "comfyui", "rows of a larger matrix"),
        ("flux", LOKR, "kohya", "rows of a larger matrix"),
        ("flux", DORA, "kohya", "read no DoRA"),
        ("cogview4", DORA, "comfyui", "reads no DoRA"),
        (
            "hunyuan_video",
            {**LORA, "targets": ["time_text_embed.timestep_embedder.linear_1", "to_q"]},
            "comfyui",
            "no layer for it",
        ),
    ],
)
def test_what_a_format_cannot_carry_is_named(
    made: Made, tmp_path: Path, family: str, tuning: Tree, to: str, message: str
) -> None:
    run, _, _ = made(family, tuning)
    with pytest.raises(ConfigError, match=message):
        export(Asked([run], to, output=tmp_path))
    assert not list(tmp_path.iterdir())
    if "no layer" in message:
        tensors, result = exported(run, to, tmp_path / to, leave_out=True)
        assert "timestep_embedder.linear_1" in result.notes[0]
        assert not any("time" in name for name in tensors)
