"""A LoRA on real clips with a tiny LTX-Video, and on real photographs with a tiny Flux: losses fall, weights load."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from media_factory import real_clip, real_photo
from runs import config_of, curve, events_of, flux_tree, merged

from finetrainers import train


def measured_fall(tree: Any) -> tuple[float, float]:
    """Loss before and after, at fixed noise, on the very items that are trained on: what falls is what was learned."""
    own = [
        {"buckets": data["buckets"], "path": other_bytes(Path(data["path"]), Path(tree["output_dir"]).with_name(f"own-{i}"))}
        for i, data in enumerate(tree["data"])
    ]
    result = train(config_of(merged(tree, {"validation": {"data": own, "noise_levels": 4}})))
    losses = [event["held_out_loss"] for event in events_of(tree["output_dir"]) if event["event"] == "validation"]
    assert len(curve(tree["output_dir"], "loss")) == tree["train"]["steps"]
    assert result.weights.is_dir()
    return losses[0], losses[-1]


def other_bytes(data: Path, to: Path) -> str:
    """Copy media so that they show the same and are other files: a run trains on nothing that it holds out."""
    shutil.copytree(data, to)
    for file in to.iterdir():
        if file.suffix != ".txt":
            file.write_bytes(file.read_bytes() + b"\0\0\0\x08free")  # an empty box to mp4, and nothing to images
    return str(to)


@pytest.mark.slow
def test_ltx_learns_real_clips(tiny_ltx: Path, tmp_path: Path) -> None:
    from diffusers import LTXPipeline

    (tmp_path / "clips").mkdir()
    for name in ("bikes.mp4", "carphone_pristine.mp4"):
        shutil.copy(real_clip(name), tmp_path / "clips" / name)
        (tmp_path / "clips" / name).with_suffix(".txt").write_text(f"a video of {name}")
    data = [
        {"path": str(tmp_path / "clips"), "buckets": [[9, 64, 64], [17, 64, 96]], "frame_sampling": "random", "views": 2}
    ]
    tree = flux_tree(tiny_ltx, tmp_path / "clips", tmp_path, optimizer={"lr": 5e-3}, train={"steps": 40})
    tree |= {"data": data, "tuning": {"kind": "lora", "rank": 8, "alpha": 16}}
    before, after = measured_fall(tree)
    assert after < 0.97 * before
    pipeline = LTXPipeline.from_pretrained(tiny_ltx)
    pipeline.load_lora_weights(tmp_path / "run" / "weights" / "step-000040")
    assert pipeline.get_active_adapters()


@pytest.mark.slow
def test_flux_learns_real_photographs(tiny_flux: Path, tmp_path: Path) -> None:
    from diffusers import FluxPipeline

    (tmp_path / "photos").mkdir()
    for name in ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg"):
        shutil.copy(real_photo(name), tmp_path / "photos" / name)
        (tmp_path / "photos" / name).with_suffix(".txt").write_text(f"a photograph of {name}")
    data = [{"path": str(tmp_path / "photos"), "buckets": {"pixels": 4096, "step": 16}, "horizontal_flip": True, "views": 2}]
    tree = flux_tree(tiny_flux, tmp_path / "photos", tmp_path, optimizer={"lr": 5e-3}, train={"steps": 40})
    tree |= {"data": data, "tuning": {"kind": "lora", "rank": 8, "alpha": 16}}
    before, after = measured_fall(tree)
    assert after < 0.97 * before
    pipeline = FluxPipeline.from_pretrained(tiny_flux)
    pipeline.load_lora_weights(tmp_path / "run" / "weights" / "step-000040")
    assert pipeline.get_active_adapters()
