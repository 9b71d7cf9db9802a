"""Which device a process trains on."""

import torch

from finetrainers.errors import ConfigError


def pick_device(name: str) -> torch.device:
    """Turn ``train.device`` into a device.

    Raises:
        ConfigError: If there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"train.device: {name!r} cannot be used: {str(error).splitlines()[0]}") from None
    return device
