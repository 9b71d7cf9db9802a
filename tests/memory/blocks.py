"""The six families in small, with two blocks or four, and what one backward pass of each makes."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from finetrainers.memory.checkpointing import ATTENTION
from finetrainers.models.blocks import named_blocks
from finetrainers.testing.model_under_test import ModelUnderTest
from finetrainers.training.trainer import Trainer

FAMILIES = {
    "cogvideox": ("5b", (9, 64, 64)),
    "cogview4": ("6b", (1, 64, 64)),
    "flux": ("dev", (1, 64, 64)),
    "hunyuan_video": ("t2v", (9, 64, 64)),
    "ltx_video": ("0.9.0", (9, 64, 64)),
    "wan": ("2.1-t2v", (9, 64, 64)),
}
CHECKPOINTED = {"gradient_checkpointing": True}


class Found(NamedTuple):
    """What a micro-batch makes."""

    losses: Tensor
    gradients: dict[str, Tensor]


def blocks_of(trainer: Trainer) -> list[nn.Module]:
    return list(named_blocks(trainer.denoiser, trainer.adapter.blocks).values())


def backward(trainer: Trainer, subject: ModelUnderTest) -> Found:
    trainer.denoiser.train()
    losses = trainer.micro_losses(subject.batch)
    losses.mean().backward()
    gradients = {name: p.grad for name, p in trainer.denoiser.named_parameters() if p.grad is not None}
    return Found(losses.detach(), gradients)


def found_with(subject: ModelUnderTest, tuning: Mapping[str, Any], **sections: Any) -> Found:
    return backward(subject.trainer(tuning, **sections), subject)


def assert_equal(found: Found, expected: Found) -> None:
    """To the bit."""
    assert torch.equal(found.losses, expected.losses)
    assert list(found.gradients) == list(expected.gradients)
    assert [name for name, gradient in found.gradients.items() if not torch.equal(gradient, expected.gradients[name])] == []


class AttentionCount(TorchDispatchMode):
    """Counts operators that compute attention forward."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ARG002
        self.count += ATTENTION.search(str(func)) is not None and "backward" not in str(func)
        return func(*args, **(kwargs or {}))


@contextmanager
def forwards_counted(blocks: list[nn.Module]) -> Iterator[list[int]]:
    """Count how often each block is computed."""
    counts = [0] * len(blocks)

    def counting(number: int) -> Callable[..., None]:
        def count(*_: object) -> None:
            counts[number] += 1

        return count

    handles = [block.register_forward_pre_hook(counting(number)) for number, block in enumerate(blocks)]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()
