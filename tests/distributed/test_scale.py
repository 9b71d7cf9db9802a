"""The formulas of the page on scale: shards are those that FSDP2 makes of real-size weights, of a thousand, too."""

from math import prod
from pathlib import Path

import pytest
import ranks
import torch
from diffusers import WanTransformer3DModel
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from finetrainers.distributed.layout import Layout
from finetrainers.models.blocks import named_blocks
from finetrainers.training.plan.scale import (
    Weight,
    groups_of,
    groups_of_step,
    sent,
    traffic_of_step,
    traffic_of_tokens,
    traffic_of_weights,
    trained_numel,
    units_of,
)

BLOCKS = ("WanTransformerBlock",)


def make_denoiser() -> nn.Module:
    """Wan 14B, of which two blocks are like all."""
    with torch.device("meta"):
        return WanTransformer3DModel(num_layers=2)


def shard_sizes(count: int) -> list[tuple[tuple[int, ...], int]]:
    """Shapes of all weights, and numbers that the first of so many processes holds of each."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=count)
    mesh, denoiser = init_device_mesh("cpu", (count,)), make_denoiser()
    for block in named_blocks(denoiser, BLOCKS).values():
        fully_shard(block, mesh=mesh)
    fully_shard(denoiser, mesh=mesh)
    distributed.destroy_process_group()
    return [(tuple(own.shape), own.to_local().numel()) for own in denoiser.parameters() if isinstance(own, DTensor)]


@pytest.mark.parametrize("count", [8, 1024])
def test_shards_are_those_of_fsdp(count: int, tmp_path: Path) -> None:
    (found,) = ranks.results(shard_sizes, 1, count, folder=tmp_path / "ranks")
    units = units_of(make_denoiser(), BLOCKS)
    weights = [weight for unit in units for weight in unit]
    assert (len(units), len(weights)) == (3, len(found))
    for shape, numel in found:
        assert Weight(shape, 4, is_trained=True).padded(count) == count * numel, shape
    assert sorted(weight.shape for weight in weights) == sorted(shape for shape, _ in found)


BLOCK = (Weight((10, 4), 2, is_trained=False), Weight((3, 4), 2, is_trained=True))
ROOT = (Weight((5,), 4, is_trained=True),)


def test_copies_add_up_what_trains_once_a_step() -> None:
    for micro_batches in (1, 4):
        found = traffic_of_weights([BLOCK, ROOT], Layout(replicate=4), micro_batches=micro_batches)
        assert found == {"all-reduce": 4 * (12 + 5)}
    assert not traffic_of_weights([BLOCK], Layout(), micro_batches=3)
    assert sent({"all-reduce": 68}, groups_of(Layout(replicate=4))) == {"all-reduce": 68 * 2 * 3 / 4}


def test_shards_are_gathered_for_each_pass_and_gradients_for_each_micro_batch() -> None:
    """Unless little trains: then gradients wait for the last one."""
    layout = Layout(replicate=3, shard=2, context=2)
    gathered = (12 * 4 + 4 * 4) * 2 + 8 * 4  # in four parts of as many rows
    trained = 4 * (4 * 4 + 8)
    for reshard, passes in ((True, 2), (False, 1)):
        found = traffic_of_weights([BLOCK, ROOT], layout, micro_batches=5, reshard=reshard)
        assert found == {"all-gather": 5 * passes * gathered, "reduce-scatter": 5 * trained, "all-reduce": trained / 4}
    large = (Weight((1000, 4), 2, is_trained=False),)
    assert traffic_of_weights([BLOCK, ROOT, large], layout, micro_batches=5)["reduce-scatter"] == trained
    assert groups_of(layout) == {"all-gather": 4, "reduce-scatter": 4, "all-reduce": 3, "all-to-all": 2}


def test_tokens_are_exchanged_four_times_a_pass() -> None:
    asked = {"num_tokens": 64, "width": 8, "channels": 5, "attentions": 3, "micro_batches": 2, "num_bytes": 2}
    found = traffic_of_tokens(Layout(context=4), **asked, is_checkpointed=True)
    assert found == {"all-to-all": 2 * 3 * 3 * 4 * prod((64 // 4, 8, 2)), "all-gather": 2 * 64 * 5 * 2}
    assert not traffic_of_tokens(Layout(shard=4), **asked, is_checkpointed=True)


def test_what_fills_up_shards_is_counted() -> None:
    assert trained_numel([BLOCK, ROOT]) == 17
    assert trained_numel([BLOCK, ROOT], 4) == 24


def test_whole_weights_are_put_together_for_the_optimizers_that_need_them() -> None:
    """Adafactor gathers all that trains and its gradients, Muon sends matrices to one process each."""
    layout, units = Layout(replicate=3, shard=2), [BLOCK, BLOCK, ROOT, (Weight((7, 2), 4, is_trained=True),)]
    assert traffic_of_step(units, layout, "adafactor") == {"all-gather": 8 * (16 + 16 + 6 + 16)}
    assert traffic_of_step(units, layout, "muon") == {"all-to-all": 6 * (12 + 14)}, "two at a time, and then the third"
    assert groups_of_step(layout)["all-to-all"] == 2
    for optimizer in ("adamw", "sgd"):
        assert not traffic_of_step(units, layout, optimizer)
    assert not traffic_of_step(units, Layout(4), "muon"), "copies have all of each"
