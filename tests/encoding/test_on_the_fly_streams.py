"""``cache.encode: on_the_fly`` with all that items may have besides a medium and a caption: trains as an unlimited cache."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from runs import Tree, adapter_file, config_of, curve, events_of, flux_tree, merged, write_pictures
from safetensors.torch import load_file

from finetrainers import train
from finetrainers.config import dump_config
from finetrainers.data.cache.store import Cache
from finetrainers.testing.model_under_test import ModelUnderTest

pytestmark = pytest.mark.long
COUNT = 4


def control(tiny: Callable[[str, str], Path], root: Path) -> Tree:
    """Pictures and their controls, from files."""
    data = {"path": str(write_pictures(root / "data", COUNT)), "buckets": [[1, 64, 64]]}
    data["control_path"] = str(write_pictures(root / "controls", COUNT, seed=7))
    tree = flux_tree(tiny("flux", "dev"), root / "data", root, conditioning={"kind": "channel_concat", "signal": "files"})
    return merged(tree, {"data": [data]})


def references(tiny: Callable[[str, str], Path], root: Path) -> Tree:
    """Edits, and for every second one a second picture that it was made of."""
    media, given = write_pictures(root / "data", COUNT), write_pictures(root / "given", 2 * COUNT, size=(32, 64), seed=20)
    rows = []
    for number in range(COUNT):
        (media / f"{number:02d}.txt").unlink()
        files = [f"../{given.name}/{own:02d}.png" for own in range(number, COUNT * (1 + number % 2), COUNT)]
        rows.append({"file_name": f"{number:02d}.png", "text": f"edit {number}", "reference": files})
    (media / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    shown = {"kind": "references", "pixels": 2048, "step": 16}
    return flux_tree(tiny("flux", "kontext"), media, root, conditioning=shown)


def image_to_video(tiny: Callable[[str, str], Path], root: Path) -> Tree:
    """Clips whose first frame the model is shown, as latents and by what its image encoder makes of it."""
    model = {"path": str(tiny("wan", "2.1-i2v"))}
    tree: Tree = yaml.safe_load(dump_config(Clips(model, (9, 64, 64), root).config("run")))
    return tree


class Clips(ModelUnderTest):
    captions = tuple(f"clip number {number}" for number in range(COUNT))


@pytest.mark.parametrize("make", [control, references, image_to_video])
def test_streams_of_items_are_encoded_on_the_fly(
    make: Callable[..., Tree], tiny: Callable[[str, str], Path], tmp_path: Path
) -> None:
    """Bit for bit: losses, norms, weights, and the loss of single items; of a set whose items do not all fit."""
    changes = {
        "train": {"steps": 4, "batch_size": 1, "micro_batch_size": 1},
        "validation": {"every": 2, "items": 1, "noise_levels": 1},
        "track": {"report": False},
    }
    tree = merged(make(tiny, tmp_path), changes)
    train(config_of(tree))
    size = sum(entry.bytes for entry in Cache(Path(tree["cache"]["path"])).entries())
    cache = {"path": str(tmp_path / "fly-cache"), "encode": "on_the_fly", "max_gb": 0.8 * size / 1e9}
    fly = merged(tree, {"output_dir": str(tmp_path / "fly"), "cache": cache})
    train(config_of(fly))
    assert not list(Path(cache["path"]).rglob("*.safetensors"))
    assert results(fly) == results(tree)
    assert len(windows(fly)) > len(windows(tree))


def results(tree: Tree) -> tuple[Any, ...]:
    """Losses and norms of the steps, what was measured of single items, and weights."""
    measured = [event["items"] for event in events_of(tree["output_dir"]) if event["event"] == "validation"]
    assert len(measured) == 3
    weights = load_file(adapter_file(Path(tree["output_dir"]) / "weights" / "step-000004"))
    return curve(tree["output_dir"], "loss", "grad_norm"), measured, {name: own.tolist() for name, own in weights.items()}


def windows(tree: Tree) -> list[Any]:
    """Times that media were encoded."""
    events = (event for event in events_of(tree["output_dir"]) if event["event"] == "progress")
    return [event for event in events if event["stage"] == "encode media" and event["done"] == event["total"]]
