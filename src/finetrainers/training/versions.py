"""What a run computes with, for its first event."""

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("finetrainers", "torch", "diffusers", "transformers", "peft", "accelerate", "torchao", "bitsandbytes")
"""Those whose versions may change what a run computes."""


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
