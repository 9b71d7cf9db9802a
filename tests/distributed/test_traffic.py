"""Collectives move what the layout asks for and little else, however many micro-batches a step has."""

from collections import Counter
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import pytest
import ranks
from layouts import ALONE, LAYOUTS, begin
from table_cases import Tree, make_trees
from traffic import Traffic

from finetrainers.config import parse_config
from finetrainers.distributed.layout import Layout
from finetrainers.distributed.world import join
from finetrainers.testing.scale import Unit, traffic_of_weights, units_of

OF_FIGURES = 4 * 64
"""Bytes a step of what is told besides: losses of four samples, flags, a norm."""


def count(trees: dict[str, Tree]) -> dict[str, tuple[list[Unit], Layout, Counter[str]]]:
    """Bytes of the second step of each run, in one of its processes, with its weights as they were before sharing."""
    found = {}
    with join(parse_config(next(iter(trees.values()))).parallel, "cpu") as world:
        for name, tree in trees.items():
            config = parse_config(tree)
            trainer, batches = begin(config, world)
            trainer.denoiser.train()
            trainer.train_step(next(batches))
            traffic = Traffic()
            with traffic:
                trainer.train_step(next(batches))
            batches.close()
            found[name] = units_of(trainer.denoiser, trainer.adapter.blocks), world.layout, traffic.bytes
    return found


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != ALONE])
def test_collectives_move_what_the_layout_asks_for(layout: str, tiny: Callable[[str, str], Path], tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    trees = make_trees(tiny, tmp_path / "runs", ["flux, LoRA", "flux, full"])
    sizes = LAYOUTS[layout]
    own: dict[str, Any] = {}
    for name, tree in trees.items():
        for micro in (1, 2):
            train = {**tree["train"], "batch_size": 4, "micro_batch_size": micro if layout != "HSDP 2x2" else 1}
            own[f"{name}, {micro}"] = {**tree, "train": train, "parallel": dict(sizes)}
    for found in ranks.results(count, prod(sizes.values()), own, folder=tmp_path / "ranks"):
        for name, (units, world, counted) in found.items():
            train = own[name]["train"]
            micro_batches = train["batch_size"] // world.data_size // train["micro_batch_size"]
            expected = traffic_of_weights(units, world, micro_batches=micro_batches)
            assert expected, layout
            for kind in {*expected, *counted} - {"all-to-all"}:
                assert expected[kind] <= counted[kind] <= 1.05 * expected[kind] + OF_FIGURES, (layout, name, kind)
