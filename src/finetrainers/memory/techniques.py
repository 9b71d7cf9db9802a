"""What is done to a denoiser so that it takes less memory or time, in one order."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from finetrainers.config import Config, MemoryConfig
from finetrainers.errors import ConfigError
from finetrainers.memory.checkpointing import enable_checkpointing
from finetrainers.memory.compile import compile_denoiser
from finetrainers.memory.inner import made_of, plain_tensors
from finetrainers.memory.offload import ActivationOffload
from finetrainers.memory.settling import SettleBlocks
from finetrainers.memory.stream import stream_blocks, streamed
from finetrainers.models.blocks import named_blocks
from finetrainers.models.weights import Settle

HOST = torch.device("cpu")


def prepare(denoiser: Any, blocks: Sequence[str], config: Config, device: torch.device, *, is_shared: bool = False) -> None:
    """Prepare a denoiser whose weights are there, and of which it is said what trains: it is on the device afterwards.

    In this order: checkpointing, activations on the host, blocks streamed, all else to the device, compile.

    Args:
        denoiser: Its weights are there, and its adapters.
        blocks: Class names of its repeated blocks.
        config: Of the run.
        device: Where it is to be.
        is_shared: Whether several processes share its weights or tokens: what they exchange is not part of a graph.

    Raises:
        ConfigError: If it has too few blocks.
    """
    memory = config.memory
    check_blocks(denoiser, blocks, memory)
    if config.train.gradient_checkpointing:
        is_compiled, keeps_attention = config.compile.kind == "regional", memory.checkpoint_keep == "attention"
        stays = memory.activations == "device" and memory.resident_blocks == "all" and not is_shared
        enable_checkpointing(
            denoiser,
            blocks,
            every=memory.checkpoint_every,
            keeps_attention=keeps_attention,
            given=ActivationOffload(device) if memory.activations == "host" else None,
            compiled=config.compile if is_compiled and (stays or keeps_attention) else None,
        )
    if memory.resident_blocks != "all":
        assert memory.resident_blocks != "auto", "a number is settled before anything is built"
        own = list(named_blocks(denoiser, blocks).values())
        stream_blocks(own, device, resident=memory.resident_blocks, is_trained_too=config.tuning.kind == "full")
    denoiser.to(device)  # what was added
    compile_denoiser(denoiser, blocks, config.compile)


def check_blocks(denoiser: nn.Module, blocks: Sequence[str], memory: MemoryConfig) -> None:
    """Refuse numbers of blocks that a denoiser does not have; its weights are not looked at.

    Raises:
        ConfigError: Naming how many there are.
    """
    count = len(named_blocks(denoiser, blocks))
    has = f"{type(denoiser).__name__} has {count} blocks"
    if memory.checkpoint_every > max(count, 1):
        raise ConfigError(f"memory.checkpoint_every: {memory.checkpoint_every} is too many, since {has}")
    if isinstance(memory.resident_blocks, int) and memory.resident_blocks >= count:
        raise ConfigError(f"memory.resident_blocks: {memory.resident_blocks} streams none, since {has}; set all, or fewer")


class ToHost(SettleBlocks):
    """Takes weights of blocks that will be streamed to the host while a denoiser is filled, module by module.

    So the device never holds all blocks, and what is quantised is so there before it leaves.
    """

    def __init__(self, blocks: Sequence[str], resident: int, settle: Settle | None = None) -> None:
        super().__init__(blocks, settle)
        self._resident = resident

    def chosen(self, names: Sequence[str]) -> Sequence[str]:
        return [names[number] for number in streamed(len(names), self._resident)] if self._resident < len(names) else []

    def kept(self, parameter: nn.Parameter) -> nn.Parameter:
        parked: nn.Parameter = made_of(parameter, iter([inner.to(HOST) for inner in plain_tensors(parameter)]))
        return parked
