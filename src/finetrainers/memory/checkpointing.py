"""Gradient checkpointing: which blocks of a denoiser are computed again in the backward pass, and what they keep."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch._dynamo.exc import UncapturedHigherOrderOpError, Unsupported
from torch.utils.checkpoint import (
    CheckpointPolicy,
    SelectiveCheckpointContext,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from finetrainers.config import CompileConfig
from finetrainers.errors import ConfigError
from finetrainers.memory.stream import Streamed
from finetrainers.models.blocks import named_blocks

Contexts = tuple[AbstractContextManager[object], AbstractContextManager[object]]
"""In which a block is computed, and computed again."""
Given = Callable[[Sequence[object]], AbstractContextManager[object]]
"""Makes a context in which torch saves what a block is given, by its arguments."""
NO_ONE_GRAPH = (Unsupported, UncapturedHigherOrderOpError)
"""What torch.compile raises where a function cannot be one graph."""
ATTENTION = re.compile(r"attention|flash_attn|flash_fwd|fmha|sage")
"""Part of the names of all operators that compute attention: torch's, and those of packages that register theirs."""


class Checkpointing:
    """What diffusers calls with a block and its arguments, in their order, where a gradient is wanted."""

    def __init__(
        self,
        skipped: Sequence[nn.Module] = (),
        *,
        keeps_attention: bool = False,
        given: Given | None = None,
        compiled: CompileConfig | None = None,
    ) -> None:
        """Say what is left out.

        Args:
            skipped: Blocks that are computed once, and keep all activations.
            keeps_attention: Whether outputs of attention are kept, and so not computed again.
            given: Where what blocks are given is kept, if not on the device.
            compiled: How blocks are compiled together with what computes them again: one graph does both, and leaves out
                what no gradient needs. What is kept of attention would not be seen otherwise.
        """
        self._skipped = {id(block) for block in skipped}
        self._keeps_attention = keeps_attention
        self._given = given
        self._compiled: Any = None  # as torch.compile returns it
        if compiled is not None:
            run = _keep_attention if keeps_attention else _compute_again
            # What is kept of attention may be in pieces; what is computed again is one graph, or is not compiled together.
            self._compiled = torch.compile(
                run, dynamic=compiled.dynamic, backend=compiled.backend, fullgraph=not keeps_attention
            )

    def __call__(self, block: nn.Module, *args: Any) -> Any:  # what blocks take and return is their own affair
        """Compute a block."""
        if id(block) in self._skipped:
            return block(*args)
        with nullcontext() if self._given is None else self._given(args):
            if self._compiled is not None and self._keeps_attention:
                return self._compiled(block, *args)
            if self._compiled is not None:
                try:
                    return self._compiled(block, *args)
                except NO_ONE_GRAPH:  # before anything is computed: a call of the block compiles its pieces
                    self._compiled = None
            if not self._keeps_attention:
                return checkpoint(block.__call__, *args, use_reentrant=False)
            kept = KeptAttention(block)
            outputs = checkpoint(block.__call__, *args, use_reentrant=False, context_fn=kept.contexts)
        kept.check()
        return outputs


def _keep(context: SelectiveCheckpointContext, operator: Any, *args: Any, **options: Any) -> CheckpointPolicy:  # noqa: ARG001
    return CheckpointPolicy.PREFER_RECOMPUTE if ATTENTION.search(str(operator)) is None else CheckpointPolicy.MUST_SAVE


def _keep_attention(block: nn.Module, *args: Any) -> Any:
    """Compute a block within a graph, its hooks included. Not by its call, which may be compiled for itself."""
    contexts = partial(create_selective_checkpoint_contexts, _keep)
    return checkpoint(block._call_impl, *args, use_reentrant=False, context_fn=contexts)


def _compute_again(block: nn.Module, *args: Any) -> Any:
    """Compute a block within a graph, and all of it again in the backward pass."""
    return checkpoint(block._call_impl, *args, use_reentrant=False)


class KeptAttention:
    """Keeps the outputs of attention of one call of a block."""

    def __init__(self, block: nn.Module) -> None:
        self._block = block
        self._count = 0

    def contexts(self) -> Contexts:
        """Make the contexts that torch's checkpoint asks for."""
        forward, again = create_selective_checkpoint_contexts(self._policy)
        return self._prepared(forward), self._prepared(again)

    @contextmanager
    def _prepared(self, mode: AbstractContextManager[object]) -> Iterator[None]:
        # Before the mode: it counts operators, and when weights arrive differs from one pass to the other.
        if isinstance(self._block, Streamed):
            self._block.bring()
        with mode:
            yield

    def _policy(self, context: SelectiveCheckpointContext, operator: Any, *args: Any, **options: Any) -> CheckpointPolicy:
        policy = _keep(context, operator, *args, **options)
        self._count += policy is CheckpointPolicy.MUST_SAVE
        return policy

    def check(self) -> None:
        """Refuse to keep what cannot be seen.

        Raises:
            ConfigError: If the block has no operator of attention.
        """
        if not self._count:
            raise ConfigError(
                f"memory.checkpoint_keep: attention has no effect: torch sees no operator of attention in "
                f"{type(self._block).__name__}, whose backend computes it in smaller steps; set nothing, or attention.train"
            )


def enable_checkpointing(
    denoiser: Any,
    blocks: Sequence[str],
    *,
    every: int = 1,
    keeps_attention: bool = False,
    given: Given | None = None,
    compiled: CompileConfig | None = None,
) -> None:
    """Let a denoiser of diffusers compute blocks again in the backward pass: each, or of ``every`` so many the first."""
    if every == 1 and not keeps_attention and given is None and compiled is None:
        denoiser.enable_gradient_checkpointing()
        return
    skipped = [block for number, block in enumerate(named_blocks(denoiser, blocks).values()) if number % every]
    run = Checkpointing(skipped, keeps_attention=keeps_attention, given=given, compiled=compiled)
    denoiser.enable_gradient_checkpointing(run)
