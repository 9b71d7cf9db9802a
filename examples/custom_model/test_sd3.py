"""The adapter does what every family has to, and says to the model what the pipeline says."""

from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from tiny_sd3 import make_tiny_sd3

from finetrainers import Prompt
from finetrainers.testing import CHECKS, Subject

ADAPTER = f"{Path(__file__).with_name('sd3.py')}:StableDiffusion3"


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    """A tiny model with two pictures; both are encoded once, for all checks."""
    model = make_tiny_sd3(tmp_path_factory.mktemp("model"))
    section = {"path": str(model), "adapter": ADAPTER, "max_sequence_length": 16}
    return Subject(section, size=(1, 64, 96), folder=tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize("check", CHECKS)
def test_contract(check, subject):
    CHECKS[check](subject)


@torch.no_grad()
def test_the_model_hears_what_the_pipeline_says(subject):
    pipeline = DiffusionPipeline.from_pretrained(subject.model_section["path"])
    calls = []

    def record(module, arguments, named, output):
        calls.append((named, output[0]))

    hook = pipeline.transformer.register_forward_hook(record, with_kwargs=True)
    options = {"guidance_scale": 1.0, "max_sequence_length": 16, "output_type": "latent"}
    pipeline("a red ball", height=64, width=96, num_inference_steps=2, **options)
    hook.remove()
    told, answer = calls[1]
    adapter = subject.model.adapter
    text = adapter.encode_prompt(pipeline, ["a red ball"], max_length=16, device=torch.device("cpu"))
    sigma = told["timestep"][:, None] / 1000
    velocity = adapter.denoise(pipeline.transformer, told["hidden_states"][:, :, None], sigma, Prompt(text, torch.zeros(1)))
    torch.testing.assert_close(velocity[:, :, 0], answer, rtol=1e-5, atol=1e-6)
