"""A run that some processes have saved goes on with others, and ends as it would have."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import ranks
from runs import Tree, curve, flux_tree, merged, write_pictures
from safetensors.torch import load_file

from finetrainers.config import dump_config, parse_config
from finetrainers.training.run import train

LORA, FULL = {"kind": "lora", "rank": 3, "alpha": 4}, {"kind": "full"}
"""Rank 3: its rows are no multiple of 2 or 4."""
ALONE, COPIES = {"replicate": 1}, {"replicate": 2}
TWO, FOUR, HYBRID = {"shard": 2}, {"shard": 4}, {"replicate": 2, "shard": 2}
WAYS: Mapping[str, tuple[Tree, Sequence[Mapping[str, int]]]] = {
    "LoRA": ({"tuning": LORA}, (ALONE, FOUR, COPIES)),
    "full rank": ({"tuning": FULL}, (ALONE, FOUR, COPIES)),
    "full rank, copies first": ({"tuning": FULL}, (COPIES, TWO, HYBRID)),
    "DoRA": ({"tuning": {**LORA, "dora": True}}, (COPIES, FOUR, HYBRID)),
    "Muon": ({"tuning": FULL, "optimizer": {"name": "muon", "lr": 1e-3}}, (ALONE, FOUR, HYBRID)),
    "Adafactor": ({"tuning": FULL, "optimizer": {"name": "adafactor", "lr": 1e-3}}, (HYBRID, TWO, ALONE)),
    "8 bits": ({"tuning": LORA, "optimizer": {"name": "adamw_8bit", "lr": 1e-3}}, (ALONE, COPIES, ALONE)),
}
"""What trains how, and the layouts that take two steps each. Blocks of few bits do not leave the parts that they are of."""
TRAIN = {"batch_size": 4, "micro_batch_size": 1, "ema_decay": 0.5}


FLOAT32 = (1e-5, 1e-5)
"""Largest relative difference of a loss or a gradient norm, and largest one of a weight."""
MUON = (1e-4, 1e-3)
"""As FLOAT32. It rounds what it orthogonalizes to bfloat16: gradients that differ in the last bit of float32 may be rounded
to others, and directions that are hardly there count as much as all do. 1.2e-5 (of copies too) and 1.3e-4 were seen."""


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


@pytest.fixture(scope="module")
def uninterrupted(tiny_flux: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Tree], tuple[Path, Tree]]:
    """Train what is given in one process, once; return the run and its configuration."""
    root = tmp_path_factory.mktemp("whole")
    pictures, runs = write_pictures(root / "pictures", 6), dict[str, tuple[Path, Tree]]()

    def made(given: Tree) -> tuple[Path, Tree]:
        if repr(given) not in runs:
            sections = {**given, "train": TRAIN, "checkpoint": {"every": 2, "keep": 3, "keep_weights": 3}}
            run = root / f"run-{len(runs)}"
            tree = flux_tree(tiny_flux, pictures, root, **sections, output_dir=str(run))
            go_on(tree, root, steps=6)
            runs[repr(given)] = run, tree
        return runs[repr(given)]

    return made


@pytest.mark.distributed
@pytest.mark.parametrize("name", WAYS)
def test_a_run_goes_on_in_another_layout(
    tmp_path: Path, uninterrupted: Callable[[Tree], tuple[Path, Tree]], name: str
) -> None:
    """Twice, with averages; uneven and empty parts among the shards."""
    given, layouts = WAYS[name]
    whole, tree = uninterrupted(given)
    other = merged(tree, {"output_dir": str(tmp_path / "other")})
    for number, layout in enumerate(layouts, start=1):
        go_on(other, tmp_path, steps=2 * number, **layout)
        files = (tmp_path / f"other/checkpoints/step-{2 * number:06d}").glob("*.safetensors")
        if layout.get("shard", 1) > 1:
            ranks_of_files = range(math.prod(layout.values()))
            assert {f"state-rank-0000{rank}-00000.safetensors" for rank in ranks_of_files} == {file.name for file in files}
    of_curve, of_weights = MUON if name == "Muon" else FLOAT32
    assert difference(whole, tmp_path / "other") < of_curve
    for step in (2, 4, 6):  # exported by those who share the weights, and by copies
        own, others = (weights_of(run, step) for run in (whole, tmp_path / "other"))
        assert own.keys() == others.keys()
        differs = max(float((own[tensor] - others[tensor]).abs().max()) for tensor in own)
        assert differs < of_weights, step
