"""All checks of settings that no data make possible, in their order; an error of one may let the others be made."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch

from finetrainers.config import Config
from finetrainers.data.streams import Stream
from finetrainers.distributed.world import World
from finetrainers.errors import ConfigError
from finetrainers.models import Model, Request
from finetrainers.sampling.prompts import read_prompts, usual_size
from finetrainers.training.checks.context import check_context
from finetrainers.training.checks.parts import (
    check_buckets,
    check_computation,
    check_conditioning,
    check_mirrors,
    check_streams,
    check_tuning,
)
from finetrainers.tuning.base import Size

Trying = Callable[[str], AbstractContextManager[object]]
"""Makes what a check runs in, by the check's name; it may take the error, and tell it later."""


def check_settings(
    config: Config,
    model: Model,
    streams: Sequence[Stream],
    *,
    world: World,
    device: torch.device,
    trying: Trying,
) -> tuple[Size, tuple[Request, ...]]:
    """Refuse settings that no data make possible; return how much trains, and what validations generate.

    Raises:
        ConfigError: Naming the key and what to set instead.
    """
    size, requests = Size(0, 0), tuple[Request, ...]()
    first = {"buckets": check_buckets, "conditioning": check_conditioning, "computation": check_computation}
    for name, check in first.items():
        with trying(name):
            check(config, model)
    with trying("tuning"):
        size = check_tuning(config, model)
    with trying("prompts"):
        requests = requests_of(config, model)
    with trying("tokens that processes share"):
        check_context(config, model, requests, context=world.layout.context, device=device)
    with trying("files beside media"):
        check_streams(config, streams)
        check_mirrors(config, streams)
    with trying("text encoders that processes share"):
        _check_shares(config, world)
    return size, requests


def requests_of(config: Config, model: Model) -> tuple[Request, ...]:
    """Read what validations generate."""
    if config.validation.prompts is None:
        return ()
    first = usual_size(config.data[0].buckets, model)
    shows = {"takes_control": config.control is not None, "takes_references": config.references is not None}
    return tuple(read_prompts(config.validation.prompts, model, size=first, **shows))


def _check_shares(config: Config, world: World) -> None:
    """Refuse text encoders that are spread over one device."""
    if config.memory.shard_text_encoders and world.is_alone:
        raise ConfigError(
            "memory.shard_text_encoders: true has no effect in one process; start several with torchrun, srun or "
            "finetrainers launch, or remove it"
        )
