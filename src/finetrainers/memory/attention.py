"""Backends of attention: which can be used, and how one is switched on."""

from collections.abc import Iterator
from contextlib import contextmanager

from finetrainers.errors import ConfigError


def check_attention(key: str, backend: str) -> None:
    """Refuse an attention backend that is unknown, or whose package is missing.

    Raises:
        ConfigError: Naming the key below ``attention``.
    """
    try:
        with attention(backend):
            pass
    except (ValueError, RuntimeError, ImportError) as error:
        raise ConfigError(f"attention.{key}: {backend!r} cannot be used: {str(error).splitlines()[0]}") from error


@contextmanager
def attention(backend: str) -> Iterator[None]:
    """Compute attention with one of diffusers' backends while the body runs."""
    if backend == "native":  # diffusers' default: nothing to switch
        yield
        return
    from diffusers.models.attention_dispatch import attention_backend

    with attention_backend(backend):
        yield
