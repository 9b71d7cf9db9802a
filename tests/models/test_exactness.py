"""The adapters speak their pipelines' language: the same tensors go into the transformer, and the same come out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import CAPTION, Case, Recorder, all_cases, load_pipeline
from PIL import Image
from torch import Tensor

from finetrainers.batch import Prompt
from finetrainers.models.experts import expert_of

CASES = all_cases()
IGNORED = {"joint_attention_kwargs", "attention_kwargs", "return_dict"}


def random_clip(size: tuple[int, int, int], seed: int = 0) -> Tensor:
    """Pixels [1, K, P, Q, 3]."""
    return torch.randint(0, 256, (1, *size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def compare(ours: Any, theirs: Any, name: str, tolerance: float) -> None:
    """Tensors within a tolerance, numbers and all else exactly."""
    if isinstance(theirs, Tensor):
        same = {"rtol": 0, "atol": tolerance}
        torch.testing.assert_close(ours.to(theirs.dtype), theirs, **same, msg=lambda text: f"{name}: {text}")
    elif isinstance(theirs, tuple | list):
        assert len(ours) == len(theirs), name
        for number, pair in enumerate(zip(ours, theirs, strict=True)):
            one, other = (torch.as_tensor(value, dtype=torch.float32).squeeze() for value in pair)
            compare(one, other, f"{name}[{number}]", tolerance)
    else:
        assert ours == theirs, name


def encode_case(case: Case, model: Any, pipeline: Any, clip: Tensor) -> Prompt:
    """What our encoders make of the caption and of the given frames."""
    seen = [Image.fromarray(clip[0, 0].numpy())]
    text = model.encode_text(pipeline, [CAPTION], seen, device=torch.device("cpu"))
    image = model.adapter.encode_image(pipeline, clip, task=case.task) if model.takes_image else {}
    frames = torch.arange(model.adapter.grid.latent_shape(case.size)[1])
    given = None if case.given is None else torch.isin(frames, torch.tensor(case.given, dtype=torch.long))[None]
    references = () if case.references is None else case.references(pipeline, model, clip)
    return Prompt(text, torch.tensor([case.fps]), image, given, references)


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_the_transformer_is_called_as_the_pipeline_calls_it(name: str, tiny: Callable[[str, str], Path]) -> None:
    case = CASES[name]
    model = case.open(tiny(case.family, case.variant))
    pipeline = load_pipeline(model)
    if case.patch is not None:
        case.patch(pipeline)
    recorders = {name: Recorder(pipeline.components[name]) for name in model.denoisers.trained}
    for name, recorder in recorders.items():
        setattr(pipeline, name, recorder)
    clip, shape = random_clip(case.size), model.adapter.grid.latent_shape(case.size)
    _, height, width = case.size
    pipeline(
        prompt=CAPTION,
        height=height,
        width=width,
        num_inference_steps=3,
        max_sequence_length=case.max_length,
        output_type="latent",
        generator=torch.Generator().manual_seed(3),
        **case.pictures(pipeline, clip),
        **case.call,
    )
    recorder = max(recorders.values(), key=lambda recorder: len(recorder.calls))
    call = min(1, len(recorder.calls) - 1)  # the second, whose noise level is no round number, if there is one
    theirs, answer = recorder.calls[call], recorder.answers[call]
    x, sigma = case.read(pipeline, theirs, model)
    assert tuple(x.shape) == (1, *shape)
    denoiser = expert_of(model.denoisers.join(recorders), sigma.amax(1))
    velocity = model.adapter.denoise(denoiser, x, sigma, encode_case(case, model, pipeline, clip))
    ours = recorder.calls[-1]
    for key in sorted(set(theirs) - IGNORED - {"timestep"}):
        compare(ours.get(key), theirs[key], key, case.tolerance)  # left out is None
    # Training has sigma, the pipeline 1000 sigma: a rounding lies between. One time step may stand for all tokens.
    told = theirs["timestep"].float().expand_as(ours["timestep"])
    compare(ours["timestep"].float(), told, "timestep", 1000 * torch.finfo(torch.float32).eps)
    assert not set(ours) - set(theirs) - IGNORED
    torch.testing.assert_close(velocity, case.answer(pipeline, answer, shape), rtol=1e-5, atol=1e-6)
