"""CogView4: prompts of unequal length, the shift of its pipeline, and time steps before that shift."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import CAPTION, Recorder, load_pipeline
from diffusers.pipelines.cogview4.pipeline_cogview4 import calculate_shift

from finetrainers.batch import Batch, Prompt
from finetrainers.config import ModelConfig, parse_config
from finetrainers.errors import ConfigError
from finetrainers.models import Model, Request, open_model
from finetrainers.models.cogview4 import LENGTH, CogView4
from finetrainers.models.noise import ResolutionShift, shift_sigma
from finetrainers.sampling.sampler import Sampler
from finetrainers.training.checks.parts import check_computation
from finetrainers.training.objective import build_objective

CPU = torch.device("cpu")
LONG = "a large red ball and a small blue cube on the grass of the green mountain, at the river"
CAPTIONS = [LONG, "a dog", CAPTION]


@pytest.fixture
def model(tiny: Callable[[str, str], Path]) -> Model:
    return open_model(ModelConfig(path=str(tiny("cogview4", "6b")), dtype="float32", max_sequence_length=64))


def run_config(model: Model, **sections: Any) -> Any:
    data = [{"path": "data", "buckets": [[1, 64, 96]]}]
    return parse_config({"output_dir": "run", "model": model.pretrained.config.model_dump(), "data": data, **sections})


def test_a_caption_is_encoded_as_the_pipeline_does_it_alone(model: Model) -> None:
    """In any batch: what pads a prompt to a multiple of 16 tokens does not depend on its neighbours."""
    pipeline = load_pipeline(model)
    with torch.no_grad():
        text = model.adapter.encode_prompt(pipeline, CAPTIONS, max_length=64, device=CPU)
        assert text[LENGTH].tolist() == [32, 16, 16]
        for row, caption in enumerate(CAPTIONS):
            theirs = pipeline.encode_prompt(caption, do_classifier_free_guidance=False, max_sequence_length=64)[0]
            one = {name: tensor[row : row + 1] for name, tensor in text.items()}
            assert model.adapter.sampling_text(one).keys() == {"prompt_embeds"}
            assert torch.equal(model.adapter.sampling_text(one)["prompt_embeds"], theirs)


@torch.no_grad()
def test_prompts_of_unequal_length_do_not_change_each_other(model: Model) -> None:
    """Bit for bit: nothing masks the padding, so that it must not be there."""
    pipeline = load_pipeline(model)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, *model.adapter.grid.latent_shape((1, 64, 96)), generator=generator)
    sigma = torch.rand(3, 1, generator=generator)
    text = model.adapter.encode_prompt(pipeline, CAPTIONS, max_length=64, device=CPU)
    together = model.adapter.denoise(pipeline.transformer, x, sigma, Prompt(text, torch.zeros(3)))
    for row, caption in enumerate(CAPTIONS):
        own = model.adapter.encode_prompt(pipeline, [caption], max_length=64, device=CPU)
        rows = slice(row, row + 1)
        alone = model.adapter.denoise(pipeline.transformer, x[rows], sigma[rows], Prompt(own, torch.zeros(1)))
        assert torch.equal(together[rows], alone)


@torch.no_grad()
def test_every_batch_calls_the_transformer_as_often(model: Model) -> None:
    """Ranks whose prompts differ in length would wait for each other's sharded weights forever."""
    pipeline = load_pipeline(model)
    x = torch.randn(2, *model.adapter.grid.latent_shape((1, 64, 64)))
    for captions in ([LONG, "a dog"], ["a cat", "a dog"]):
        text = model.adapter.encode_prompt(pipeline, captions, max_length=64, device=CPU)
        recorder = Recorder(pipeline.transformer)
        model.adapter.denoise(recorder, x, torch.full((2, 1), 0.5), Prompt(text, torch.zeros(2)))
        assert len(recorder.calls) == 2


def test_lengths_stay_on_the_host(model: Model) -> None:
    """A step must not wait for a GPU to tell how many tokens there are."""
    tensor = torch.zeros(2, 4, 1, 8, 8)
    prompt = Prompt({"prompt_embeds": torch.zeros(2, 16, 48), LENGTH: torch.tensor([16, 16])}, torch.zeros(2))
    moved = Batch(torch.arange(2), tensor, tensor, torch.zeros(2, 1), torch.ones(2, 1), prompt).to(torch.device("meta"))
    assert moved.prompt.text[LENGTH].device == CPU
    assert moved.prompt.text["prompt_embeds"].device.type == "meta"


