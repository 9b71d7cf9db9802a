"""What is Wan's own: tasks by variant, prompts of exactly 512 tokens, the shift, what is kept in float32."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel

from finetrainers.conditioning import build_given_frames
from finetrainers.config import ModelConfig
from finetrainers.errors import ConfigError
from finetrainers.models import Model, open_model
from finetrainers.testing.model_under_test import FULL, LORA, ModelUnderTest
from finetrainers.testing.tiny_wan import WAN
from finetrainers.training.checks.parts import check_computation

Tiny = Callable[[str, str], Path]
SIZE = (5, 32, 32)
TASKS = {
    "2.1-t2v": ["text-to-video"],
    "2.1-i2v": ["image-to-video"],
    "2.1-flf2v": ["first-last-frame-to-video"],
    "2.2-t2v-a14b": ["text-to-video"],
    "2.2-i2v-a14b": ["image-to-video", "first-last-frame-to-video"],
    "2.2-ti2v-5b": ["text-to-video", "image-to-video"],
}
SHIFTS = {"2.1-flf2v": 5.0, "2.2-ti2v-5b": 5.0}


def subject_of(tiny: Tiny, folder: Path, variant: str, size: tuple[int, int, int] = SIZE, **model: Any) -> ModelUnderTest:
    section = {"path": str(tiny("wan", variant)), "max_sequence_length": 16, **model}
    return ModelUnderTest(section, size, folder)


def model_of(tiny: Tiny, variant: str, **model: Any) -> Model:
    return open_model(ModelConfig(path=str(tiny("wan", variant)), **model))


@pytest.mark.parametrize("variant", WAN)
def test_a_model_does_what_its_configuration_says(tiny: Tiny, tmp_path: Path, variant: str) -> None:
    """The first task is the default, and all others are refused."""
    subject = subject_of(tiny, tmp_path, variant)
    assert list(subject.model.adapter.tasks) == TASKS[variant]
    assert subject.model.task == TASKS[variant][0]
    assert subject.objective.noise_levels.shift == SHIFTS.get(variant, 3.0)
    for task in set(subject.model.adapter.pipelines) - set(TASKS[variant]):
        with pytest.raises(ConfigError, match=f"this model of wan has no task '{task}'; it has {TASKS[variant][0]}"):
            model_of(tiny, variant, task=task)


def test_sizes(tiny: Tiny) -> None:
    grid, grid_5b = (model_of(tiny, variant).adapter.grid for variant in ("2.1-t2v", "2.2-ti2v-5b"))
    assert grid.nearest((48, 470, 850)) == (49, 464, 848)
    assert grid_5b.nearest((48, 700, 1290)) == (49, 704, 1280)
    assert grid.latent_shape((49, 480, 832)) == (16, 13, 60, 104)
    assert grid_5b.latent_shape((49, 704, 1280)) == (48, 13, 44, 80)
    assert (grid.num_tokens((49, 480, 832)), grid_5b.num_tokens((49, 704, 1280))) == (20280, 11440)


@pytest.mark.parametrize("variant", ["2.1-i2v", "2.1-flf2v"])
def test_models_with_clip_take_prompts_of_512_tokens_and_no_others(tiny: Tiny, tmp_path: Path, variant: str) -> None:
    """diffusers would take the wrong tokens for the image's, without a word."""
    subject = subject_of(tiny, tmp_path, variant)
    with pytest.raises(ConfigError, match=r"model\.max_sequence_length: .* 512 tokens, not 16"):
        check_computation(subject.config("run"), subject.model)
    whole = subject_of(tiny, tmp_path / "whole", variant, max_sequence_length=512)
    check_computation(whole.config("run"), whole.model)


@pytest.mark.parametrize("task, given", [("text-to-video", 0.0), ("image-to-video", 1.0)])
def test_5b_gives_the_first_frame_as_its_task_says_or_as_often_as_is_asked(
    tiny: Tiny, tmp_path: Path, task: str, given: float
) -> None:
    subject = subject_of(tiny, tmp_path, "2.2-ti2v-5b", task=task)
    assert subject.given_frames.probability == given
    half = {"kind": "given_frames", "probability": 0.5}
    assert build_given_frames(subject.config("run", conditioning=half), subject.model).probability == 0.5
    one = subject_of(tiny, tmp_path / "one", "2.1-t2v")
    with pytest.raises(ConfigError, match=r"conditioning\.probability: wan has one noise level for all frames"):
        build_given_frames(one.config("run", conditioning=half), one.model)


