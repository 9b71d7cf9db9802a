"""``checkpoint.export``: each save has the files that other programs read, and what they cannot carry is known at once."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from runs import Tree, config_of, flux_tree, merged, write_pictures
from safetensors.torch import load_file
from weights_made import added

from finetrainers import train
from finetrainers.errors import ConfigError
from finetrainers.export.saved import check_saved
from finetrainers.export.source import open_source
from finetrainers.files.whole import damage
from finetrainers.models import open_model
from finetrainers.training.checks.parts import check_tuning

LORA: Tree = {"kind": "lora", "rank": 4, "alpha": 8}


def test_each_save_has_the_files_that_are_asked_for(tiny_flux: Path, tmp_path: Path) -> None:
    """They are of the same step, as much a part of its folder as the weights, and are removed with it."""
    tree = flux_tree(tiny_flux, write_pictures(tmp_path / "data", 4), tmp_path, train={"steps": 2})
    result = train(config_of(merged(tree, {"checkpoint": {"every": 1, "keep_weights": 1, "export": ["comfyui", "kohya"]}})))
    assert not list((tmp_path / "run" / "weights").glob("step-000001/*"))
    assert damage(result.weights) is None
    tensors = load_file(result.weights / "comfyui" / "run-step000002.safetensors")
    assert {tensor.dtype for name, tensor in tensors.items() if not name.endswith(".alpha")} == {torch.bfloat16}
    changes = open_source(result.weights).adapters["transformer"].changes
    assert changes
    for layer, change in changes.items():
        found = added(tensors, f"transformer.{layer}")
        torch.testing.assert_close(found, change.product(), rtol=1e-2, atol=float(change.product().abs().max()) / 50)
    names = load_file(result.weights / "kohya" / "run-step000002.safetensors")
    assert "lora_unet_double_blocks_0_img_attn_qkv.alpha" in names


@pytest.mark.parametrize(
    ("family", "variant", "tuning", "export", "message"),
    [
        ("hunyuan_video", "t2v", {"kind": "lokr"}, "comfyui", "rows of a larger matrix"),
        ("flux", "dev", {**LORA, "dora": True}, "kohya", "checkpoint.export: kohya: kohya's tools read no DoRA"),
        ("flux", "dev", {**LORA, "targets": ["norm_out.linear"]}, "kohya", "flux has no layer for it"),
    ],
)
def test_what_cannot_be_carried_is_known_before_weights_are_loaded(
    tiny: Callable[[str, str], Path], tmp_path: Path, family: str, variant: str, tuning: Tree, export: str, message: str
) -> None:
    tree = flux_tree(tiny(family, variant), tmp_path, tmp_path, checkpoint={"export": [export]})
    config = config_of({**tree, "tuning": tuning})
    with pytest.raises(ConfigError, match=message):
        check_tuning(config, open_model(config.model))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tuning": {"kind": "full"}}, "checkpoint.export: .*tuning.kind: full trains whole layers"),
        ({"conditioning": {"kind": "channel_concat", "signal": "canny"}}, "a control trains whole layers"),
        ({"checkpoint": {"export": ["kohya", "kohya"]}}, "names one twice"),
    ],
)
def test_exports_of_whole_weights_are_refused(tmp_path: Path, changes: Tree, message: str) -> None:
    tree = flux_tree(tmp_path, tmp_path, tmp_path, checkpoint={"export": ["comfyui"]})
    with pytest.raises(ConfigError, match=message):
        config_of(merged(tree, changes))


def test_other_families_have_no_names(tmp_path: Path) -> None:
    config = config_of(flux_tree(tmp_path, tmp_path, tmp_path, checkpoint={"export": ["comfyui"]}))
    with pytest.raises(ConfigError, match="checkpoint.export: comfyui: lumina; there are names for cogvideox"):
        check_saved(config, "lumina", ["to_q"])
