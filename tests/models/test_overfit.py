"""What training learns is what the pipeline draws: a model that has learned one item by heart draws its latents."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import CAPTION, Case, all_cases, load_pipeline
from torch import Tensor

from finetrainers import train
from finetrainers.batch import Posterior
from finetrainers.data.conditions import draw_latents
from finetrainers.models.vae import encode_pixels
from finetrainers.testing.model_under_test import FULL, ModelUnderTest

CASES = {name: case for name, case in all_cases().items() if case.overfit is not None}
FIRSTS = {(case.family, case.task): name for name, case in reversed(CASES.items()) if "hunyuan" not in name or "t2v" in name}
"""One of each family and task."""
OF_OTHERS = (
    "cogvideox 5b-i2v image-to-video",
    "flux kontext image-to-image",
    "ltx_video 0.9.0 image-to-video",
    "ltx_video 0.9.5 first-last-frame-to-video",
    "wan 2.1-flf2v first-last-frame-to-video",
)
"""Their family has another task among the first, and theirs is that of another family, or, of references and of last frames,
one that the contract and the exactness test look at."""
SHOWN = set(FIRSTS.values()) - set(OF_OTHERS)
"""The others are for `make test-long`."""
STEPS = 20
UNTRAINED = 0.8
"""Mean squared error of normalized latents, whose own mean square is about 1, that an untrained model has at least."""


class OneItem(ModelUnderTest):
    """A single item, shown again and again."""

    captions = (CAPTION,)


def draw(case: Case, model: Any, pipeline: Any, clip: Tensor) -> Tensor:
    """Normalized latents [1, C, F, H, W] that the pipeline draws for the item's caption and given frames."""
    _, height, width = case.size
    output = pipeline(
        prompt=CAPTION,
        height=height,
        width=width,
        num_inference_steps=STEPS,
        max_sequence_length=case.max_length,
        output_type="latent",
        generator=torch.Generator().manual_seed(3),
        return_dict=False,
        **case.pictures(pipeline, clip),
        **case.call,
    )[0]
    return case.latents(pipeline, torch.as_tensor(output), model.adapter.grid.latent_shape(case.size))


def error(drawn: Tensor, wanted: Tensor) -> float:
    """Mean squared error of the latent frames that are drawn: the last ones, where the first is given."""
    return (drawn - wanted[:, :, -drawn.shape[2] :]).square().mean().item()


@pytest.mark.parametrize("name", [name if name in SHOWN else pytest.param(name, marks=pytest.mark.long) for name in CASES])
def test_an_overfit_model_draws_its_item(
    name: str, tiny: Callable[[str, str], Path], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    case = CASES[name]
    subject = OneItem(case.section(tiny(case.family, case.variant)), case.size, tmp_path)
    settings: dict[str, Any] = {
        "optimizer": {"lr": 5e-3},
        "train": {"steps": 300, "batch_size": 4, "micro_batch_size": 4},
        "schedule": {"name": "cosine", "warmup_steps": 10},
        "checkpoint": {"every": 1000},
    }
    for section, changes in case.overfit.items():
        settings[section] = {**settings.get(section, {}), **changes}
    config = subject.config("overfit", FULL, **settings)
    result = train(config)
    model = case.open(tiny(case.family, case.variant))
    pipeline = load_pipeline(model)
    clip = subject.pixels()
    mode = Posterior(encode_pixels(pipeline.vae, model.adapter, clip)[0][0], std=None)
    wanted = draw_latents(mode, torch.Generator(), padding=model.adapter.grid.num_padding_frames(case.size[0]))[None]
    with torch.no_grad():
        untrained = error(draw(case, model, pipeline, clip), wanted)
        from finetrainers.tuning import build_tuning

        build_tuning(config.tuning).load_exported(pipeline, result.weights)
        learned = error(draw(case, model, pipeline, clip), wanted)
    record_property("errors", f"{learned:.4f} after, {untrained:.4f} before")
    print(f"{name}: {learned:.4f} after, {untrained:.4f} before")  # noqa: T201 - stated in the docs
    assert learned < case.learned
    assert untrained > UNTRAINED
