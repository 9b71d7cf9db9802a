"""Which layers of a denoiser an adapter wraps."""

import re
from collections.abc import Sequence
from typing import Any

from torch import nn

from finetrainers.errors import ConfigError


def find_targets(denoiser: Any, targets: str | Sequence[str]) -> str | list[str]:
    """Name the modules as peft takes them, each of which must be there: by a regular expression, or by endings of names.

    Raises:
        ConfigError: Naming what is not there, and some of what is.
    """
    names = [name for name, module in denoiser.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    if isinstance(targets, str):
        if not any(re.fullmatch(targets, name) for name in names):
            raise ConfigError(f"tuning.targets: no layer's full name matches {targets!r}; there are {_some(names)}")
        return targets
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            raise ConfigError(f"tuning.targets: no layer's name ends in {target!r}; there are {_some(names)}")
    return list(targets)


def why_not(denoiser: Any, targets: str | Sequence[str], error: ValueError) -> str:
    """Say why peft cannot adapt: most often, a regular expression also matches what is no layer, such as a whole block."""
    modules = dict(denoiser.named_modules())
    for name, module in modules.items():
        if isinstance(targets, str) and re.fullmatch(targets, name) and any(True for _ in module.children()):
            layer = next((inner for inner in modules if inner.startswith(f"{name}.")), name)
            return (
                f"{targets!r} also matches {name}, which is no layer but a {type(module).__name__}; let it end as names of "
                f"layers do, such as {layer}"
            )
    return f"{targets!r} cannot be adapted: {error}"


def _some(names: Sequence[str]) -> str:
    return ", ".join([*names[:2], *names[-2:]]) + " ..."
