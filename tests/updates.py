"""What tests of ``Update`` do of a step of the trainer."""

import torch
from torch import Tensor

from finetrainers.optim.update import Update


def clip(update: Update) -> Tensor:
    """Clip the whole gradient, and return its norm before that, as the trainer does."""
    device = update._kept[0].weight.device
    _, norm = update.reduce(torch.zeros(0, device=device))
    update.clip(norm)
    return norm
