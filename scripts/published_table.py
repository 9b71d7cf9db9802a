"""Count the steps of which another count is published, set as that one had them; write a table of docs/measured_memory.md.

    python scripts/published_table.py             # about three minutes on one core
    python scripts/published_table.py --print     # prints the table, and changes nothing

What that count had and a run has not is put in place for the count: scales of nf4 in 8 bits, feed-forward layers in pieces,
no block and no input of one in advance of its turn, and LoRA in one type without masters.
"""

import argparse
import gc
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from diffusers.models.attention import FeedForward
from memory_table import DOCS, FULL, GIB, LORA, ROWS, PlainUpdate, bucket_of, filled, opened, row, say
from plan_table import off
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from finetrainers.memory import stream
from finetrainers.memory.offload import ActivationOffload
from finetrainers.memory.quantize.formats import FORMATS, NormalFloat
from finetrainers.training.cost import build_meta_trainer, measure_steps

PIECES = 4
"""Of the tokens, in a feed-forward layer."""
TARGETS = {
    "HunyuanVideo": r"(transformer_blocks|single_transformer_blocks).*(to_q|to_k|to_v|to_out.0)",
    "FLUX.1 dev": r"(transformer_blocks|single_transformer_blocks).*(to_q|to_k|to_v|to_out.0)",
    "Wan 2.1 14B": r"blocks.*attn1\.(to_q|to_k|to_v|to_out.0)",
}
"""What the other count trained, where that is less than what a run here trains."""
NF4: Mapping[str, Any] = {"memory.weights": "nf4"}
HOST: Mapping[str, Any] = {"memory.activations": "host"}
STREAMED: Mapping[str, Any] = {**HOST, "memory.resident_blocks": 0}
EIGHT_BIT: Mapping[str, Any] = {"optimizer.name": "adamw_8bit"}
IN_BACKWARD, ON_CPU = (
    next(keys for title, _, keys in ROWS if title == own)
    for own in (
        "full rank, 8 bits, in backward, no masters",
        "full rank, state on the CPU, streamed",
    )
)


class Published(NamedTuple):
    """A step of the other count."""

    model: str
    title: str
    gib: float
    keys: Mapping[str, Any]
    dtype: torch.dtype | None = torch.float32
    """Of LoRA, and of its gradients; None for full rank."""
    is_chunked: bool = False


PUBLISHED = (
    Published("HunyuanVideo", "LoRA", 36.1, {}),
    Published("HunyuanVideo", "LoRA, int8", 24.6, {"memory.weights": "int8"}),
    Published("HunyuanVideo", "LoRA, nf4", 19.0, NF4),
    Published("HunyuanVideo", "LoRA, nf4, inputs on the host", 12.5, {**NF4, **HOST}),
    Published(
        "HunyuanVideo", "the same, in pieces, 8-bit, bfloat16", 10.0, {**NF4, **HOST, **EIGHT_BIT}, torch.bfloat16, True
    ),
    Published(
        "HunyuanVideo", "LoRA, int8, streamed, in pieces", 5.8, {"memory.weights": "int8", **STREAMED}, is_chunked=True
    ),
    Published("HunyuanVideo", "full rank, in backward", 50.8, {**IN_BACKWARD, **HOST}, None, True),
    Published("HunyuanVideo", "full rank, streamed", 4.9, ON_CPU, None, True),
    Published("Wan 2.1 14B", "LoRA", 44.5, {}),
    Published("Wan 2.1 14B", "LoRA, int8", 31.4, {"memory.weights": "int8"}),
    Published(
        "Wan 2.1 14B", "LoRA, nf4, in pieces, 8-bit, bfloat16", 14.6, {**NF4, **HOST, **EIGHT_BIT}, torch.bfloat16, True
    ),
    Published("Wan 2.1 14B", "the same, streamed", 8.1, {**NF4, **STREAMED, **EIGHT_BIT}, torch.bfloat16, True),
    Published("FLUX.1 dev", "LoRA", 26.1, {}),
    Published("FLUX.1 dev", "LoRA, nf4", 9.7, NF4),
    Published("FLUX.1 dev", "LoRA, nf4, streamed, 8-bit, bfloat16", 1.8, {**NF4, **STREAMED, **EIGHT_BIT}, torch.bfloat16),
    Published(
        "LTX-Video 2B", "LoRA, nf4, streamed, 8-bit, bfloat16", 1.2, {**NF4, **STREAMED, **EIGHT_BIT}, torch.bfloat16, True
    ),
    Published(
        "CogVideoX-5b", "LoRA, nf4, streamed, 8-bit, bfloat16", 2.8, {**NF4, **STREAMED, **EIGHT_BIT}, torch.bfloat16, True
    ),
    Published("CogVideoX-5b", "full rank, in backward", 23.1, {**IN_BACKWARD, **HOST}, None, True),
)


