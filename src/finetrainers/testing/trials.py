"""Checks of what a family says of its prompts for trials of speed and memory, which take no data."""

from unittest import SkipTest

import torch

from finetrainers.errors import ModelError
from finetrainers.testing.model_under_test import ModelUnderTest
from finetrainers.training.synthetic import synthetic_batch

CPU = torch.device("cpu")


def check_blank_prompts_are_as_encoded_ones(subject: ModelUnderTest) -> None:
    """A batch that is made without encoders has the names, shapes and types of an encoded one; prompts are the longest."""
    real = subject.batch
    try:
        made = synthetic_batch(subject.config("run"), subject.model, subject.size, len(real.positions), device=CPU)
    except ModelError as error:
        raise SkipTest(str(error)) from None
    assert made.latents.shape == real.latents.shape, f"latents {tuple(made.latents.shape)}, not {tuple(real.latents.shape)}"
    length = max((own.shape[1] for own in made.prompt.text.values() if own.ndim == 3), default=0)
    for part in ("text", "image"):
        blank, encoded = getattr(made.prompt, part), getattr(real.prompt, part)
        assert blank.keys() == encoded.keys(), f"the names of blank {part} are {sorted(blank)}, not {sorted(encoded)}"
        for name, tensor in encoded.items():
            shapes = [list(own.shape) for own in (blank[name], tensor)]
            if part == "text" and tensor.ndim > 1 and shapes[0][1] == length:
                shapes[1][1] = length  # of families whose prompts are as long as their captions
            assert shapes[0] == shapes[1], f"blank {name} has shape {shapes[0]}, not {shapes[1]}"
            assert blank[name].dtype == tensor.dtype, f"blank {name} is {blank[name].dtype}, not {tensor.dtype}"


TRIAL_CHECKS = (check_blank_prompts_are_as_encoded_ones,)
