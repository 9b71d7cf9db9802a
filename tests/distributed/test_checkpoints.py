"""A run that some processes have saved goes on with others, and ends as it would have."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import ranks
from runs import Tree, curve, flux_tree, merged, write_pictures
from safetensors.torch import load_file

from finetrainers.config import dump_config, parse_config
from finetrainers.training.run import train

TUNINGS = {"lora": {"kind": "lora", "rank": 3, "alpha": 4}, "full": {"kind": "full"}}
"""Rank 3: its rows are no multiple of 2 or 4."""
TRAIN = {"batch_size": 4, "micro_batch_size": 1, "ema_decay": 0.5}


def go_on(tree: Tree, folder: Path, *, steps: int, **parallel: int) -> None:
    """Train to a step with as many processes as a layout has."""
    tree = merged(tree, {"train": {"steps": steps}, "parallel": parallel})
    count = math.prod(parallel.values())
    if count == 1:
        train(parse_config(tree))
        return
    file = folder / f"to-{steps}.yaml"
    file.write_text(dump_config(parse_config(tree)))
    assert ranks.results(ranks.command, count, "train", str(file), folder=folder / f"to-{steps}") == [0] * count


def difference(one: Path, other: Path) -> float:
    """Largest relative difference of losses and gradient norms."""
    pairs = zip(curve(one, "step", "loss", "grad_norm"), curve(other, "step", "loss", "grad_norm"), strict=True)
    return max(abs(a - b) / abs(a) for own, others in pairs for a, b in zip(own, others, strict=True))


def weights_of(run: Path, step: int) -> Mapping[str, Any]:
    (file,) = (run / "weights" / f"step-{step:06d}").rglob("*.safetensors")
    return load_file(file)


@pytest.mark.distributed
@pytest.mark.parametrize("tuning", TUNINGS)
def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path, tiny_flux: Path, tuning: str) -> None:
    """From one process to four that share the weights, to two copies, with averages; uneven and empty parts among them."""
    pictures = write_pictures(tmp_path / "pictures", 6)
    sections = {"tuning": TUNINGS[tuning], "train": TRAIN, "cache": {"path": str(tmp_path / "cache")}}
    sections["checkpoint"] = {"every": 2, "keep": 3, "keep_weights": 3}
    whole, other = (
        flux_tree(tiny_flux, pictures, tmp_path, **sections, output_dir=str(tmp_path / name)) for name in ("whole", "other")
    )
    go_on(whole, tmp_path, steps=6)
    go_on(other, tmp_path, steps=2)
    go_on(other, tmp_path, steps=4, shard=4)
    files = {file.name for file in (tmp_path / "other/checkpoints/step-000004").glob("*.safetensors")}
    assert {f"state-rank-0000{rank}-00000.safetensors" for rank in range(4)} == files
    go_on(other, tmp_path, steps=6, replicate=2)
    assert difference(tmp_path / "whole", tmp_path / "other") < 1e-5
    for step in (4, 6):  # exported by those who share the weights, and by copies
        own, others = (weights_of(tmp_path / name, step) for name in ("whole", "other"))
        assert own.keys() == others.keys()
        assert max(float((own[name] - others[name]).abs().max()) for name in own) < 1e-5, step