class Nested(NormalFloat):
    """Nf4 whose scales are of 8 bits (arXiv:2305.14314, section 3); theirs in turn are left out."""

    def compress(self, weight: Tensor) -> tuple[Tensor, Tensor | None]:
        numbers, scales = super().compress(weight)
        assert scales is not None
        return numbers, scales.to(torch.uint8)

    def decompress(self, numbers: Tensor, scales: Tensor | None, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        assert scales is not None
        return super().decompress(numbers, scales.float(), shape, dtype)


class InPieces(nn.Module):
    """A feed-forward layer in pieces of the tokens, each computed again in the backward pass."""

    def __init__(self, run: nn.Module) -> None:
        super().__init__()
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        run: Any = self.run
        held = {**dict(self.run.named_parameters()), **dict(self.run.named_buffers())}
        if any(own.requires_grad and not own.is_leaf for own in held.values()):  # it trains, and is streamed
            answer: Tensor = Pieces.apply(run, tuple(held), x, *held.values())  # type: ignore[no-untyped-call]
            return answer
        if torch._C._current_graph_task_id() != -1:  # in a backward pass streamed weights are here now, and soon will not be
            run = partial(functional_call, self.run, held)
        return torch.cat([checkpoint(run, own, use_reentrant=False) for own in x.chunk(PIECES, 1)], 1)


class Pieces(torch.autograd.Function):
    """The same where weights come for each call and train: one gradient of each, of all pieces."""

    @staticmethod
    def forward(ctx: Any, run: nn.Module, names: tuple[str, ...], x: Tensor, *weights: Tensor) -> Tensor:
        ctx.run, ctx.names = run, names
        ctx.save_for_backward(x, *weights)
        held = dict(zip(names, weights, strict=True))
        return torch.cat([functional_call(run, held, own) for own in x.chunk(PIECES, 1)], 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = (own.detach().requires_grad_() for own in ctx.saved_tensors)
        held = dict(zip(ctx.names, weights, strict=True))
        inputs = []
        for own, back in zip(x.detach().chunk(PIECES, 1), gradient.chunk(PIECES, 1), strict=True):
            piece = own.requires_grad_()
            with torch.enable_grad():
                answer = functional_call(ctx.run, held, piece)
            torch.autograd.backward(answer, back, inputs=[piece, *weights])
            inputs.append(piece.grad)
            piece.grad = None
        return None, None, torch.cat(inputs, 1), *(own.grad for own in weights)


class Narrowed(nn.Module):
    """What follows attention in a block of one stream, given attention's answer and the normed input side by side."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.proj_mlp, self.act_mlp, self.proj_out = block.proj_mlp, block.act_mlp, block.proj_out

    def forward(self, x: Tensor) -> Tensor:
        attended, normed = x.chunk(2, -1)
        answer: Tensor = self.proj_out(torch.cat([attended, self.act_mlp(self.proj_mlp(normed))], -1))
        return answer


def cut_in_pieces(denoiser: nn.Module) -> None:
    """Let each feed-forward layer be computed in pieces."""
    for module in list(denoiser.modules()):
        if isinstance(module, FeedForward):
            module.net = nn.ModuleList([InPieces(nn.Sequential(*module.net))])
        elif hasattr(module, "proj_mlp") and hasattr(module, "proj_out"):
            narrowed = InPieces(Narrowed(module))
            module.proj_mlp, module.act_mlp, module.proj_out = nn.Identity(), nn.Identity(), narrowed


@contextmanager
def as_published() -> Iterator[None]:
    """Compute as the other count did."""
    with ExitStack() as stack:
        stack.enter_context(patch.dict(FORMATS, {"nf4": Nested()}))
        stack.enter_context(patch.object(stream, "AHEAD", 0))
        pack = ActivationOffload._pack
        stack.enter_context(patch.object(ActivationOffload, "_pack", lambda self, x, shared, _: pack(self, x, shared, ())))
        yield


def count(own: Published) -> float:
    """Count the step: GiB at the peak."""
    targets = {"targets": TARGETS[own.model]} if own.model in TARGETS else {}
    config, model = opened(own.model, FULL if own.dtype is None else {**LORA, **targets}, own.keys)
    trainer = build_meta_trainer(config, model)
    if own.is_chunked:
        cut_in_pieces(trainer.denoiser)
    if own.dtype is not None:
        trainer.update = PlainUpdate(trainer, config, own.dtype)
    cost = measure_steps(trainer, config, model, bucket_of(own.model))
    say(
        f"  {cost.peak_bytes / GIB:.2f} of {own.gib}: {cost.num_trained / 1e6:.0f} M, {cost.usage.flop / 1e12:.0f} TFLOP, "
        f"{cost.work.link_bytes / 1e9:.1f} GB, "
        + ", ".join(f"{key} {value / GIB:.2f}" for key, value in cost.usage.peak.items())
    )
    return cost.peak_bytes / GIB


def published(only: str) -> Iterator[str]:
    """Compare with the other count."""
    yield "| model | what | GiB: the other count | counted | |"
    yield "|---|---|---|---|---|"
    for own in PUBLISHED:
        if not re.search(only, f"{own.model}, {own.title}"):
            continue
        say(f"{own.model}, {own.title}")
        with as_published():
            gib = count(own)
        gc.collect()
        yield row(own.model, own.title, f"{own.gib:.3g}", f"{gib:.3g}", off(gib, own.gib))


def main() -> None:
    """Make the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--print", action="store_true", help="print the table, and change nothing")
    parser.add_argument("--only", default="", metavar="PATTERN", help="of the model and the title; with --print")
    options = parser.parse_args()
    lines = list(published(options.only))
    if options.print or options.only:
        print("\n".join(lines))
    else:
        page = DOCS / "measured_memory.md"
        page.write_text(filled(page.read_text(), "published", lines))


if __name__ == "__main__":
    main()
