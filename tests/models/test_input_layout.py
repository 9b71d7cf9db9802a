"""Control for input layers that take the channels of a token last, and for those of which nothing is known."""

import re
from pathlib import Path

import pytest
import torch
from lumina2 import CHANNELS, make_lumina2
from runs import events_of
from torch import nn

import finetrainers
from finetrainers.conditioning.widen import widen_input, widened_settings
from finetrainers.errors import ConfigError, ModelError
from finetrainers.testing import CHECKS, ModelUnderTest

SIZE = (1, 64, 96)


@pytest.fixture(scope="module")
def lumina2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_lumina2(tmp_path_factory.mktemp("lumina2"))


def subject_of(lumina2: Path, folder: Path, adapter: str = "Lumina2") -> ModelUnderTest:
    place = f"{Path(__file__).with_name('lumina2.py')}:{adapter}"
    return ModelUnderTest({"path": str(lumina2), "adapter": place}, SIZE, folder)


@pytest.fixture(scope="module")
def subject(lumina2: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelUnderTest:
    return subject_of(lumina2, tmp_path_factory.mktemp("right"))


@pytest.mark.parametrize("check", [check for check in CHECKS if check != "a_resumed_run_is_the_same_run"])
def test_a_family_with_channels_last_passes_the_contract(subject: ModelUnderTest, check: str) -> None:
    """It goes on with a control, in ``control_is_learned_and_kept``."""
    CHECKS[check](subject)


def test_columns_of_control_follow_those_of_noise_in_each_place(subject: ModelUnderTest) -> None:
    """As the model's own class has them with more channels: [patch, patch, c], of which the last c are control's."""
    denoiser, extra = subject.model.load_denoiser(), CHANNELS + 1
    plain = denoiser.x_embedder.weight.detach().clone()
    widen_input(denoiser, subject.model.adapter, extra)
    wide = denoiser.x_embedder.weight.detach().unflatten(1, (2, 2, CHANNELS + extra))
    assert torch.equal(wide[..., :CHANNELS].flatten(1), plain)
    assert not wide[..., CHANNELS:].any()


@torch.no_grad()
def test_the_plain_class_with_more_channels_answers_as_the_widened_denoiser(subject: ModelUnderTest) -> None:
    """What is exported is a model of diffusers: its settings and its weights say all."""
    denoiser, adapter, batch = subject.model.load_denoiser(), subject.model.adapter, subject.batch
    plain = adapter.denoise(denoiser, batch.latents, batch.sigma, batch.prompt)
    widen_input(denoiser, adapter, CHANNELS)
    denoiser.x_embedder.weight.normal_(generator=torch.Generator().manual_seed(0))
    exported = type(denoiser).from_config({**denoiser.config, **widened_settings(denoiser.config, adapter, CHANNELS)}).eval()
    exported.load_state_dict(denoiser.state_dict())
    x = torch.cat([batch.latents, batch.noise], dim=1)
    answers = [adapter.denoise(each, x, batch.sigma, batch.prompt) for each in (denoiser, exported)]
    torch.testing.assert_close(answers[0], answers[1])
    assert not torch.allclose(answers[0], plain)


def test_a_wrong_layout_ends_the_run_before_its_first_step(lumina2: Path, tmp_path: Path) -> None:
    wrong = subject_of(lumina2, tmp_path, "ChannelsFirst").controlled
    message = (
        "model.adapter: the control does not reach its columns of x_embedder: lumina2 has input_layout = 'channels_first'"
    )
    with pytest.raises(ModelError, match=re.escape(message)):
        finetrainers.train(wrong.config("run"))
    assert "step" not in {event["event"] for event in events_of(tmp_path / "run")}


def test_the_contract_finds_a_wrong_layout(lumina2: Path, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="the control does not reach its columns of x_embedder"):
        CHECKS["control_reaches_its_columns"](subject_of(lumina2, tmp_path, "ChannelsFirst"))


def test_a_layer_with_fewer_columns_than_the_table_says_is_refused(subject: ModelUnderTest) -> None:
    denoiser = subject.model.load_denoiser()
    denoiser.x_embedder = nn.Linear(3 * CHANNELS, 48)
    message = (
        f"x_embedder takes {3 * CHANNELS} values, but grid and input_layout of lumina2 say that {4 * CHANNELS} are noisy"
    )
    with pytest.raises(ModelError, match=message):
        widen_input(denoiser, subject.model.adapter, CHANNELS)


def test_a_model_without_a_layout_takes_no_control(lumina2: Path, tmp_path: Path) -> None:
    subject = subject_of(lumina2, tmp_path, "WithoutControl")
    assert subject.trainer().micro_losses(subject.batch).isfinite().all()
    with pytest.raises(ConfigError, match="conditioning.kind: channel_concat is impossible: lumina2 takes no control.*none"):
        finetrainers.train(subject.controlled.config("run"))


@pytest.mark.parametrize("check", [name for name in CHECKS if name.startswith("control_")])
def test_checks_of_control_are_skipped_with_the_reason(lumina2: Path, tmp_path: Path, check: str) -> None:
    with pytest.raises(BaseException, match="lumina2 takes no control: its input_layout is None") as skipped:
        CHECKS[check](subject_of(lumina2, tmp_path, "WithoutControl"))
    assert skipped.typename == "SkipTest"
