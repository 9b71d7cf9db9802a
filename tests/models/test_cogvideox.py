"""CogVideoX: its schedule, its time steps, its sizes and its padded frames."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import CAPTION, Recorder, load_pipeline
from torch import Tensor

from finetrainers.batch import Batch, Prompt
from finetrainers.config import ModelConfig, parse_config
from finetrainers.encoding.budget import Budget
from finetrainers.errors import ConfigError
from finetrainers.models import Model, open_model
from finetrainers.models.cogvideox import CogVideoX, rotary
from finetrainers.models.noise import timestep_of
from finetrainers.models.vae import encode_pixels
from finetrainers.objectives.diffusion import Diffusion
from finetrainers.testing import ModelUnderTest
from finetrainers.training.checks.parts import check_buckets, check_computation
from finetrainers.training.objective import build_objective
from finetrainers.training.validation.validate import HeldOut

Tiny = Callable[[str, str], Path]
TIMESTEPS = torch.tensor([0, 1, 499, 998, 999])


def open_variant(tiny: Tiny, variant: str, **section: Any) -> Model:
    return open_model(ModelConfig(path=str(tiny("cogvideox", variant)), dtype="float32", **section))


def run_config(model: Model, **sections: Any) -> Any:
    data = [{"path": "data", "buckets": [[9, 64, 96]]}]
    return parse_config({"output_dir": "run", "model": model.pretrained.config.model_dump(), "data": data, **sections})


def noised_at(objective: Diffusion, timesteps: Tensor) -> tuple[Any, Tensor, Tensor]:
    """What training shows at these time steps, with the latents and the noise that it is made of."""
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, len(timesteps), 4, 3, 2, 2, generator=generator)
    sigma = ((timesteps + 0.5) / 1000)[:, None].expand(-1, 3)
    assert torch.equal(timestep_of(sigma[:, 0]), timesteps)
    return objective.corrupt(latents, noise, sigma=sigma, loss_mask=torch.ones_like(sigma)), latents, noise


@pytest.mark.parametrize("variant, scheduler_class", [("2b", "CogVideoXDDIMScheduler"), ("5b", "CogVideoXDPMScheduler")])
def test_noise_and_target_are_those_of_the_scheduler(tiny: Tiny, variant: str, scheduler_class: str) -> None:
    """The SNR shift differs between both, and the last time step is pure noise."""
    model = open_variant(tiny, variant)
    scheduler = model.pretrained.load("scheduler")
    assert type(scheduler).__name__ == scheduler_class
    objective = build_objective(run_config(model), model)
    assert isinstance(objective, Diffusion)
    noised, latents, noise = noised_at(objective, TIMESTEPS)
    torch.testing.assert_close(noised.x, scheduler.add_noise(latents, noise, TIMESTEPS), rtol=0, atol=1e-6)
    torch.testing.assert_close(noised.target, scheduler.get_velocity(latents, noise, TIMESTEPS), rtol=0, atol=1e-6)
    assert torch.equal(noised.x[-1], noise[-1])


def test_the_loss_is_that_of_the_authors(tiny: Tiny) -> None:
    """Their error of the denoised latents, weighed by 1 / (1 - alpha_bar), is our error of v."""
    model = open_variant(tiny, "2b")
    scheduler = model.pretrained.load("scheduler")
    objective = build_objective(run_config(model), model)
    noised, latents, _ = noised_at(objective, TIMESTEPS)
    answer = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    denoised = scheduler.get_velocity(answer, noised.x, TIMESTEPS)  # as their trainer calls it: x and v change places
    weight = 1 / (1 - scheduler.alphas_cumprod[TIMESTEPS]).float().view(-1, 1, 1, 1, 1)
    theirs = (weight * (denoised - latents) ** 2).mean(dim=(1, 2, 3, 4))
    torch.testing.assert_close(objective.loss(answer, noised), theirs, rtol=1e-3, atol=0)


@torch.no_grad()
def test_the_time_step_that_is_told_is_that_of_the_noise(tiny: Tiny) -> None:
    """Whatever noise level is drawn: the transformer is told at which time step the scheduler makes what it is shown."""
    model = open_variant(tiny, "2b")
    pipeline = load_pipeline(model)
    objective = build_objective(run_config(model), model)
    shape = model.adapter.grid.latent_shape((9, 64, 64))
    sigma = objective.sigma(torch.rand(7, 1, dtype=torch.float64), tokens=1)[:, None].expand(-1, shape[1])
    latents, noise = torch.randn(2, 7, *shape)
    noised = objective.corrupt(latents, noise, sigma=sigma, loss_mask=None)
    text = model.adapter.encode_prompt(pipeline, [CAPTION] * 7, max_length=16, device=torch.device("cpu"))
    recorder = Recorder(pipeline.transformer)
    model.adapter.denoise(recorder, noised.x, noised.sigma, Prompt(text, torch.zeros(7)))
    told = recorder.calls[0]["timestep"]
    assert told.dtype == torch.int64
    assert len(set(told.tolist())) > 1
    shown = recorder.calls[0]["hidden_states"].transpose(1, 2)
    torch.testing.assert_close(shown, pipeline.scheduler.add_noise(latents, noise, told), rtol=0, atol=1e-6)


def test_all_time_steps_are_as_likely(tiny: Tiny) -> None:
    model = open_variant(tiny, "5b")
    objective = build_objective(run_config(model), model)
    u = ((torch.arange(1000, dtype=torch.float64) + 0.5) / 1000)[:, None]
    sigma = objective.sigma(u, tokens=99)
    assert timestep_of(sigma).tolist() == list(range(1000))


@pytest.mark.parametrize(
    "variant, wanted, nearest",
    [
        ("2b", (10, 100, 70), (9, 96, 64)),
        ("5b", (81, 768, 1360), (81, 768, 1360)),
        ("1.5-5b", (81, 768, 1360), (81, 96, 112)),  # its table of rotary positions ends there
        ("5b-i2v", (17, 64, 64), (9, 64, 96)),  # learned positions of one size
    ],
)
def test_sizes(tiny: Tiny, variant: str, wanted: tuple[int, int, int], nearest: tuple[int, int, int]) -> None:
    model = open_variant(tiny, variant)
    assert model.adapter.grid.nearest(wanted) == nearest
    assert model.adapter.grid.nearest(nearest) == nearest
    config = run_config(model, data=[{"path": "data", "buckets": [list(wanted)]}])
    if wanted == nearest:
        check_buckets(config, model)
    else:
        with pytest.raises(ConfigError, match=f"nearest possible is \\{list(nearest)}"):
            check_buckets(config, model)


def test_the_largest_size_is_where_the_table_of_positions_ends(tiny: Tiny) -> None:
    settings = open_variant(tiny, "1.5-5b").adapter.settings
    assert rotary(settings, (4, 6, 7), torch.device("cpu"))[0].shape == (2 * 6 * 7, 32)
    with pytest.raises(RuntimeError):
        rotary(settings, (4, 7, 7), torch.device("cpu"))


@torch.no_grad()
def test_latent_frames_are_padded_at_the_front_and_dropped_by_the_pipeline(tiny: Tiny) -> None:
    """9 frames are 3 latent frames, of which 1.5 makes 4; what it draws decodes to 9 frames again."""
    model = open_variant(tiny, "1.5-5b")
    pipeline = load_pipeline(model)
    clip = torch.randint(0, 256, (1, 9, 64, 64, 3), dtype=torch.uint8)
    mean, _ = encode_pixels(pipeline.vae, model.adapter, clip)
    assert mean.shape == (1, *model.adapter.grid.encoded_shape((9, 64, 64))) == (1, 4, 3, 8, 8)
    assert model.adapter.grid.latent_shape((9, 64, 64)) == (4, 4, 8, 8)
    call = {"num_frames": 9, "height": 64, "width": 64, "num_inference_steps": 2, "max_sequence_length": 16}
    assert len(pipeline(prompt=CAPTION, output_type="pil", **call).frames[0]) == 9


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 5, 13, 21])
def test_any_number_of_frames_that_the_grid_allows_has_latents(tiny: Tiny, frames: int) -> None:
    """4 n + 1, which the VAE takes in pieces of 8 and a remainder; in 1.5 they are 2 n latent frames."""
    model = open_variant(tiny, "1.5-5b")
    clip = torch.randint(0, 256, (1, frames, 64, 64, 3), dtype=torch.uint8)
    mean, _ = encode_pixels(model.pretrained.load("vae"), model.adapter, clip)
    assert model.adapter.grid.nearest((frames, 64, 64)) == (frames, 64, 64)
    assert mean.shape[2] == model.adapter.grid.encoded_shape((frames, 64, 64))[1]
    assert model.adapter.grid.latent_shape((frames, 64, 64))[1] == mean.shape[2] + mean.shape[2] % 2


@pytest.fixture(scope="module")
def padded(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> ModelUnderTest:
    """9 frames of 1.5, and a control."""
    return ModelUnderTest(
        {"path": str(tiny("cogvideox", "1.5-5b"))}, (9, 64, 64), tmp_path_factory.mktemp("padded")
    ).controlled


def test_padding_is_a_copy_of_what_was_drawn(padded: ModelUnderTest) -> None:
    """As the authors copy it: after the posterior's noise, which both frames share; the cache has no copy."""
    job = padded.prepared.plan.step(padded.prepared.order, 0)[0]
    for latents, item in ((padded.batch.latents, job.target), (padded.batch.media["control"].latents, job.media["control"])):
        assert item is not None
        tensors, _ = padded.prepared.encoder.cache.read("latents", item.key)
        assert tensors["mean"].shape == tensors["std"].shape == padded.model.adapter.grid.encoded_shape((9, 64, 64))
        assert latents.shape[2] == 4
        assert torch.equal(latents[:, :, 0], latents[:, :, 1])
        assert not torch.allclose(latents[0, :, 1:], tensors["mean"])


