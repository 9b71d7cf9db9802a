"""Each name that is written is one that the program which reads it looks for: of all linear layers of all families."""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from comfyui_names import ENDINGS, known_names
from native_keys import NATIVE
from torch import Tensor
from weights_made import added

from finetrainers.export.changes import Change, Kronecker, LowRank
from finetrainers.export.formats import make_keys
from finetrainers.export.names import FAMILIES
from finetrainers.export.source import Adapter

VARIANTS = {
    "cogvideox": "2b", "cogview4": "6b", "flux": "dev", "hunyuan_video": "t2v", "ltx_video": "0.9.0", "wan": "2.1-i2v",
}  # fmt: skip
SCALE = 1.5
"""Alpha divided by the rank, which is not 1."""
IN_COMFYUI = [
    *((family, kind) for family in ("cogvideox", "flux", "wan", "ltx_video") for kind in ("lora", "dora", "lokr")),
    *(("hunyuan_video", kind) for kind in ("lora", "dora")),
]
Shapes = dict[str, tuple[int, int]]


@pytest.fixture(scope="module")
def shapes(tiny: Callable[[str, str], Path]) -> Callable[[str], Shapes]:
    """Shapes (O, I) of all linear layers of a family's denoiser, by their names in diffusers."""

    @cache
    def of(family: str) -> Shapes:
        kind: Any = getattr(diffusers, FAMILIES[family].denoiser_class)
        config = kind.load_config(tiny(family, VARIANTS[family]) / "transformer")
        with torch.device("meta"):
            model = kind.from_config(config)
        layers = {name: own for name, own in model.named_modules() if isinstance(own, torch.nn.Linear)}
        return {name: (own.out_features, own.in_features) for name, own in layers.items()}

    return of


def changed(shapes: Shapes, kind: str) -> dict[str, Change]:
    """A random change of each layer."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    if kind == "lokr":
        inner = ("lokr_w1", "lokr_w2_a", "lokr_w2_b")
        return {
            name: Kronecker(dict(zip(inner, (draw(2, 2), draw(rows // 2, 3), draw(3, columns // 2)), strict=True)), SCALE)
            for name, (rows, columns) in shapes.items()
        }
    return {
        name: LowRank(draw(2, columns), draw(rows, 2), SCALE, draw(rows).abs() if kind == "dora" else None)
        for name, (rows, columns) in shapes.items()
    }


def written(to: str, family: str, shapes: Shapes, kind: str) -> dict[str, set[str]]:
    """Names of layers in a file, with what it has of each."""
    keys = make_keys(to, Adapter(changed(shapes, kind)), family, lambda layer: torch.ones(shapes[layer]))
    found: dict[str, set[str]] = {}
    for key in keys.tensors:
        name, ending = re.fullmatch(r"(.+?)\.((?:lora_|lokr_|alpha|dora_scale).*)", key).groups()  # type: ignore[union-attr]
        found.setdefault(name, set()).add(ending)
    assert len(keys.lost) < len(shapes)
    return found


def starred(name: str) -> str:
    """Put a star in the place of the number of a block."""
    return re.sub(r"(?<=blocks[._])\d+(?=[._])", "*", name, count=1)


@pytest.mark.parametrize(("family", "kind"), IN_COMFYUI)
def test_comfyui_looks_for_each_name_that_is_written_for_it(shapes: Callable[[str], Shapes], family: str, kind: str) -> None:
    found = written("comfyui", family, shapes(family), kind)
    assert {starred(name) for name in found} <= known_names(family)
    assert set().union(*found.values()) <= ENDINGS
    assert all(("dora_scale" in own) == (kind == "dora") and "alpha" in own for own in found.values())


@pytest.mark.parametrize("family", ["flux", "hunyuan_video", "ltx_video", "wan"])
def test_kohya_s_names_are_the_authors_with_underscores(shapes: Callable[[str], Shapes], family: str) -> None:
    kinds = ("lora", "lokr") if family in ("ltx_video", "wan") else ("lora",)
    known = {f"lora_unet_{name.replace('.', '_')}" for name in NATIVE[family]}
    for kind in kinds:
        found = written("kohya", family, shapes(family), kind)
        assert {starred(name) for name in found} <= known
        assert all("alpha" in own for own in found.values())


@pytest.mark.parametrize("kind", ["lora", "dora", "lokr"])
def test_comfyui_finds_each_linear_layer_of_cogvideox(shapes: Callable[[str], Shapes], kind: str) -> None:
    own = shapes("cogvideox")
    found = {starred(name) for name in written("comfyui", "cogvideox", own, kind)}
    assert len(found) == len({re.sub(r"(?<=blocks\.)\d+", "*", name) for name in own})
    others = {name for name in known_names("cogvideox") if name.startswith("diffusion_model.")} - found
    assert others == {"diffusion_model.patch_embed.proj", *(f"diffusion_model.ofs_embedding_linear_{n}" for n in (1, 2))}


@pytest.mark.parametrize("kind", ["lora", "lokr"])
@pytest.mark.parametrize("family", ["cogvideox", "cogview4"])
def test_files_by_names_of_diffusers_come_back_to_equal_changes(
    shapes: Callable[[str], Shapes], family: str, kind: str
) -> None:
    """kohya's with underscores, of which each is the name of one layer; ComfyUI's with the scale in the matrices."""
    own = changed(shapes(family), kind)
    kohya = make_keys("kohya", Adapter(own), family, lambda layer: torch.zeros(0))
    assert kohya.lost == {}
    names = {layer: f"lora_unet_{layer.replace('.', '_')}" for layer in own}
    assert len(set(names.values())) == len(own)
    assert {key.partition(".")[0] for key in kohya.tensors} == set(names.values())
    for layer, change in own.items():
        torch.testing.assert_close(added(kohya.tensors, names[layer]), change.product())
    if family == "cogvideox":
        return
    comfyui = make_keys("comfyui", Adapter(own), family, lambda layer: torch.zeros(0))
    assert comfyui.lost == {}
    assert not any(key.endswith(".alpha") for key in comfyui.tensors)
    for layer, change in own.items():
        torch.testing.assert_close(added(comfyui.tensors, f"transformer.{layer}"), change.product())
