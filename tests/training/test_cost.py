"""What a step is counted to take: as a GPU has measured it, and as arithmetic has it."""

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from loading import load_script
from runs import Tree, config_of, flux_tree, merged
from torch.utils._python_dispatch import TorchDispatchMode

from finetrainers.memory.meta import Shapes
from finetrainers.models import open_model
from finetrainers.training.cost import StepCost, build_meta_trainer, collected, predict_step
from finetrainers.training.synthetic import synthetic_batch

BUCKET = (1, 64, 64)


@pytest.fixture(scope="module")
def table() -> Any:
    """The script that makes the tables of the documentation."""
    return load_script("memory_table", is_known=True)


@pytest.mark.parametrize("name", ["LTX-Video 2B", pytest.param("CogView4 6B", marks=pytest.mark.long)])
def test_a_step_of_a_real_size_takes_what_a_gpu_has_measured(name: str, table: Any) -> None:
    counted = table.earlier_cost(name, torch.float32).peak_bytes / 2**30
    assert counted == pytest.approx(table.MEASURED[name][0], rel=0.05)


def cost(tiny_flux: Path, tmp_path: Path, **sections: Any) -> StepCost:
    config = config_of(merged(flux_tree(tiny_flux, tmp_path, tmp_path, **sections), {"model": {"dtype": "bfloat16"}}))
    return predict_step(config, open_model(config.model), BUCKET)


class Draws(TorchDispatchMode):
    """Counts the tensors of the host for which random numbers are drawn."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func._overloadpacket in (torch.ops.aten.uniform_, torch.ops.aten.normal_) and not args[0].is_meta
        return func(*args, **(kwargs or {}))


def test_nothing_is_drawn_for_weights_that_are_none(tiny_flux: Path, tmp_path: Path) -> None:
    config = config_of(flux_tree(tiny_flux, tmp_path, tmp_path))
    with Draws() as draws:
        build_meta_trainer(config, open_model(config.model))
    assert not draws.count


def test_what_was_counted_with_is_freed_and_what_was_there_is_looked_through_as_before() -> None:
    class Cycle:
        """Held by itself alone."""

        def __init__(self) -> None:
            self.own = self

    is_frozen = gc.get_freeze_count() > 0  # by the tests, as commands do
    gc.unfreeze()
    gc.disable()
    try:
        before = weakref.ref(Cycle())
        with collected():
            made = weakref.ref(Cycle())
        assert made() is None
        assert before() is not None
        assert gc.get_freeze_count() == 0
    finally:
        gc.enable()
        if is_frozen:
            gc.freeze()


def test_shapes_that_are_known_change_no_count(tiny_flux: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither of a trainer that is made, nor of its step: what takes a fifth of the time is the same to the byte."""
    train = {"batch_size": 1, "micro_batch_size": 1, "gradient_checkpointing": True}
    sections: Tree = {"tuning": {"targets": ["to_q"]}, "train": train, "memory": {"resident_blocks": 0}}
    quick = cost(tiny_flux, tmp_path, **sections)
    monkeypatch.setattr(Shapes, "run", lambda self, func, args, kwargs: func(*args, **kwargs))
    assert cost(tiny_flux, tmp_path, **sections) == quick


def test_full_rank_holds_weights_masters_gradients_and_two_states_at_once(tiny_flux: Path, tmp_path: Path) -> None:
    counted = cost(tiny_flux, tmp_path, tuning={"kind": "full"}, train={"batch_size": 1, "micro_batch_size": 1})
    peak, number = counted.usage.peak, counted.num_trained
    assert peak["weights"] < number // 100  # buffers
    for category, bytes_each in (("trained", 2), ("masters", 4), ("gradients", 4), ("states", 8)):
        rounding = 1.2 if category == "trained" else 1.1  # many are small, and each takes a whole block
        assert bytes_each * number * 0.99 < peak[category] < rounding * bytes_each * number, category  # type: ignore[index]