def test_the_held_out_measure_is_padded_like_training(padded: ModelUnderTest) -> None:
    job, trainer, batches = padded.prepared.plan.step(padded.prepared.order, 0)[0], padded.trainer(), []
    predict = trainer.predict

    def record(x: Tensor, sigma: Tensor, batch: Batch) -> Tensor:
        batches.append(batch)
        return predict(x, sigma, batch)

    trainer.predict = record
    with torch.no_grad():
        HeldOut([job], padded.prepared.encoder.cache, num_levels=1, given_frames=padded.given_frames).measure(trainer)
    (batch,) = batches
    for latents in (batch.latents, batch.media["control"].latents):
        assert latents.shape[2] == 4
        assert torch.equal(latents[:, :, 0], latents[:, :, 1])


def test_the_budget_counts_what_the_cache_stores(padded: ModelUnderTest) -> None:
    job, encoder = padded.prepared.plan.step(padded.prepared.order, 0)[0], padded.prepared.encoder
    size = encoder.cache.file("latents", job.target.key).stat().st_size
    assert 0 <= Budget(encoder).latents_bytes(job, job.target) - size < 1000


def test_a_single_image_is_none_to_begin_a_clip_with(tiny: Tiny) -> None:
    """Though its padding makes two latent frames of it."""
    model = open_variant(tiny, "1.5-5b-i2v")
    config = run_config(model, data=[{"path": "data", "buckets": [[1, 64, 96]]}])
    with pytest.raises(ConfigError, match=r"data.0.buckets: \[1, 64, 96\] has single images, which cannot serve"):
        check_buckets(config, model)


