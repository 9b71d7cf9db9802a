"""The padding of prompts: cut off before a batch goes to the device; where none is left, attention takes no mask.

Shape letters as in ``finetrainers.batch``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from finetrainers.batch import Text
from finetrainers.models.blocks import named_blocks
from finetrainers.models.facts import TextFacts

MASK = 3
"""Place of the mask among the arguments of HunyuanVideo's blocks."""


def trim_padding(text: Text, facts: TextFacts) -> Text:
    """Cut prompts to the longest among them, and leave out a mask that hides nothing of what is left.

    What is on a device stays as it is: nobody asks a device for a length.
    """
    if facts.mask is None or text[facts.mask].device.type != "cpu":
        return text
    is_shown = text[facts.mask].bool()
    lengths = (is_shown * torch.arange(1, is_shown.shape[1] + 1)).amax(1)
    if not lengths.all():  # attention that is shown nothing falls back to the mean of all tokens
        return text
    longest = int(lengths.max())
    cut = {name: tensor[:, :longest] if name in (facts.mask, *facts.padded) else tensor for name, tensor in text.items()}
    if is_shown[:, :longest].all():
        del cut[facts.mask]
    return cut


def hide_padding(text: Text, facts: TextFacts) -> Text:
    """Put zeros where one prompt [T, D] has nothing but padding that its mask hides from the denoiser, to store none of it.

    Padding that the denoiser attends to, of families without a mask, stays: it is a part of what they were trained on.
    """
    if facts.mask is None or not text[facts.mask].any():
        return text
    length = int(torch.nonzero(text[facts.mask])[-1]) + 1
    hidden = {name: text[name].clone() for name in facts.padded}
    for tensor in hidden.values():
        tensor[length:] = 0
    return {**text, **hidden}


class WholePrompts:
    """Lets the blocks of HunyuanVideo's denoiser compute attention without a mask in forward passes that are told none.

    diffusers' transformer makes a mask for its blocks in any case, of ones where nothing is hidden, and there are kernels
    that take no mask. What holds in a forward pass holds in its backward pass, in which checkpointing computes it again:
    each backward pass comes before the next micro-batch.
    """

    def __init__(self) -> None:
        self.are_whole = False

    def tell_denoiser(self, _: nn.Module, args: Any, told: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Remember whether there is a mask; give the denoiser one of ones [B, T], which it needs for the prompt's mean."""
        self.are_whole = told["encoder_attention_mask"] is None
        if self.are_whole:
            prompt = told["encoder_hidden_states"]
            told = {**told, "encoder_attention_mask": prompt.new_ones(prompt.shape[:2], dtype=torch.long)}
        return args, told

    def tell_block(self, _: nn.Module, args: tuple[Any, ...], told: Mapping[str, Any]) -> tuple[Any, Any]:
        """Leave out a mask of ones."""
        return ((*args[:MASK], None, *args[MASK + 1 :]) if self.are_whole else args), told


def let_prompts_be_whole(denoiser: nn.Module, blocks: Sequence[str]) -> None:
    """Let HunyuanVideo's denoiser be called without a mask, which then reaches none of its blocks; see ``WholePrompts``."""
    if any(isinstance(getattr(hook, "__self__", None), WholePrompts) for hook in denoiser._forward_pre_hooks.values()):
        return
    prompts = WholePrompts()
    denoiser.register_forward_pre_hook(prompts.tell_denoiser, with_kwargs=True)
    for block in named_blocks(denoiser, blocks).values():
        block.register_forward_pre_hook(prompts.tell_block, with_kwargs=True)
