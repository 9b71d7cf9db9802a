"""Which blocks are computed again in the backward pass, and what they keep: the same bits in each way."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from blocks import CHECKPOINTED, FAMILIES, AttentionCount, assert_equal, backward, blocks_of, forwards_counted, found_with
from runs import config_of, flux_tree
from torch import nn
from torch._dynamo.utils import counters

from finetrainers.config import CompileConfig
from finetrainers.errors import ConfigError
from finetrainers.memory.checkpointing import Checkpointing
from finetrainers.testing.model_under_test import FULL, LORA, ModelUnderTest
from finetrainers.training.checks.parts import check_tuning

Subjects = Callable[[str], ModelUnderTest]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_second_block_is_computed_again_and_gradients_are_the_same(family: str, subject_of: Subjects) -> None:
    subject = subject_of(family)
    trainer = subject.trainer(LORA, train=CHECKPOINTED, memory={"checkpoint_every": 2})
    with forwards_counted(blocks_of(trainer)) as counts:
        found = backward(trainer, subject)
    calls = counts[1]  # of the denoiser: some families are asked row by row
    assert counts == [calls if number % 2 else 2 * calls for number in range(len(counts))]
    assert_equal(found, found_with(subject, LORA))


@pytest.mark.parametrize("family", FAMILIES)
def test_kept_attention_is_computed_once_and_gradients_are_the_same(family: str, subject_of: Subjects) -> None:
    subject = subject_of(family)
    numbers = []
    for sections in ({}, {"train": CHECKPOINTED}, {"train": CHECKPOINTED, "memory": {"checkpoint_keep": "attention"}}):
        trainer: Any = subject.trainer(FULL, **sections)
        with AttentionCount() as attention, forwards_counted(blocks_of(trainer)) as counts:
            found = backward(trainer, subject)
        numbers.append((attention.count, sum(counts)))
        if not sections:
            expected = found
    assert_equal(found, expected)
    (once, blocks), (twice, again), kept = numbers
    assert twice > once > 0
    assert again == 2 * blocks
    assert kept == (once, again)


class Attention(nn.Module):
    """A block with attention."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = self.layer(x).unflatten(-1, (2, 4)).transpose(1, 2)
        return x + nn.functional.scaled_dot_product_attention(q, q, q).transpose(1, 2).flatten(2)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own, tracing