@pytest.mark.parametrize("resident", ["all", 0])
def test_where_the_host_steps_gradients_go_there_and_weights_come_back(
    tiny_flux: Path, tmp_path: Path, resident: object
) -> None:
    """Gradients of each micro-batch, weights once; streamed weights come when they are used, and not for the step."""
    train = {"batch_size": 2, "micro_batch_size": 1, "gradient_checkpointing": True}
    memory: dict[str, Any] = {"resident_blocks": resident}
    told = {"tuning": {"kind": "full"}, "train": train, "memory": memory, "optimizer": {"state": "cpu"}}
    counted = cost(tiny_flux, tmp_path, **told)
    frozen = cost(tiny_flux, tmp_path, train=train, memory=memory)  # which brings as many blocks, and sends nothing back
    of_blocks = counted.host_bytes - 12 * counted.num_trained  # what is neither a master nor a state
    sent = 2 * 2 * counted.num_trained + 2 * counted.num_trained - of_blocks
    assert counted.work.link_bytes - frozen.work.link_bytes == pytest.approx(sent, rel=0.01)
    assert (of_blocks > counted.num_trained) == (resident == 0)


def test_of_two_experts_both_keep_states_and_one_has_gradients(tiny: Callable[[str, str], Path], tmp_path: Path) -> None:
    """A step trains one of them."""
    sections = {"tuning": {"kind": "full"}, "train": {"batch_size": 2, "micro_batch_size": 1}}
    tree = merged(flux_tree(tiny("wan", "2.2-t2v-a14b"), tmp_path, tmp_path, **sections), {"model": {"dtype": "bfloat16"}})
    config = config_of(tree)
    counted = predict_step(config, open_model(config.model), (5, 32, 32))
    peak, number = counted.usage.peak, counted.num_trained
    for category, bytes_each in (("states", 8), ("gradients", 2)):  # float32, of half of the weights
        assert bytes_each * number * 0.95 < peak[category] < 1.4 * bytes_each * number, category  # type: ignore[index]


def test_checkpointing_takes_less_and_computes_more(tiny_flux: Path, tmp_path: Path) -> None:
    plain = cost(tiny_flux, tmp_path)
    checkpointed = cost(tiny_flux, tmp_path, train={"gradient_checkpointing": True})
    assert checkpointed.usage.peak["activations"] < 0.7 * plain.usage.peak["activations"]
    assert 1.2 * plain.usage.flop < checkpointed.usage.flop < 1.6 * plain.usage.flop


def test_accumulation_takes_the_memory_of_a_micro_batch_and_all_operations(tiny_flux: Path, tmp_path: Path) -> None:
    one = cost(tiny_flux, tmp_path, train={"batch_size": 1, "micro_batch_size": 1})
    eight = cost(tiny_flux, tmp_path, train={"batch_size": 8, "micro_batch_size": 1})
    assert eight.usage.flop == 8 * one.usage.flop
    assert eight.usage.peak["activations"] == pytest.approx(one.usage.peak["activations"], rel=0.01)


def test_counting_draws_from_no_generator(tiny_flux: Path, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    cost(tiny_flux, tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_synthetic_batches_are_the_same_each_time_and_lie_where_they_are_asked_for(tiny_flux: Path, tmp_path: Path) -> None:
    config = config_of(flux_tree(tiny_flux, tmp_path, tmp_path))
    model = open_model(config.model)
    batches = [synthetic_batch(config, model, BUCKET, 3, device=torch.device("cpu")) for _ in range(2)]
    assert torch.equal(batches[0].latents, batches[1].latents)
    assert torch.equal(batches[0].sigma, batches[1].sigma)
    assert not torch.equal(batches[0].latents[0], batches[0].latents[1])
    assert synthetic_batch(config, model, BUCKET, 3, device=torch.device("meta")).latents.is_meta
