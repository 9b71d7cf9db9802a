"""torchao and bitsandbytes say at their import what kernels they did not find, for machines that have no use for them."""

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

TALKERS = ("torchao", "bitsandbytes", "torch.utils._pytree")
"""Loggers that speak up meanwhile."""


def import_quietly(package: str) -> Any:
    """Import an optional package without its news; errors are raised as ever."""
    with _silence(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(package)


@contextmanager
def _silence() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in TALKERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
