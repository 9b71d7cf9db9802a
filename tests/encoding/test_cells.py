"""What has to lie on the latents' grid and goes through no VAE: means of pixels over each latent's cell."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings, strategies as st

from finetrainers.config import ModelConfig
from finetrainers.encoding.cells import cell_means
from finetrainers.models import open_model


@settings(deadline=None, max_examples=40)
@given(
    clips=st.integers(0, 3),
    height=st.integers(1, 3),
    width=st.integers(1, 3),
    step=st.sampled_from([1, 4, 8]),
    frame_step=st.sampled_from([1, 4, 8]),
    seed=st.integers(0, 99),
)
def test_each_cell_is_the_mean_of_its_pixels(
    clips: int, height: int, width: int, step: int, frame_step: int, seed: int
) -> None:
    """The first frame has cells of its own, and the others are grouped behind it."""
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 1 + clips * frame_step, height * step, width * step, 3)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    found = cell_means(pixels, step=step, frame_step=frame_step)
    assert found.shape == (2, 1, 1 + clips, height, width)
    for f in range(1 + clips):
        frames = pixels[:, :1] if f == 0 else pixels[:, 1 + (f - 1) * frame_step : 1 + f * frame_step]
        for h in range(height):
            for w in range(width):
                cell = frames[:, :, h * step : (h + 1) * step, w * step : (w + 1) * step].double()
                torch.testing.assert_close(found[:, 0, f, h, w].double(), cell.mean((1, 2, 3, 4)) / 255, rtol=0, atol=1e-6)


@pytest.mark.parametrize("value", [0, 255])
def test_black_and_white_are_exactly_zero_and_one(value: int) -> None:
    """So that a mask counts a cell whole or not at all."""
    pixels = torch.full((1, 9, 32, 64, 3), value, dtype=torch.uint8)
    assert cell_means(pixels, step=32, frame_step=8).unique().tolist() == [value / 255]


@pytest.mark.parametrize(
    ("family", "variant", "frames"), [("flux", "dev", 1), ("ltx_video", "0.9.0", 17), ("cogvideox", "1.5-5b", 9)]
)
def test_cells_lie_on_the_grid_of_the_latents(
    family: str, variant: str, frames: int, tiny: Callable[[str, str], Path]
) -> None:
    grid = open_model(ModelConfig(path=str(tiny(family, variant)))).adapter.grid
    frames, height, width = grid.nearest((frames, 96, 160))
    found = cell_means(
        torch.zeros(1, frames, height, width, 3, dtype=torch.uint8), step=grid.vae_step, frame_step=grid.vae_frame_step
    )
    assert found.shape[2:] == grid.encoded_shape((frames, height, width))[1:]
