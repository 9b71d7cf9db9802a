"""Attention over tokens of which each process has a part, and a prompt of which each has all (Ulysses, arXiv:2309.14509).

Letters: B batch, H heads, N tokens of all processes but the prompt's, T tokens of the prompt, D width of a head,
C processes.
"""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

Place = Literal["first", "last"]
"""Where the prompt's tokens stand beside the others."""


class JointAttention:
    """A processor of diffusers' attention in which torch's own attention sees the tokens of all processes.

    Each process computes some of the heads. All that depends on single tokens stays the processor's: projections of its part
    of the tokens, and of the whole prompt, which is so alike on all processes.
    """

    def __init__(self, processor: Any, group: ProcessGroup, prompt: Place) -> None:
        """Take the place of a processor of joint attention, among the processes of a group."""
        self._processor, self._group, self._prompt = processor, group, prompt

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Any = None,  # a pair of tensors, of this process's tokens
    ) -> Any:
        """Do what the processor does; attention looks at the names of these arguments."""
        with Exchanged(self._group, encoder_hidden_states.shape[1], self._prompt):
            return self._processor(attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb)


class Exchanged(TorchFunctionMode):
    """Lets torch's attention, in its context, see the tokens of all processes."""

    def __init__(self, group: ProcessGroup, num_prompt: int, prompt: Place) -> None:
        """Say how many tokens are the prompt's, and where they are."""
        super().__init__()
        self._group, self._num_prompt, self._prompt = group, num_prompt, prompt

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        return self._attend(*args, **(kwargs or {}))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **options: Any) -> Tensor:
        """Attention of queries, keys and values, each [B, H, N / C + T, D]; a mask broadcasts to [B, H, N + T, N + T]."""
        if attn_mask is not None and attn_mask.ndim == 4 and attn_mask.shape[1] > 1:
            attn_mask = self._own_heads(attn_mask)
        query, key, value = (self._gather(each) for each in (query, key, value))
        return self._scatter(scaled_dot_product_attention(query, key, value, attn_mask, **options))

    def _gather(self, tokens: Tensor) -> Tensor:
        """Turn all heads of own tokens [B, H, N / C + T, D] into own heads of all tokens [B, H / C, N + T, D]."""
        prompt, others = self._split(tokens)
        return self._join(self._own_heads(prompt), _exchange(others, self._group, scattered=1, gathered=2))

    def _scatter(self, tokens: Tensor) -> Tensor:
        """Turn own heads of all tokens [B, H / C, N + T, D] into all heads of own tokens [B, H, N / C + T, D]."""
        prompt, others = self._split(tokens)
        # The prompt goes to each process, before its part of the others.
        parts = [part for other in others.chunk(self._group.size(), dim=2) for part in (prompt, other)]
        prompt, others = _exchange(torch.cat(parts, dim=2), self._group, scattered=2, gathered=1).split_with_sizes(
            [self._num_prompt, others.shape[2] // self._group.size()], dim=2
        )
        return self._join(prompt, others)

    def _split(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Part the prompt's tokens [B, H, T, D] from the others."""
        num_others = tokens.shape[2] - self._num_prompt
        if self._prompt == "first":
            prompt, others = tokens.split_with_sizes([self._num_prompt, num_others], dim=2)
        else:
            others, prompt = tokens.split_with_sizes([num_others, self._num_prompt], dim=2)
        return prompt, others

    def _join(self, prompt: Tensor, others: Tensor) -> Tensor:
        return torch.cat([prompt, others] if self._prompt == "first" else [others, prompt], dim=2)

    def _own_heads(self, tokens: Tensor) -> Tensor:
        return tokens.chunk(self._group.size(), dim=1)[self._group.rank()]


def _exchange(tokens: Tensor, group: ProcessGroup, *, scattered: int, gathered: int) -> Tensor:
    """Give each process its part of one dimension of [B, H, N, D], and all parts of another."""
    from diffusers.models.attention_dispatch import SeqAllToAllDim

    # It has heads behind tokens: dimension 2 of its tensors is 1 of these.
    found: Tensor = SeqAllToAllDim.apply(group, tokens.transpose(1, 2), 3 - scattered, 3 - gathered)
    return found.transpose(1, 2)