@pytest.mark.parametrize("keeps_attention", [True, False])
def test_compiled_blocks_are_computed_again_in_one_graph(keeps_attention: bool) -> None:
    """One for all blocks; the input, the weights, and the attention's outputs or else its random state are kept."""
    torch._dynamo.reset()
    counters.clear()
    blocks = [Attention() for _ in range(3)]
    compiled = CompileConfig(kind="regional", backend="aot_eager")
    found, kept = [], 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += 1
        return tensor

    for run in (Checkpointing(), Checkpointing(keeps_attention=keeps_attention, compiled=compiled)):
        kept = 0
        first = x = torch.ones(2, 5, 8, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            for block in blocks:
                x = run(block, x)
        x.square().sum().backward()
        found.append((x.detach(), first.grad))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    assert kept == 3 * (1 + 2 + (2 if keeps_attention else 1))


@torch._dynamo.disable
def unseen(x: torch.Tensor) -> torch.Tensor:
    return x.sin()


class InPieces(nn.Module):
    """A block within which a graph ends, as with a kernel that torch.compile cannot look into."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(unseen(self.layer(x).cos())).cos()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own, tracing
def test_a_block_that_is_no_single_graph_stays_compiled() -> None:
    """In pieces, as its call is; and it is the same block."""
    torch._dynamo.reset()
    counters.clear()
    torch.manual_seed(0)
    block, x, found = InPieces(), torch.ones(2, 4), []
    for compiled in (None, CompileConfig(kind="regional", backend="aot_eager")):
        if compiled is not None:
            block.compile(backend="aot_eager")
        run = Checkpointing(compiled=compiled)
        block.zero_grad()
        for _ in range(2):
            run(block, x).square().sum().backward()
        assert block.layer.weight.grad is not None
        found.append(block.layer.weight.grad.clone())
    assert torch.equal(*found)
    assert counters["stats"]["unique_graphs"] >= 2


class NoAttention(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.softmax(-1) @ x


def test_attention_that_cannot_be_seen_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"memory\.checkpoint_keep: attention has no effect: .*in NoAttention"):
        Checkpointing(keeps_attention=True)(NoAttention(), torch.ones(2, 2, requires_grad=True))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"memory": {"checkpoint_every": 2}}, r"memory\.checkpoint_every: 2 has no effect without train\.gradient_check"),
        ({"memory": {"checkpoint_keep": "attention"}}, r"memory\.checkpoint_keep: attention has no effect without train"),
        ({"memory": {"activations": "host"}}, r"memory\.activations: host has no effect without train\.gradient_check"),
        ({"memory": {"resident_blocks": 0}}, r"memory\.resident_blocks: 0 would free nothing, since autograd keeps"),
        (
            {"train": CHECKPOINTED, "memory": {"checkpoint_keep": "attention"}, "compile": {"kind": "full"}},
            r"memory\.checkpoint_keep: attention is impossible with compile\.kind: full, .*set regional, or nothing",
        ),
        (
            {
                "train": CHECKPOINTED,
                "memory": {"checkpoint_keep": "attention", "activations": "host"},
                "compile": {"kind": "regional"},
            },
            r"memory\.activations: host is impossible with compile\.kind: regional and checkpoint_keep: attention",
        ),
        (
            {
                "train": CHECKPOINTED,
                "memory": {"checkpoint_keep": "attention", "resident_blocks": 1},
                "compile": {"kind": "regional"},
            },
            r"memory\.resident_blocks: 1 is impossible with compile\.kind: regional and checkpoint_keep: attention",
        ),
        (
            {"train": CHECKPOINTED, "memory": {"activations": "host"}, "compile": {"kind": "full"}},
            r"memory\.activations: host is impossible with compile\.kind: full: .*set regional, or device",
        ),
        (
            {"train": CHECKPOINTED, "memory": {"resident_blocks": 0}, "compile": {"kind": "full"}},
            r"memory\.resident_blocks: 0 is impossible with compile\.kind: full: .*set regional, or all",
        ),
        (
            {"train": CHECKPOINTED, "memory": {"resident_blocks": 0, "checkpoint_every": 2}},
            r"memory\.checkpoint_every: 2 is impossible with resident_blocks: 0",
        ),
        (
            {
                "train": CHECKPOINTED,
                "memory": {"resident_blocks": 0},
                "tuning": {"kind": "full"},
                "optimizer": {"name": "adamw_8bit"},
            },
            r"memory\.resident_blocks: 0 keeps in host memory what tuning\.kind: full trains, and optimizer\.name: adamw_8",
        ),
    ],
)
def test_what_has_no_effect_or_cannot_go_together_is_refused(sections: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(flux_tree(tmp_path, tmp_path, tmp_path, **sections))


@pytest.mark.parametrize(
    ("memory", "message"),
    [
        ({"checkpoint_every": 5}, r"memory\.checkpoint_every: 5 is too many, since FluxTransformer2DModel has 4 blocks"),
        (
            {"resident_blocks": 4},
            r"memory\.resident_blocks: 4 streams none, since FluxTransformer2DModel has 4 blocks; set all",
        ),
    ],
)
def test_more_blocks_than_there_are_are_refused_before_weights_are_read(
    memory: dict[str, Any], message: str, subject_of: Subjects
) -> None:
    subject = subject_of("flux")
    with pytest.raises(ConfigError, match=message):
        check_tuning(subject.config("run", train=CHECKPOINTED, memory=memory), subject.model)


def test_within_a_graph_hooks_of_a_block_are_run_too() -> None:
    """By one, HunyuanVideo's blocks are told of no mask where prompts are whole."""
    block, x = nn.Linear(2, 2), torch.ones(1, 2)
    block.register_forward_pre_hook(lambda _, args: (2 * args[0],))
    compiled = CompileConfig(kind="regional", backend="aot_eager")
    answer = Checkpointing(keeps_attention=True, compiled=compiled)(block, x)
    assert torch.equal(answer, nn.functional.linear(2 * x, block.weight, block.bias))
