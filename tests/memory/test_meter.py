"""What the meter counts: bytes that are in memory at once, by what they are, and operations."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils.checkpoint import checkpoint

from finetrainers.memory.meta import Shapes, fused_attention, layouts_of
from finetrainers.memory.meter import Meter

KIB = 1024


def meta(*shape: int, grad: bool = False) -> Tensor:
    return torch.empty(*shape, device="meta", requires_grad=grad)


def test_the_peak_is_what_is_in_memory_at_once() -> None:
    with Meter() as meter:
        first = meta(KIB)  # 4 KiB
        second = first * 2
        del first
        third = second + 1  # again two at once
        del second, third
        meta(KIB)
    assert meter.usage().peak_bytes == 8 * KIB


def test_views_and_writes_take_nothing_and_odd_sizes_are_rounded_up() -> None:
    with Meter() as meter:
        first = meta(129)  # 516 bytes: two blocks of 512
        first.view(3, 43).t().mul_(2).add_(first.view(3, 43).t())
        first.zero_()
    assert meter.usage().peak_bytes == KIB


def test_what_is_there_before_counts_as_what_it_is_said_to_be() -> None:
    weight, meter = meta(KIB), Meter()
    meter.label("weights", [weight])
    with meter:
        answer = weight * 2
    assert meter.usage().peak == dict.fromkeys(meter.usage().peak, 0) | {"weights": 4 * KIB, "activations": 4 * KIB}
    meter.move("weights", to="host")
    del answer
    assert meter.usage().peak_bytes == 4 * KIB


def test_a_reset_forgets_what_was_freed() -> None:
    with Meter() as meter:
        kept = meta(KIB)
        meta(100 * KIB)
        meter.reset()
        kept.view(2, -1)
    assert meter.usage().peak_bytes == 4 * KIB


def test_tensors_that_are_made_of_others_count_as_these() -> None:
    pair, meter = TwoTensor(meta(KIB), meta(KIB)), Meter()
    meter.label("weights", [pair])
    with meter:
        answer = pair * 2
    assert meter.usage().peak["weights"] == 8 * KIB
    assert meter.usage().peak["activations"] == 8 * KIB
    assert isinstance(answer, TwoTensor)


@torch.library.custom_op("finetrainers::counted_in_tests", mutates_args=())
def counted(x: Tensor) -> Tensor:
    """A product with a weight that exists only inside."""
    return x @ torch.zeros(x.shape[1], x.shape[1], device=x.device)


@counted.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Counted:
    """An operation that counts how often it is run."""

    def __init__(self, func: Any) -> None:
        self.func, self._schema, self.tags, self.calls = func, func._schema, func.tags, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return self.func(*args, **kwargs)


def test_an_operation_of_known_shapes_makes_what_it_would_make() -> None:
    """The second time it is not run: each of its results has the layout of the first, and memory of its own."""
    x, weight = meta(2, 3, 8), meta(8)
    heads = meta(1, 2, 6, 64).transpose(1, 2)
    aten, shapes = torch.ops.aten, Shapes()
    calls: list[tuple[Any, tuple[Any, ...]]] = [
        (aten.mul.Tensor, (x, weight)),
        (aten.native_layer_norm.default, (x, [8], weight, weight, 1e-5)),
        (aten.native_layer_norm_backward.default, (x, x, [8], x, x, weight, weight, [True, False, True])),
        (aten._scaled_dot_product_flash_attention.default, (heads, heads, heads)),
    ]
    for func, args in calls:
        operation = Counted(func)
        results = [own if isinstance(own, tuple) else (own,) for own in (shapes.run(operation, args, {}) for _ in range(2))]
        assert operation.calls == 1
        for one, other in zip(*results, strict=True):
            if isinstance(one, Tensor):
                assert (one.shape, one.stride(), one.dtype) == (other.shape, other.stride(), other.dtype)
                assert one.untyped_storage()._cdata != other.untyped_storage()._cdata
            else:
                assert one == other


def test_what_is_written_where_there_is_room_is_not_computed() -> None:
    shapes, numbers, room = Shapes(), meta(2, 3), meta(2, 3)
    product, empty = Counted(torch.ops.aten.mul.out), torch.empty(0, device="meta")
    assert shapes.run(product, (numbers, numbers), {"out": room}) is room
    assert product.calls == 0
    assert shapes.run(product, (numbers, numbers), {"out": empty}).shape == (2, 3)  # it grows, and so is run


def test_results_that_share_memory_are_made_each_time() -> None:
    x = meta(4)
    assert layouts_of((x, meta(4)), (x,)) is None
    one = meta(4)
    assert layouts_of((one, one.view(2, 2)), (x,)) is None
    assert layouts_of((one, 3, None), (x,)) is not None


def test_custom_operations_are_counted_by_what_they_do() -> None:
    with Meter() as meter:
        counted(meta(8, KIB))
    usage = meter.usage()
    assert usage.flop == 2 * 8 * KIB * KIB
    assert usage.peak_bytes == 2 * 4 * 8 * KIB + 4 * KIB * KIB


def test_operations_of_a_step_are_those_of_its_products() -> None:
    layer, x = nn.Linear(32, 64, device="meta"), meta(16, 32, grad=True)
    with Meter() as meter:
        layer(x).sum().backward()
    assert meter.usage().flop == 3 * 2 * 16 * 32 * 64  # forward, gradient of x, gradient of the weight
    with Meter() as meter:
        for _ in range(2):  # the second time, shapes are known
            layer(x)
    assert meter.usage().flop == 2 * 2 * 16 * 32 * 64


def test_code_that_asks_for_values_is_told_ones() -> None:
    with Meter():
        assert meta(2).tolist() == [1.0, 1.0]
        assert bool((meta(3) > 5).all())
        assert meta(3).sum().item() == 1.0


@pytest.fixture
def products() -> tuple[Tensor, Tensor]:
    return meta(1, 2, 2048, 16, grad=True), torch.ones(1, 1, 1, 2048, dtype=torch.bool, device="meta")


@pytest.mark.parametrize("has_mask", [False, True])
def test_attention_makes_no_product_of_all_tokens_with_all(products: tuple[Tensor, Tensor], has_mask: bool) -> None:
    x, mask = products

    def attend(x: Tensor) -> Tensor:
        return scaled_dot_product_attention(x, x, x, attn_mask=mask if has_mask else None)

    def peak() -> int:
        with Meter() as meter:
            answer = checkpoint(
                attend, x * 1, use_reentrant=False
            )  # computed again in the backward pass, where modes may be lost
            answer.sum().backward()
        return meter.usage().peak_bytes

    of_all_with_all = 2 * 2048 * 2048 * 4
    with fused_attention():
        assert peak() < of_all_with_all / 4
    assert peak() > of_all_with_all  # torch's own way on the meta device, before and afterwards
