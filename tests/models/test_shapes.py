"""Shapes that an adapter of the user's gets wrong are one message: the method, what it returned, what is expected."""

from pathlib import Path
from typing import Any

import pytest
import torch
from runs import config_of, flux_tree, write_pictures

from finetrainers import LatentFacts
from finetrainers.config import ModelConfig
from finetrainers.errors import ConfigError, ModelError
from finetrainers.models import Model, open_model
from finetrainers.models.stated import check_image, check_velocity
from finetrainers.models.vae import encode_pixels, latent_statistics
from finetrainers.testing import CHECKS, ModelUnderTest
from finetrainers.training.run import train

MINE = """from finetrainers.models.flux import Flux


class Mine(Flux):
    def denoise(self, *told):
        return super().denoise(*told){wrong}
"""
SHAPE = (2, 16, 1, 8, 12)


@pytest.fixture
def model(tiny_flux: Path) -> Model:
    return open_model(ModelConfig(path=str(tiny_flux), dtype="float32"))


def test_a_velocity_that_a_loss_would_broadcast_is_refused_by_train_and_by_the_checks(
    tiny_flux: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(MINE.format(wrong="[:, :1]"))
    section = {"path": str(tiny_flux), "adapter": f"{tmp_path / 'mine.py'}:Mine", "max_sequence_length": 16}
    channels = open_model(ModelConfig(path=str(tiny_flux))).adapter.grid.channels
    tree = flux_tree(tiny_flux, write_pictures(tmp_path / "data", 4), tmp_path)
    tree["model"] |= section
    message = rf"^Mine: denoise returns shape \[4, 1, 1, 8, 8\] for latents .* of shape \[4, {channels}, 1, 8, 8\]; return "
    with pytest.raises(ModelError, match=message):
        train(config_of(tree))
    subject = ModelUnderTest(section, size=(1, 64, 96), folder=tmp_path / "subject")
    for check in ("everything_told_matters", "denoise_answers_as_the_pipeline"):
        with pytest.raises(ModelError, match=r"^Mine: denoise returns shape \[[12], 1, 1, 8, 12\] for latents "):
            CHECKS[check](subject)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (torch.zeros(2, 32, 1, 8, 12), r"shape \[2, 32, 1, 8, 12\] .*: without channels of control"),
        (torch.zeros(2, 16, 2, 8, 12), r"shape \[2, 16, 2, 8, 12\] .*: without channels of control, and of all frames"),
        (torch.zeros(2, 16, 8, 12), r"shape \[2, 16, 8, 12\] .*: with an axis of frames"),
        (torch.zeros(2, 24, 64), r"shape \[2, 24, 64\] .*: put tokens \[B, N, D\] back in their places"),
        ((torch.zeros(SHAPE),), r"a tuple .*: its tensor alone"),
    ],
)
def test_a_velocity_of_another_shape_is_refused_with_the_way_out(answer: Any, message: str, model: Model) -> None:
    assert check_velocity(right := torch.zeros(SHAPE), model.adapter, SHAPE) is right
    with pytest.raises(ModelError, match=rf"^Flux: denoise returns {message}"):
        check_velocity(answer, model.adapter, SHAPE)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(2, 1, 3, 4), r"\[2, 1, 3, 4\], of 4 axes; return .* \[B, D\], .*: further axes are part of D"),
        (torch.zeros(2), r"\[2\], of 1 axes; return"),
    ],
)  # fmt: skip
def test_an_encoded_prompt_of_another_rank_is_refused(tensor: torch.Tensor, message: str, model: Model) -> None:
    answer = {"lengths": torch.tensor([3, 4]), "pooled": torch.zeros(2, 4)}
    vars(model.adapter)["encode_prompt"] = lambda *_, **__: answer
    assert model.encode_text(None, ["a", "b"], [], device=torch.device("cpu")) is answer
    answer["embeds"] = tensor
    with pytest.raises(ModelError, match=rf"^Flux: encode_prompt returns 'embeds' of shape {message}"):
        model.encode_text(None, ["a", "b"], [], device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("image", "found"), [(None, "a NoneType"), ({"a": torch.zeros(1, 3)}, r"'a' of shape \[1, 3\] for 2")]
)
def test_encoded_frames_that_are_none_are_refused(image: Any, found: str, model: Model) -> None:
    with pytest.raises(ModelError, match=f"^Flux: encode_image returns {found}.*; return a mapping of names to tensors"):
        check_image(image, model.adapter, 2)


def test_statistics_of_other_channels_than_the_grid_has_are_refused(model: Model) -> None:
    channels = model.adapter.grid.channels
    model.adapter.latents = LatentFacts(statistics="config", is_image_vae=True)
    vae = model.pretrained.load("vae")
    vae.register_to_config(latents_mean=[0.0] * channels, latents_std=[2.0])  # one for all channels is one, too
    assert latent_statistics(vae, model.adapter)[1].flatten().tolist() == [0.5]
    vae.register_to_config(latents_mean=[0.0, 0.0, 0.0])
    message = rf"^Flux: latents\.statistics: the VAE's latents_mean has shape \[3\], .* expected is \[{channels}\]; correct"
    with pytest.raises(ModelError, match=message):
        latent_statistics(vae, model.adapter)


def test_latents_of_another_shape_than_the_grid_says_are_refused(model: Model) -> None:
    vae, channels = model.pretrained.load("vae"), model.adapter.grid.channels
    vars(model.adapter)["grid"] = type(model.adapter.grid)(channels=channels // 2, vae_step=8, patch=2)
    message = (
        rf"^Flux: make_grid says that \[1, 64, 96\] gives .* \[{channels // 2}, 1, 8, 12\], but the VAE makes \[{channels}, "
    )
    with pytest.raises(ModelError, match=message):
        encode_pixels(vae, model.adapter, torch.zeros(1, 1, 64, 96, 3, dtype=torch.uint8))


def test_what_denoise_fails_with_is_told_in_shapes(tiny_flux: Path, tmp_path: Path) -> None:
    """A text without an axis of tokens is a text like a pooled one, until it is asked for its tokens."""
    flat = "{name: t.mean(1) if t.ndim == 3 else t for name, t in super().encode_prompt(*told, **named).items()}"
    own = f"    def encode_prompt(self, *told, **named):\n        return {flat}\n"
    (tmp_path / "mine.py").write_text(MINE.format(wrong="") + f"\n{own}")
    tree = flux_tree(tiny_flux, write_pictures(tmp_path / "data", 4), tmp_path)
    tree["model"] |= {"adapter": f"{tmp_path / 'mine.py'}:Mine", "max_sequence_length": 16}
    with pytest.raises(ConfigError) as told:
        train(config_of(tree))
    first = str(told.value).splitlines()[0]
    assert first.startswith("model.adapter: Mine fails (")
    assert "; denoise was given latents [4, " in first
    assert "; encode_prompt returned pooled_prompt_embeds, prompt_embeds as [B, D], without an axis of tokens); cor" in first
