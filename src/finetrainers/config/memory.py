"""The ``memory`` section: what trades time for memory."""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from finetrainers.config.base import RefusedKeyError, Section

WeightFormat = Literal["none", "fp8_e4m3", "fp8_e5m2", "fp8_scaled", "int8", "nf4"]
"""What frozen weights rest in."""

UNITS = {"": 1, "MB": 10**6, "GB": 10**9, "TB": 10**12, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
"""Bytes of each unit that sizes are written in."""


def read_size(value: object) -> object:
    """Read a size such as 24GB; numbers are bytes."""
    if not isinstance(value, str):
        return value
    written = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", value.strip())
    if written is None or written[2] not in UNITS:
        raise ValueError(
            f"{value!r} is not a size; write a number with one of {', '.join(unit for unit in UNITS if unit)}: 24GB"
        )
    return round(float(written[1]) * UNITS[written[2]])


class MemoryConfig(Section):
    """Settings that trade time for memory."""

    preset: Literal["none", "auto"] = "none"
    """Whether to choose memory techniques automatically. ``none`` uses the keys as written. ``auto`` counts the memory of a
    step for one set of techniques after another, fastest first, and uses the first that fits in the budget. Keys that you
    write stay as they are."""
    budget: Annotated[int, Field(ge=1), BeforeValidator(read_size)] | None = None
    """Device memory (VRAM) that ``preset: auto`` and ``resident_blocks: auto`` may use, such as 24GB or 24GiB (1 GB is 10^9
    bytes). By default all that the GPU has."""
    vae_tiling: bool = False
    """Encode and decode large frames in tiles."""
    vae_slicing: bool = False
    """Encode and decode the items of a batch one by one."""
    weights: WeightFormat = "none"
    """Quantization of the frozen weights of the denoiser's blocks. Each layer is dequantized while it computes. fp8_e4m3 and
    fp8_e5m2 are casts; fp8_scaled and int8 have one scale per row (extra torchao); nf4 has one per 64 weights (extra
    bitsandbytes). 8-bit formats need half the memory of bfloat16, nf4 less than a third."""
    text_encoder_weights: WeightFormat = "none"
    """Like ``memory.weights``, for the text encoders while captions are encoded. Encoded captions depend on it."""
    shard_text_encoders: bool = False
    """Shard the text encoders over all devices of the run while captions are encoded, if they do not fit on one device. Each
    device holds a part of every layer. Captions are then encoded in lockstep, one batch per device."""

    checkpoint_every: int = Field(default=1, ge=1)
    """With ``train.gradient_checkpointing``, recompute one block in this many: 1 is every block, 2 every second. The others
    keep their activations, which takes more memory and less time."""
    checkpoint_keep: Literal["nothing", "attention"] = "nothing"
    """What a recomputed block keeps in addition to its inputs: nothing, or the outputs of attention, which is then computed
    only once. Each output is as large as the block's input."""
    activations: Literal["device", "host"] = "device"
    """Where to keep the inputs of recomputed blocks until the backward pass: on the device, or in host memory (activation
    offloading), from which they return one block ahead."""
    resident_blocks: Literal["all", "auto"] | Annotated[int, Field(ge=0)] = "all"
    """Number of blocks whose weights stay on the device (block swapping). ``auto`` keeps as many as fit in ``budget``. The
    weights of all others are in host memory, and are copied to the device two blocks ahead of their turn, in both the
    forward and the backward pass."""

    def impossible(self, *, is_checkpointing: bool, compiled: str) -> Iterator[tuple[str, str]]:
        """Keys that contradict train.gradient_checkpointing or compile.kind, with the reason and the way out."""
        without = "without train.gradient_checkpointing: true; set it, or remove this key"
        if not is_checkpointing:
            if self.checkpoint_every > 1:
                yield "checkpoint_every", f"has no effect {without}"
            if self.checkpoint_keep != "nothing":
                yield "checkpoint_keep", f"has no effect {without}"
            if self.activations == "host":
                yield "activations", f"has no effect {without}"
            if self.resident_blocks != "all":
                yield "resident_blocks", f"would free nothing, since autograd keeps all weights that were copied, {without}"
        yield from self._beside_compile(compiled)

    def _beside_compile(self, compiled: str) -> Iterator[tuple[str, str]]:
        with_full = "with compile.kind: full: copies from and to the host cannot be part of a graph; set regional, or"
        if compiled == "full" and self.checkpoint_keep != "nothing":
            yield "checkpoint_keep", "is impossible with compile.kind: full, which hides attention; set regional, or nothing"
        if compiled == "regional" and self.checkpoint_keep != "nothing":
            in_graph = (
                "with compile.kind: regional and checkpoint_keep: attention, whose graphs keep what they need themselves"
            )
            if self.activations == "host":
                yield "activations", f"is impossible {in_graph}; set device, or checkpoint_keep: nothing"
            if self.resident_blocks != "all":
                yield "resident_blocks", f"is impossible {in_graph}; set all, or checkpoint_keep: nothing"
        if compiled == "full" and self.activations == "host":
            yield "activations", f"is impossible {with_full} device"
        if compiled == "full" and self.resident_blocks != "all":
            yield "resident_blocks", f"is impossible {with_full} all"

    @model_validator(mode="after")
    def _streamed_blocks_are_recomputed(self) -> "MemoryConfig":
        if self.resident_blocks != "all" and self.checkpoint_every > 1:
            raise RefusedKeyError(
                "checkpoint_every",
                f"{self.checkpoint_every} is impossible with resident_blocks: {self.resident_blocks}: autograd would keep "
                "the weights of blocks that are not recomputed; set 1, or resident_blocks: all",
            )
        return self

    @model_validator(mode="after")
    def _sharded_encoders_are_whole_numbers(self) -> "MemoryConfig":
        if self.shard_text_encoders and self.text_encoder_weights != "none":
            raise RefusedKeyError(
                "shard_text_encoders",
                f"true is impossible with text_encoder_weights: {self.text_encoder_weights}, whose tensors cannot be "
                "sharded; remove one of them",
            )
        return self

    @model_validator(mode="after")
    def _one_chooses(self) -> "MemoryConfig":
        if self.preset == "auto" and self.resident_blocks == "auto":
            raise RefusedKeyError("resident_blocks", "auto has no effect with preset: auto, which chooses it; remove it")
        return self

    def idle(self) -> Mapping[str, str]:
        if "auto" in (self.preset, self.resident_blocks):
            return {}
        return {"budget": "without preset: auto or resident_blocks: auto; set one of them, or remove it"}