@pytest.mark.parametrize("height, width", [(512, 512), (1024, 1024), (2048, 512)])
def test_noise_levels_are_shifted_as_the_pipeline_shifts_them(model: Model, height: int, width: int) -> None:
    objective = build_objective(run_config(model), model)
    shift, tokens = objective.noise_levels.shift, model.adapter.grid.num_tokens((1, height, width))
    assert isinstance(shift, ResolutionShift)
    scheduler = model.pretrained.load("scheduler")
    config = scheduler.config
    mu = calculate_shift(tokens, config.base_image_seq_len, config.base_shift, config.max_shift)
    assert shift(tokens) == pytest.approx(mu)
    timesteps = np.linspace(1000, 1, 20).astype(np.int64).astype(np.float32)
    scheduler.set_timesteps(20, timesteps=timesteps, sigmas=timesteps / 1000, mu=mu)
    ours = shift_sigma(torch.from_numpy(timesteps / 1000), shift(tokens))
    torch.testing.assert_close(ours, scheduler.sigmas[:-1])


def test_a_picture_of_1024_pixels_has_the_shift_of_its_authors(model: Model) -> None:
    """sqrt(4096 / 256) * 0.75 + 0.25."""
    objective = build_objective(run_config(model), model)
    median = objective.sigma(torch.full((1, 1), 0.5), tokens=4096)
    assert median.item() == pytest.approx(3.25 / 4.25, abs=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("is_dynamic", [True, False])
def test_the_time_step_is_told_before_the_shift(model: Model, is_dynamic: bool) -> None:
    """As the pipeline has it, whose scheduler shifts noise levels and leaves the time steps that are handed to it."""
    settings = {**model.adapter.scheduler, "use_dynamic_shifting": is_dynamic, "shift": 5.0}
    adapter = CogView4(model.adapter.vae, model.adapter.settings, scheduler=settings)
    pipeline = load_pipeline(model)
    pipeline.scheduler = type(pipeline.scheduler).from_config(settings)
    recorder = pipeline.transformer = Recorder(pipeline.transformer)
    call = {"max_sequence_length": 64, "output_type": "latent", "guidance_scale": 1.0}
    pipeline(CAPTION, height=128, width=64, num_inference_steps=4, **call)
    text = adapter.encode_prompt(pipeline, [CAPTION], max_length=64, device=CPU)
    for number, theirs in enumerate(list(recorder.calls)):
        sigma = pipeline.scheduler.sigmas[number].reshape(1, 1)
        adapter.denoise(recorder, theirs["hidden_states"][:, :, None], sigma, Prompt(text, torch.zeros(1)))
        told = recorder.calls[-1]["timestep"]
        torch.testing.assert_close(told, theirs["timestep"], rtol=2 * torch.finfo(torch.float32).eps, atol=0)
        assert number == 0 or abs(float(told) / (1000 * float(sigma)) - 1) > 0.1  # both begin at 1000


@torch.no_grad()
def test_the_sampler_hands_over_prompts_without_padding(model: Model, tmp_path: Path) -> None:
    """Prompts that were encoded beside longer ones draw what the pipeline draws by itself."""
    pipeline = load_pipeline(model)
    texts = model.adapter.encode_prompt(pipeline, [*CAPTIONS, ""], max_length=64, device=CPU)
    places = {caption: slice(row, row + 1) for row, caption in enumerate([*CAPTIONS, ""])}

    def cached(caption: str) -> dict[str, torch.Tensor]:
        return {name: tensor[places[caption]] for name, tensor in texts.items()}

    sampler = Sampler(model, {"transformer": pipeline.transformer, "vae": pipeline.vae}, CPU)
    request = Request("a dog", size=(1, 64, 64), steps=2, seed=0)
    ours = sampler.pipeline(request)(**sampler.arguments(request, cached), output_type="latent").images
    call = {"height": 64, "width": 64, "num_inference_steps": 2, "generator": torch.Generator().manual_seed(0)}
    theirs = pipeline("a dog", negative_prompt="", max_sequence_length=64, output_type="latent", **call).images
    assert torch.equal(ours, theirs)


def test_an_attention_backend_that_would_change_nothing_is_refused(model: Model) -> None:
    with pytest.raises(ConfigError, match="attention.train: 'flex' would change nothing"):
        check_computation(run_config(model, attention={"train": "flex"}), model)
    check_computation(run_config(model, attention={"train": "_native_math"}), model)
