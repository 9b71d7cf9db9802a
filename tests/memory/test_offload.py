"""What blocks are given waits on the host: the same bits, and nothing large stays on the device between two blocks."""

import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from blocks import CHECKPOINTED, FAMILIES, assert_equal, backward, blocks_of, found_with
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from finetrainers.memory import offload
from finetrainers.memory.checkpointing import Checkpointing
from finetrainers.memory.link import Link, OnItsWay
from finetrainers.memory.offload import ActivationOffload
from finetrainers.testing.model_under_test import LORA, ModelUnderTest

CPU = torch.device("cpu")


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_the_same_and_between_blocks_nothing_is_left(
    family: str, subject_of: Callable[[str], ModelUnderTest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what one block hands to the next: all but the arguments of the last block are gone after the forward pass."""
    monkeypatch.setattr(offload, "MIN_BYTES", 0)
    subject = subject_of(family)
    trainer = subject.trainer(LORA, train=CHECKPOINTED, memory={"activations": "host"})
    made: list[list[Any]] = []

    def watch(_: nn.Module, args: tuple[Any, ...], outputs: Any) -> None:
        tensors = outputs if isinstance(outputs, tuple) else (outputs,)
        made.append([StorageWeakRef(tensor.untyped_storage()) for tensor in tensors])

    blocks = blocks_of(trainer)
    handles = [block.register_forward_hook(watch) for block in blocks[:-1]]
    trainer.denoiser.train()
    losses = trainer.micro_losses(subject.alone(0))
    for handle in handles:
        handle.remove()
    trainer.denoiser._gradient_checkpointing_func._given(())  # as a further block would
    assert len(made) == len(blocks) - 1
    assert [ref for refs in made for ref in refs if not ref.expired()] == []
    losses.mean().backward()
    trainer.update.drop_gradients()
    assert_equal(backward(trainer, subject), found_with(subject, LORA))


class Halves(nn.Module):
    """A block that hands on two views of one tensor, as HunyuanVideo's do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, large: Tensor, small: Tensor, prompt: Tensor) -> tuple[Tensor, Tensor]:
        both = self.layer(torch.cat([large, small], 1)) + prompt
        return both[:, : large.shape[1]], both[:, large.shape[1] :]


class Recorded(Link):
    """Tells in which order copies are made."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.copies: list[tuple[str, tuple[int, ...]]] = []

    def to_host(self, tensor: Tensor) -> OnItsWay:
        self.copies.append(("to host", tuple(tensor.shape)))
        return super().to_host(tensor)

    def to_device(self, tensor: Tensor, stride: Any) -> OnItsWay:
        self.copies.append(("to device", tuple(tensor.shape)))
        return super().to_device(tensor, stride)


def chain(waiting: ActivationOffload, count: int = 4, device: torch.device = CPU) -> tuple[Tensor, Tensor]:
    """Blocks one after the other; their last output, and the first input."""
    torch.manual_seed(0)
    blocks = [Halves().to(device) for _ in range(count)]
    first = torch.ones(2, 30, 4, device=device, requires_grad=True)
    large, small, prompt = first, torch.ones(2, 2, 4, device=device), torch.full((2, 32, 4), 2.0, device=device)
    run = Checkpointing(given=waiting)
    for block in blocks:
        large, small = run(block, large, small, prompt)
    return large.sum() + small.sum(), first


def test_a_small_view_of_a_large_tensor_goes_and_what_all_blocks_share_stays() -> None:
    """Else the small one would keep the memory of the large one."""
    waiting = ActivationOffload(CPU, min_bytes=100)  # more than the small one has, and less than both together
    waiting._link = link = Recorded(CPU)
    last, first = chain(waiting)
    large, small, prompt = (2, 30, 4), (2, 2, 4), (2, 32, 4)
    assert Counter(link.copies) == {("to host", large): 4, ("to host", small): 3, ("to host", prompt): 1}
    link.copies.clear()
    last.backward()
    # Those of the last block have not left yet.
    assert Counter(link.copies) == {("to device", large): 3, ("to device", small): 2, ("to device", prompt): 1}
    assert first.grad is not None


def test_the_arguments_of_the_block_before_come_ahead() -> None:
    """While one block goes backward, those of the block before are on their way."""
    waiting = ActivationOffload(CPU, min_bytes=0)
    kept: list[Any] = []
    for _ in range(3):
        with waiting(()):
            before = tuple(weakref.ref(own) for own in kept[-1:])
            kept.append(waiting._pack(torch.ones(3), set(), before))
    waiting(())
    waiting._unpack(kept[2])
    assert [own.back is not None for own in kept] == [False, True, False]
    waiting._unpack(kept[1])
    assert [own.back is not None for own in kept] == [True, False, False]


def test_what_comes_back_lies_as_it_lay() -> None:
    """Strides decide about kernels, and about graphs."""
    waiting = ActivationOffload(CPU, min_bytes=0)
    with waiting(()):
        kept = waiting._pack(torch.arange(24.0).view(2, 12)[:, :5], set(), ())
    waiting(())
    assert not isinstance(kept, Tensor)
    back = waiting._unpack(kept)
    assert (back.shape, back.stride()) == ((2, 5), (12, 1))
    assert torch.equal(back, torch.arange(24.0).view(2, 12)[:, :5])


def test_on_the_meta_device_what_waits_takes_no_memory() -> None:
    meta = torch.device("meta")
    waiting = ActivationOffload(meta, min_bytes=64)
    with waiting(()):
        kept = waiting._pack(torch.ones(1000, device=meta), set(), ())
    assert not isinstance(kept, Tensor)
    assert kept.host.tensor.untyped_storage().nbytes() == 4
    last, first = chain(waiting, device=meta)
    last.backward()
    assert first.grad is not None
    assert first.grad.shape == first.shape


@pytest.mark.gpu
def test_copies_beside_the_computation_change_no_bit() -> None:
    """Large enough that a copy that nobody waited for would be seen."""
    device = torch.device("cuda")
    found = []
    for waiting in (None, ActivationOffload(device)):
        torch.manual_seed(0)
        blocks = [nn.Linear(4096, 4096, device=device) for _ in range(6)]
        first = x = torch.randn(4096, 4096, device=device, requires_grad=True)
        run = Checkpointing(given=waiting)
        for block in blocks:
            x = run(block, x)
        x.square().mean().backward()
        found.append((x.detach(), first.grad, blocks[0].weight.grad))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
