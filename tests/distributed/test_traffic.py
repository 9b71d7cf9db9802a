"""Collectives move what the layout asks for and little else, however many micro-batches a step has."""

from collections import Counter
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import pytest
import ranks
from layouts import ALONE, LAYOUTS, TIME_LIMIT, begin, check_ended
from table_cases import Tree, make_trees
from traffic import Traffic

from finetrainers.config import Config, parse_config
from finetrainers.distributed.world import join
from finetrainers.models.blocks import named_blocks
from finetrainers.training.plan.scale import traffic_of_tokens, traffic_of_weights, units_of
from finetrainers.training.trainer import Trainer

OF_FIGURES = 4 * 64
"""Bytes a step of what is told besides: losses of four samples, flags, a norm."""
OTHERS = [layout for layout in LAYOUTS if layout != ALONE]


def count(trees: dict[str, Tree]) -> dict[str, tuple[Counter[str], Counter[str]]]:
    """Bytes of the second step of each run, as they have to be and as they are."""
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
            found[name] = expected(trainer, config), traffic.bytes
    return found


def expected(trainer: Trainer, config: Config) -> Counter[str]:
    """By the formulas."""
    layout, grid, train = trainer.world.layout, trainer.adapter.grid, config.train
    micro_batches = train.batch_size // layout.data_size // train.micro_batch_size
    settings: Any = trainer.denoiser.config
    of_tokens = traffic_of_tokens(
        layout,
        num_tokens=train.micro_batch_size * grid.num_tokens(config.data[0].buckets[0]),  # type: ignore[index]  # a list
        width=settings.num_attention_heads * settings.attention_head_dim,
        channels=grid.channels * grid.patch**2,
        attentions=len(named_blocks(trainer.denoiser, trainer.adapter.blocks)),
        micro_batches=micro_batches,
        num_bytes=4,
        is_checkpointed=train.gradient_checkpointing,
    )
    units = units_of(trainer.denoiser, trainer.adapter.blocks)
    return traffic_of_weights(units, layout, micro_batches=micro_batches) + of_tokens


@pytest.mark.distributed
@pytest.mark.parametrize("layout", OTHERS)
def test_collectives_move_what_the_layout_asks_for(layout: str, tiny: Callable[[str, str], Path], tmp_path: Path) -> None:
    """LoRA and full rank, with several micro-batches and with one; Wan exchanges tokens in one attention of each block."""
    (tmp_path / "runs").mkdir()
    trees = make_trees(tiny, tmp_path / "runs", ["wan, LoRA", "wan, full"])
    sizes = LAYOUTS[layout]
    data_size = sizes.get("replicate", 1) * sizes.get("shard", 1)
    own: dict[str, Tree] = {}
    for name, tree in trees.items():
        for micro in (1, 4 // data_size):
            train = {**tree["train"], "batch_size": 4, "micro_batch_size": micro}
            own[f"{name}, {micro}"] = {**tree, "train": train, "parallel": dict(sizes)}
    ended = ranks.start(count, prod(sizes.values()), own, folder=tmp_path / "ranks").wait(TIME_LIMIT)
    check_ended(ended)
    for each in ended:
        for name, (wanted, counted) in each.result.items():
            assert wanted, layout
            for kind in {*wanted, *counted}:
                most = 1.05 * wanted[kind] + OF_FIGURES
                assert wanted[kind] <= counted[kind] <= most, f"{layout}, {name}: {kind}: {wanted} {counted}"