@pytest.mark.parametrize("variant, is_fixed", [("2b", True), ("5b", False), ("1.5-5b", False), ("5b-i2v", True)])
def test_added_positions_take_one_prompt_length(tiny: Tiny, variant: str, is_fixed: bool) -> None:
    model = open_variant(tiny, variant, max_sequence_length=12)
    if is_fixed:
        with pytest.raises(ConfigError, match="model.max_sequence_length: cogvideox has positions .* exactly 16 tokens"):
            check_computation(run_config(model), model)
    else:
        check_computation(run_config(model), model)
    assert open_variant(tiny, variant).max_length == 16  # what the transformer's config says


@pytest.mark.parametrize("key", ["train", "validate"])
def test_an_attention_backend_that_would_change_nothing_is_refused(tiny: Tiny, key: str) -> None:
    model = open_variant(tiny, "2b")
    with pytest.raises(ConfigError, match=f"attention.{key}: 'flex' would change nothing"):
        check_computation(run_config(model, attention={key: "flex"}), model)
    for backend in ("auto", "native", "_native_math"):  # torch's own kernels are chosen by its own means
        check_computation(run_config(model, attention={key: backend}), model)


def test_a_model_does_the_task_that_its_channels_are_for(tiny: Tiny) -> None:
    assert open_variant(tiny, "1.5-5b-i2v").task == "image-to-video"
    assert open_variant(tiny, "1.5-5b").task == "text-to-video"
    with pytest.raises(ConfigError, match=r"model\.task: this model of cogvideox has no task 'image-to-video'"):
        open_variant(tiny, "2b", task="image-to-video")


PUBLISHED_VAE = {"block_out_channels": [128, 256, 256, 512], "latent_channels": 16, "temporal_compression_ratio": 4}
PUBLISHED = {"in_channels": 16, "patch_size": 2, "max_text_seq_length": 226, "use_rotary_positional_embeddings": True}
NATIVE = {"sample_height": 60, "sample_width": 90, "sample_frames": 49}
NATIVE_1_5 = {"sample_height": 300, "sample_width": 300, "sample_frames": 81, "patch_size_t": 2}


@pytest.mark.parametrize(
    "settings, size, latents, fps",
    [
        ({**NATIVE, "use_rotary_positional_embeddings": False}, (49, 480, 720), (16, 13, 60, 90), 8.0),
        ({**NATIVE, "in_channels": 32, "use_learned_positional_embeddings": True}, (49, 480, 720), (16, 13, 60, 90), 8.0),
        (NATIVE_1_5, (81, 768, 1360), (16, 22, 96, 170), 16.0),
    ],
)
def test_published_models_take_their_native_size(
    settings: dict[str, Any], size: tuple[int, int, int], latents: tuple[int, ...], fps: float
) -> None:
    """The configs of the Hub's repositories, some of which lack the keys that came later."""
    adapter = CogVideoX(PUBLISHED_VAE, {**PUBLISHED, **settings})
    assert adapter.grid.nearest(size) == size
    assert adapter.grid.latent_shape(size) == latents
    assert (adapter.default_fps, adapter.text.max_length) == (fps, 226)
