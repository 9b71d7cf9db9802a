"""The tiny pipelines are real, reproducible and sane."""

import random
import socket
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
import transformers
from diffusers import DiffusionPipeline, FluxPipeline, LTXPipeline

from finetrainers.errors import ConfigError
from finetrainers.testing import make_tiny
from finetrainers.testing.tiny import FACTORIES, WORDS

MODELS = [(family, variant) for family, variants in FACTORIES.items() for variant in variants]
CAPTIONS = [
    "a red cube on the left",
    "a blue ball on the left",
    "a red cube on the right",
    "Zwölf \u201codd\u201d aardvarks, 42%!",
]
REAL_CLASSES = {
    "tiny_flux": {
        "transformer": diffusers.FluxTransformer2DModel,
        "vae": diffusers.AutoencoderKL,
        "text_encoder": transformers.CLIPTextModel,
        "text_encoder_2": transformers.T5EncoderModel,
        "tokenizer": transformers.CLIPTokenizer,
        "tokenizer_2": transformers.T5TokenizerFast,
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler,
    },
    "tiny_ltx": {
        "transformer": diffusers.LTXVideoTransformer3DModel,
        "vae": diffusers.AutoencoderKLLTXVideo,
        "text_encoder": transformers.T5EncoderModel,
        "tokenizer": transformers.T5TokenizerFast,
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler,
    },
}
SCHEDULES = {
    "tiny_flux": {
        "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15, "shift": 3.0,
        "base_image_seq_len": 256, "max_image_seq_len": 4096, "shift_terminal": None,
    },
    "tiny_ltx": {
        "use_dynamic_shifting": True, "base_shift": 0.95, "max_shift": 2.05, "shift": 1.0,
        "base_image_seq_len": 1024, "max_image_seq_len": 4096, "shift_terminal": 0.1,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def flux(tiny_flux: Path) -> FluxPipeline:
    return quiet(FluxPipeline.from_pretrained(tiny_flux))


@pytest.fixture(scope="module")
def ltx(tiny_ltx: Path) -> LTXPipeline:
    return quiet(LTXPipeline.from_pretrained(tiny_ltx))


def quiet(pipeline: DiffusionPipeline) -> DiffusionPipeline:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def random_states() -> tuple[bytes, str, str]:
    legacy = repr(np.random.get_state())  # noqa: NPY002 - the global one is the point
    return torch.get_rng_state().numpy().tobytes(), repr(random.getstate()), legacy


@pytest.mark.parametrize("name", REAL_CLASSES)
def test_loads_without_network_as_the_real_classes(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was tried")

    directory = request.getfixturevalue(name)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    pipeline = DiffusionPipeline.from_pretrained(directory)
    assert type(pipeline) is {"tiny_flux": FluxPipeline, "tiny_ltx": LTXPipeline}[name]
    found = {key: type(part) for key, part in pipeline.components.items() if part is not None}
    assert found == REAL_CLASSES[name]
    config = pipeline.scheduler.config
    assert {key: config[key] for key in SCHEDULES[name]} == SCHEDULES[name]


@pytest.mark.parametrize(("family", "variant"), MODELS)
def test_files_depend_on_the_arguments_alone(family: str, variant: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = files(make_tiny(family, tmp_path / "first", variant=variant))
    torch.manual_seed(2)
    again = files(make_tiny(family, tmp_path / "again", variant=variant))
    other = files(make_tiny(family, tmp_path / "other", variant=variant, seed=1))
    assert first == again
    weights = {name for name in first if name.endswith(".safetensors")}
    assert len(weights) >= 3
    assert {name for name in first if first[name] != other[name]} == weights
    assert sum(map(len, first.values())) < 8e6  # HunyuanVideo-I2V: a picture of 576 tokens, and the ids of its template


@pytest.mark.parametrize("family", FACTORIES)
def test_leaves_global_random_states_alone(family: str, tmp_path: Path) -> None:
    before = random_states()
    make_tiny(family, tmp_path)
    assert random_states() == before


def test_the_first_variant_is_the_default(tiny_flux: Path, tmp_path: Path) -> None:
    assert files(make_tiny("flux", tmp_path, variant="dev")) == files(tiny_flux)


def test_schnell_has_neither_guidance_nor_a_shift(flux: FluxPipeline, tmp_path: Path) -> None:
    schnell = FluxPipeline.from_pretrained(make_tiny("flux", tmp_path, variant="schnell"))
    assert flux.transformer.config.guidance_embeds
    assert not schnell.transformer.config.guidance_embeds
    assert not schnell.scheduler.config.use_dynamic_shifting


def test_flux_samples_a_picture(flux: FluxPipeline) -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = flux(CAPTIONS[0], height=64, width=64, num_inference_steps=2, generator=generator, output_type="pt").images
    assert pictures.shape == (1, 3, 64, 64)
    assert pictures.isfinite().all()
    assert 0.05 < pictures.std() < 0.4


def test_ltx_samples_a_video(ltx: LTXPipeline) -> None:
    generator = torch.Generator().manual_seed(0)
    size = {"num_frames": 9, "height": 64, "width": 64}
    video = ltx(CAPTIONS[0], **size, num_inference_steps=2, generator=generator, output_type="pt").frames
    assert video.shape == (1, 9, 3, 64, 64)
    assert video.isfinite().all()
    assert 0.05 < video.std() < 0.4


@torch.no_grad()
def test_flux_latents_have_the_statistics_of_the_config(flux: FluxPipeline) -> None:
    pictures = torch.rand(16, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    posterior = flux.vae.encode(pictures).latent_dist
    latents = (posterior.mean - flux.vae.config.shift_factor) * flux.vae.config.scaling_factor
    assert latents.shape == (16, 4, 8, 8)
    assert flux.vae_scale_factor == 8
    check_statistics(latents, posterior.std * flux.vae.config.scaling_factor)


@torch.no_grad()
def test_ltx_latents_have_the_statistics_of_the_buffers(ltx: LTXPipeline) -> None:
    videos = torch.rand(16, 3, 9, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    posterior = ltx.vae.encode(videos).latent_dist
    latents = ltx._normalize_latents(posterior.mean, ltx.vae.latents_mean, ltx.vae.latents_std)
    assert latents.shape == (16, 16, 2, 2, 2)
    assert (ltx.vae_temporal_compression_ratio, ltx.vae_spatial_compression_ratio) == (8, 32)
    assert ltx.vae.latents_std.unique().numel() == ltx.vae.latents_mean.unique().numel() == 16
    check_statistics(latents, posterior.std / ltx.vae.latents_std.view(1, -1, 1, 1, 1))


def check_statistics(latents: torch.Tensor, deviation: torch.Tensor) -> None:
    """Normalized latents [B, C, *S] and the deviation of their posterior."""
    assert abs(latents.mean()) < 0.3
    assert 0.5 < latents.std() < 1.3
    assert latents.std(0).min() > 0.05, "every position depends on the picture"
    assert deviation.min() > 0.02
    assert deviation.max() < 0.3


@torch.no_grad()
def test_captions_have_embeddings_of_their_own(flux: FluxPipeline, ltx: LTXPipeline) -> None:
    tokens, pooled, _ = flux.encode_prompt(CAPTIONS, max_sequence_length=64)
    assert tokens.shape == (4, 64, 48)
    assert pooled.shape == (4, 16)
    for embedding in (tokens, pooled, ltx.encode_prompt(CAPTIONS)[0]):
        assert embedding.isfinite().all()
        for i in range(len(CAPTIONS)):
            for j in range(i):
                assert (embedding[i] - embedding[j]).abs().max() > 0.1


@torch.no_grad()
def test_flux_prediction_depends_on_every_input(flux: FluxPipeline) -> None:
    draw = torch.Generator().manual_seed(0)
    inputs = {
        "hidden_states": torch.randn(1, 16, 16, generator=draw),
        "encoder_hidden_states": torch.randn(1, 5, 48, generator=draw),
        "pooled_projections": torch.randn(1, 16, generator=draw),
        "timestep": torch.tensor([0.3]),
        "guidance": torch.tensor([3.5]),
    }
    ids = {
        "img_ids": torch.cartesian_prod(torch.zeros(1), torch.arange(4.0), torch.arange(4.0)),
        "txt_ids": torch.zeros(5, 3),
    }
    check_sensitive(lambda **changed: flux.transformer(**changed, **ids).sample, inputs)


@torch.no_grad()
def test_ltx_prediction_depends_on_every_input(ltx: LTXPipeline) -> None:
    draw = torch.Generator().manual_seed(0)
    inputs = {
        "hidden_states": torch.randn(1, 8, 16, generator=draw),
        "encoder_hidden_states": torch.randn(1, 5, 48, generator=draw),
        "timestep": torch.tensor([300.0]),
    }
    rest = {"encoder_attention_mask": torch.ones(1, 5), "num_frames": 2, "height": 2, "width": 2}
    check_sensitive(lambda **changed: ltx.transformer(**changed, **rest).sample, inputs)


def check_sensitive(predict, inputs: dict[str, torch.Tensor]) -> None:
    prediction = predict(**inputs)
    assert 0.1 < prediction.std() < 3
    for name, value in inputs.items():
        difference = predict(**inputs | {name: value * 0.5}) - prediction
        assert difference.abs().max() > 1e-3, name


@pytest.mark.parametrize(
    ("family", "variant", "message"),
    [
        ("fluxx", None, "family: there is no tiny 'fluxx'; did you mean 'flux'?"),
        ("ltx-video", None, "family: there is no tiny 'ltx-video'; did you mean 'ltx_video'?"),
        ("flux", "schnel", "variant: there is no tiny 'schnel'; did you mean 'schnell'?"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(family: str, variant: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        make_tiny(family, tmp_path / "never", variant=variant)
    assert message in str(caught.value)
    assert not (tmp_path / "never").exists()


def test_a_folder_of_something_else_is_left_as_it_is(tmp_path: Path) -> None:
    """Such as a real model's, whose weights would be overwritten; the same pipeline again is what is there already."""
    for name, text in {"model_index.json": "{}", "transformer/config.json": "{}"}.items():
        (tmp_path / "real" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "real" / name).write_text(text)
    before = files(tmp_path / "real")
    with pytest.raises(ConfigError, match=f"{tmp_path}/real: the folder holds something else than this pipeline"):
        make_tiny("flux", tmp_path / "real")
    assert files(tmp_path / "real") == before
    first = {file: file.stat().st_mtime_ns for file in make_tiny("flux", tmp_path / "tiny").rglob("*")}
    assert {file: file.stat().st_mtime_ns for file in make_tiny("flux", tmp_path / "tiny").rglob("*")} == first
    with pytest.raises(ConfigError, match="something else than this pipeline"):
        make_tiny("flux", tmp_path / "tiny", seed=1)


def test_a_file_in_the_way_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        make_tiny("flux", tmp_path / "file")


def test_the_words_are_distinct() -> None:
    assert len(WORDS.split()) == len(set(WORDS.split()))
