"""Optional packages that say much when they are imported."""

import importlib
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from finetrainers.errors import ConfigError

LOUD = ("torchao", "bitsandbytes", "torch.utils._pytree", "diffusers")
"""Loggers that tell at import of kernels that this machine has no use for, and of names that moved (torchao 0.18)."""


def install_extra(extra: str) -> str:
    """Say how an optional package is installed: from a checkout, since the index has an older program of this name."""
    return f"pip install './finetrainers[{extra}]' (./finetrainers is your checkout)"


def require(package: str, *, key: str, value: str, way_out: str) -> None:
    """Refuse a value that needs a package which is not there; the extra of finetrainers has the package's name.

    Raises:
        ConfigError: With the command that installs it.
    """
    try:
        import_quietly(package)
    except ImportError:
        raise ConfigError(f"{key}: {value} needs the package {package}: {install_extra(package)}, or {way_out}") from None


def import_quietly(module: str) -> Any:
    """Import a module without what it says of itself."""
    if module in sys.modules:  # a change of a logger's level makes all loggers forget what they are asked for
        return importlib.import_module(module)
    with _silence(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(module)


@contextmanager
def _silence() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in LOUD]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            if logger.level == logging.CRITICAL:  # else the library has set its own, such as what the environment asks for
                logger.setLevel(level)
