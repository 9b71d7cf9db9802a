"""What of a model rests in fewer bits: linear layers of its blocks, each compressed as soon as it is on the device."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from finetrainers.memory.quantize.layer import CompressedLinear
from finetrainers.models.blocks import is_linear_in_block
from finetrainers.models.weights import Settle, kept_in_float32


def compressing(kind: str, blocks: Sequence[str]) -> Settle | None:
    """Return what compresses a denoiser's layers while it is loaded, or None if they stay as they are.

    Norms, embeddings, the projections in and out, and what its class keeps in float32 stay.

    Args:
        kind: As ``memory.weights`` says.
        blocks: Class names of its repeated blocks.
    """
    if kind == "none":
        return None

    def settle(root: nn.Module, name: str) -> None:
        if is_linear_in_block(root, name, blocks) and not _is_kept(root, name):
            layer = root.get_submodule(name)
            assert isinstance(layer, nn.Linear)
            root.set_submodule(name, CompressedLinear(layer, kind))

    return settle


def compress_text_encoders(
    components: Iterable[Any], kind: str, device: torch.device, bring: Callable[[str, nn.Module], None] | None = None
) -> None:
    """Compress the linear layers inside of the blocks of text encoders on a device, one by one; tokenizers stay as they are.

    Blocks of transformers' models are those in lists: embeddings, heads and projections behind them are in none. Of each
    model, layers of another type than the others' stay: those that its class keeps in float32. Whoever brings a layer to the
    device is told its name.
    """
    for encoder in components:
        if kind == "none" or not isinstance(encoder, nn.Module):
            continue
        lists = [name for name, module in encoder.named_modules() if isinstance(module, nn.ModuleList)]
        for name, layer in list(encoder.named_modules()):
            is_inside = any(name.startswith(f"{own}.") for own in lists)
            if type(layer) is nn.Linear and is_inside and layer.weight.dtype == encoder.dtype:
                if bring is not None:
                    bring(name, layer)
                encoder.set_submodule(name, CompressedLinear(layer.to(device), kind))


def _is_kept(root: Any, name: str) -> bool:
    return not kept_in_float32(root).isdisjoint(name.split("."))