@pytest.mark.parametrize("tuning", [LORA, FULL], ids=["lora", "full"])
@torch.no_grad()
def test_training_in_bfloat16_computes_what_sampling_computes(tiny: Tiny, tmp_path: Path, tuning: Any) -> None:
    """To the bit: diffusers keeps the time embedding and the norms in float32, and all else in bfloat16."""
    subject = subject_of(tiny, tmp_path, "2.1-t2v", dtype="bfloat16")
    trainer, batch = subject.trainer(tuning), subject.batch
    noised = trainer.objective.corrupt(batch.latents, batch.noise, sigma=batch.sigma, loss_mask=batch.loss_mask)
    trained = trainer.predict(noised.x, noised.sigma, batch)
    trainer.denoiser = WanTransformer3DModel.from_pretrained(
        Path(subject.model_section["path"]) / "transformer", torch_dtype=torch.bfloat16
    )
    assert torch.equal(trainer.predict(noised.x, noised.sigma, batch), trained)


@pytest.mark.parametrize("tuning", [LORA, FULL], ids=["lora", "full"])
def test_a_step_in_bfloat16_trains_and_what_is_kept_in_float32_is_exported_so(
    tiny: Tiny, tmp_path: Path, tuning: Any
) -> None:
    from safetensors.torch import load_file

    from finetrainers import train

    subject = subject_of(tiny, tmp_path, "2.1-t2v", dtype="bfloat16")
    result = train(subject.config("run", tuning))
    assert result.report["last_loss"] != result.report["first_loss"]
    (file,) = result.weights.rglob("*.safetensors")
    if tuning["kind"] == "full":
        kept = WanTransformer3DModel._keep_in_fp32_modules
        for name, tensor in load_file(file).items():
            expected = torch.float32 if set(kept) & set(name.split(".")) else torch.bfloat16
            assert tensor.dtype == expected, name


def test_lora_of_an_image_model_loads_without_additions(
    tiny: Tiny, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """diffusers fills in layers for CLIP's image where it takes an adapter for one of text-to-video."""
    from diffusers import WanImageToVideoPipeline

    from finetrainers.training.export import export_weights
    from finetrainers.tuning import build_tuning

    subject = subject_of(tiny, tmp_path, "2.1-i2v", max_sequence_length=512)
    config, trainer = subject.config("run"), subject.trainer()
    trainer.train_step(subject.batch)
    weights = export_weights(trainer, config, subject.model, build_tuning(config.tuning))
    pipeline = WanImageToVideoPipeline.from_pretrained(subject.model_section["path"])
    pipeline.load_lora_weights(weights)
    assert not [record for record in caplog.records if "unexpected" in record.message or "missing" in record.message]


@torch.no_grad()
def test_the_first_latent_of_a_clip_is_what_the_pipeline_makes_of_its_first_frame(tiny: Tiny, tmp_path: Path) -> None:
    """TI2V 5B is given it in its place: the mean of the posterior, not a sample, and normalized alike."""
    from PIL import Image

    from finetrainers.models.vae import encode_pixels

    model = model_of(tiny, "2.2-ti2v-5b", task="image-to-video", dtype="float32")
    pipeline = model.pretrained.pipeline(model.pipeline_class, {"vae": model.pretrained.load("vae")})
    clip = torch.randint(0, 256, (1, 9, 64, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = encode_pixels(pipeline.vae, model.adapter, clip)
    picture = pipeline.video_processor.preprocess(Image.fromarray(clip[0, 0].numpy()), 64, 96)
    noise, size = torch.zeros(1), {"height": 64, "width": 96, "num_frames": 9}
    _, given, _ = pipeline.prepare_latents(
        picture, 1, num_channels_latents=48, dtype=torch.float32, device=torch.device("cpu"), latents=noise, **size
    )
    assert std is None
    torch.testing.assert_close(mean[:, :, :1], given, rtol=1e-4, atol=1e-5)
