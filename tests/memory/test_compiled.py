"""What compiled code is counted to keep: what its graphs say, and nothing that is inside of a kernel."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from finetrainers.config import CompileConfig
from finetrainers.memory.allocator import MIB, reserved_bytes
from finetrainers.memory.compiled import counted_compile
from finetrainers.memory.meta import fused_attention
from finetrainers.memory.meter import Meter

ROWS, WIDTH = 4096, 512
ONE = ROWS * WIDTH * 4
"""Bytes of an activation."""


class Block(nn.Module):
    """A product, and five operations that a compiler makes one kernel of."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.into(x)
        return self.out(hidden.sin().exp().tanh().mul(hidden))


def counted(*, is_compiled: bool) -> tuple[Meter, Any]:
    with torch.device("meta"):
        block, x = Block(), torch.empty(ROWS, WIDTH, requires_grad=True)
    if is_compiled:
        block.compile(dynamic=False, backend=counted_compile(CompileConfig(kind="regional")).backend)
    meter = Meter()
    meter.label("weights", [*block.parameters(), x])
    with meter:
        answer = block(x)
        kept = meter.usage().peak
        answer.sum().backward()
    return meter, kept


def test_a_compiled_block_keeps_what_its_backward_pass_cannot_compute_again() -> None:
    (eager, kept), (compiled, kept_compiled) = counted(is_compiled=False), counted(is_compiled=True)
    assert kept["activations"] == 5 * ONE  # hidden, three results, the answer
    assert kept_compiled["activations"] == 3 * ONE  # hidden, what the second product reads, the answer
    assert compiled.usage().flop == eager.usage().flop
    assert compiled.work.kernels["fused"] < eager.work.kernels["other"]
    assert compiled.work.moved["fused"] < 0.6 * eager.work.moved["other"]


def test_nothing_is_compiled_where_nothing_is_asked_for() -> None:
    config = CompileConfig()
    assert counted_compile(config) is config


@pytest.mark.parametrize(
    ("sizes", "reserved"),
    [
        ([512, 512], 2 * MIB),  # small ones share a segment
        ([3 * MIB, 3 * MIB], 20 * MIB),
        ([10 * MIB + 1], 12 * MIB),
        ([15 * MIB, -15 * MIB, 14 * MIB], 16 * MIB),  # what was given back is taken again
        ([64 * MIB, -64 * MIB, 40 * MIB, 24 * MIB], 64 * MIB),  # and cut
        ([64 * MIB, -64 * MIB, 40 * MIB, 25 * MIB], 64 * MIB + 26 * MIB),
    ],
)
def test_the_allocator_holds_segments(sizes: list[int], reserved: int) -> None:
    history, taken = [], {}
    for number, size in enumerate(sizes):
        key = taken.pop(-size) if size < 0 else number
        if size > 0:
            taken[size] = number
        history.append((key, size))
    assert reserved_bytes(history) == reserved


def test_free_neighbours_are_one_piece_again() -> None:
    cut = [(1, 20 * MIB), (1, -20 * MIB), (2, 10 * MIB), (3, 10 * MIB), (2, -10 * MIB), (3, -10 * MIB), (4, 20 * MIB)]
    assert reserved_bytes(cut) == 20 * MIB


def test_work_is_counted_by_kernel() -> None:
    with torch.device("meta"):
        a, b = torch.empty(64, 32, dtype=torch.bfloat16), torch.empty(32, 16, dtype=torch.bfloat16)
    meter = Meter()
    with meter:
        product = a @ b
        _ = product.t().add(1.0)
        _ = a.float() @ b.float()
    assert meter.work.flop["product"] == meter.work.flop["product_float32"] == 2 * 64 * 32 * 16
    assert meter.work.moved["product"] == 2 * (64 * 32 + 32 * 16 + 64 * 16)
    assert meter.work.kernels["other"] == 3  # the addition and two casts; a view is no work


class Again(nn.Module):
    """Attention that is computed again in the backward pass, within one graph."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self._attend, x, use_reentrant=False)

    def _attend(self, x: Tensor) -> Tensor:
        hidden = self.into(x)[None, None]
        return nn.functional.scaled_dot_product_attention(hidden, hidden, hidden)[0, 0]


def test_attention_that_is_computed_again_is_counted_twice() -> None:
    meters = []
    for is_compiled in (False, True):
        with torch.device("meta"):
            block, x = Again().bfloat16(), torch.empty(256, 64, requires_grad=True, dtype=torch.bfloat16)
        if is_compiled:
            block.compile(dynamic=False, backend=counted_compile(CompileConfig(kind="regional")).backend)
        with fused_attention(), Meter() as meter:
            block(x).sum().backward()
        meters.append(meter)
    eager, compiled = meters
    assert compiled.work.flop["attention_narrow"] == eager.work.flop["attention_narrow"] > 0
    assert compiled.work.kernels["attention_narrow"] == 2
