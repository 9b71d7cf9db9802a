"""Pixels at the size of latents, without a VAE: for what has to lie on its grid and is no picture, such as a mask.

Shape letters: B batch, K frames of P x Q pixels, F latent frames, H and W latent height and width.
"""

import torch
from torch import Tensor
from torch.nn import functional


def cell_means(pixels: Tensor, *, step: int, frame_step: int) -> Tensor:
    """Average uint8 pixels [B, K, P, Q, 3] over each latent's cell: [B, 1, F, H, W] float32, 0 is black and 1 is white.

    Args:
        pixels: Of whole cells: P and Q are multiples of ``step``, and K is 1 + k * ``frame_step``.
        step: Pixels of one latent's side.
        frame_step: Frames of one latent frame; the first frame has one of its own, as VAEs of videos group them.
    """
    grey = pixels.float().mean(-1)[:, None] / 255
    first = grey[:, :, :1].expand(-1, -1, frame_step, -1, -1)  # whose mean over a cell is that of one frame
    return functional.avg_pool3d(torch.cat([first, grey[:, :, 1:]], dim=2), (frame_step, step, step))
