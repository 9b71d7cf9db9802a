"""torch.compile of what trains: block by block, or as a whole."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from finetrainers.config import CompileConfig
from finetrainers.errors import ConfigError
from finetrainers.models.blocks import named_blocks

REASON_LENGTH = 400
"""Characters of what a compiler says, which may be a program and all of its flags."""


def check_compile(config: CompileConfig) -> None:
    """Refuse a backend that torch does not know.

    Raises:
        ConfigError: Naming those that it knows.
    """
    if config.kind == "none":
        return
    known = torch.compiler.list_backends(exclude_tags=())
    if config.backend not in known:
        raise ConfigError(f"compile.backend: torch has no {config.backend!r}; it has {', '.join(known)}")


def compile_denoiser(denoiser: nn.Module, blocks: Sequence[str], config: CompileConfig) -> None:
    """Let a denoiser be compiled when it is first asked; names of parameters and modules stay as they are.

    Args:
        denoiser: One of the components that train, complete: a change of its modules compiles it anew.
        blocks: Class names of its repeated blocks.
        config: What is compiled, and how.

    Raises:
        ConfigError: If there is no such block.
    """
    if config.kind == "none":
        return
    parts = [denoiser] if config.kind == "full" else list(named_blocks(denoiser, blocks).values())
    if not parts:
        raise ConfigError(
            f"compile.kind: {type(denoiser).__name__} has no blocks named {', '.join(blocks)}, which its adapter states; "
            "fix them, or set full"
        )
    settings: Any = torch._dynamo.config
    settings.recompile_limit = settings.accumulated_recompile_limit = config.max_graphs
    settings.fail_on_recompile_limit_hit = True  # else it goes on without compiling, and says it in a log line
    for part in parts:
        part.compile(dynamic=config.dynamic, backend=config.backend)


@contextmanager
def recompiles_explained(shape: Sequence[int]) -> Iterator[None]:
    """Say which latents [B, C, F, H, W] asked for one graph too many, and that it is the compiler that fails.

    Raises:
        ConfigError: Naming the setting.
    """
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

    try:
        yield
    except FailOnRecompileLimitHit as error:
        batch, _, *latent = shape
        size = " x ".join(map(str, latent))
        raise ConfigError(
            f"compile.max_graphs: as many graphs are made as it allows, and latents of {size} (frames, height, width) in a "
            f"batch of {batch} need one more; set compile.dynamic: true, fewer buckets, or a higher compile.max_graphs"
        ) from error
    except TorchDynamoException as error:  # those of its backends, too: else an adapter of the user's would be blamed
        reason = " ".join(str(error).split())[:REASON_LENGTH]
        raise ConfigError(
            f"compile.kind: torch cannot compile the denoiser ({type(error).__name__}: {reason}); set none, or another "
            "compile.backend"
        ) from error


def sizes_are_fixed(config: CompileConfig) -> bool:
    """Whether each size makes a graph of its own, so that there should be few of them."""
    return config.kind != "none" and not config.dynamic


def is_compiled(module: nn.Module) -> bool:
    """Whether calls of a module run compiled code, in which hooks of its parts would be traced."""
    return module._compiled_call_impl is not None


def eager_modules(module: nn.Module) -> Iterator[nn.Module]:
    """Modules that run as Python: all but those that are compiled, and their parts."""
    if is_compiled(module):
        return
    yield module
    for part in module.children():
        yield from eager_modules(part)
