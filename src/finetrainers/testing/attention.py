"""Checks of attention: the kernel that is asked for computes it, and padding that is cut off changes nothing."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from unittest import SkipTest

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from finetrainers.batch import Batch
from finetrainers.memory.attention_calls import Call, record_calls
from finetrainers.testing.model_under_test import ModelUnderTest
from finetrainers.training.trainer import Trainer
from finetrainers.tuning.base import trained_parameters

FLASH = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default


def check_attention_is_computed_by_the_chosen_kernel(subject: ModelUnderTest) -> None:
    """Each attention that a backend can be chosen for is computed by the one that is, in both passes, with equal results."""
    own = subject.alone(0)
    calls = _calls(subject.trainer(), own)
    assert calls, "no attention is found for which a backend could be chosen"
    sliced = [call.gradient for call in calls if call.gradient is not None and not call.gradient.is_dense()]
    assert not sliced, f"gradients come back to attention as slices, {sliced[0]}; name the block in joins_attention"
    flash, expected = _pass(subject.trainer(), own)
    if not any(call.mask for call in calls):
        chosen, found = _pass(subject.trainer(attention={"train": "_native_flash"}), own)
        assert chosen == flash, f"_native_flash computes {chosen} attentions, and torch's own choice {flash}"
        _assert_close(found, expected, "_native_flash")
    chosen, found = _pass(subject.trainer(attention={"train": "_native_math"}), own)
    assert flash - chosen == calls.total(), (
        f"_native_math leaves {chosen} of {flash} attentions to the flash kernel, but it is chosen for {calls.total()}"
    )
    _assert_close(found, expected, "_native_math")


def check_padding_that_is_cut_off_changes_nothing(subject: ModelUnderTest) -> None:
    """Losses and gradients are those of prompts of full length, for one sample without any mask."""
    if subject.model.adapter.text.mask is None:
        raise SkipTest("the denoiser sees the padding of prompts, or has none")
    mask = subject.model.adapter.text.mask
    for micro, is_whole in ((subject.batch, False), (subject.alone(0), True)):
        trainer, padded = subject.trainer(), subject.trainer()
        padded.trims_prompts = False
        text = trainer.on_device(micro).prompt.text
        assert (mask not in text) == is_whole, f"{mask} is {'there' if mask in text else 'left out'}"
        has_mask = any(call.mask is not None for call in _calls(trainer, micro))
        assert has_mask != is_whole, f"attention {'takes' if has_mask else 'takes no'} mask"
        for name in trainer.adapter.text.padded:
            assert text[name].shape[1] < micro.prompt.text[name].shape[1], f"{name} is as long as before"
        expected = _pass(padded, micro)[1]
        _assert_close(_pass(trainer, micro)[1], expected, "a prompt without its padding")
        saving = subject.trainer(train={"gradient_checkpointing": True})
        _assert_close(_pass(saving, micro)[1], expected, "such a prompt, computed again,")
        assert torch.equal(trainer.micro_losses(micro), padded.micro_losses(micro)), (
            "a mask is ignored after a prompt that had none"
        )


def _calls(trainer: Trainer, micro: Batch) -> Counter[Call]:
    """Count the attentions for which a backend can be chosen."""
    is_dispatched = trainer.adapter.dispatches_attention
    return record_calls(
        lambda: trainer.micro_losses(trainer.on_device(micro)), is_dispatched=is_dispatched, needs_backward=True
    )


def _pass(trainer: Trainer, micro: Batch) -> tuple[int, dict[str, Tensor]]:
    """Count the attentions that the flash kernel computes; return loss and gradients of a LoRA that is made random."""
    parameters, generator = trained_parameters(trainer.denoiser), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
            parameter.grad = None
    with trainer.attention(), _Flash() as flash:
        losses = trainer.micro_losses(trainer.on_device(micro))
        losses.mean().backward()
    gradients = {name: parameter.grad for name, parameter in parameters.items() if parameter.grad is not None}
    return flash.count, {"loss": losses.detach(), **gradients}


def _assert_close(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = float(value.abs().max())
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4 * scale, msg=f"{what} changes {name}")


class _Flash(TorchDispatchMode):
    """Counts forward passes of torch's flash kernel."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        self.count += func is FLASH
        return func(*args, **(kwargs or {}))


ATTENTION_CHECKS = (check_attention_is_computed_by_the_chosen_kernel, check_padding_that_is_cut_off_changes_nothing)
