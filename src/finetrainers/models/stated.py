"""What an adapter has to state, looked at when one is made: each mistake is one message with the class and the fact."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor

from finetrainers.batch import Image, Prompt, Text, is_length
from finetrainers.errors import ModelError
from finetrainers.models.base import ModelAdapter
from finetrainers.models.facts import TABLES

NEEDED = {
    "pipelines": '{"text-to-image": "NameOfThePipeline"}',
    "blocks": '("NameOfTheBlock",)',
    "input_layer": '"name.of.the.layer"',
    "training": 'TrainingFacts(noise_levels=NoiseLevels("uniform"))',
}
"""Facts without a default, and what each looks like."""
WAYS_TO_LATENTS = {
    3: ": put tokens [B, N, D] back in their places, the reverse of arrange",
    4: ": with an axis of frames, such as velocity[:, :, None]",
    5: ": without channels of control, and of all frames",
}
"""What is missing in a velocity of so many axes."""


def check_needed(adapter: type[ModelAdapter]) -> None:
    """Refuse a class of adapters that leaves out a fact which has no default.

    Raises:
        ModelError: Naming all of them.
    """
    missing = [name for name in NEEDED if name not in dir(adapter)]
    if missing:
        lines = ", ".join(f"{name} = {NEEDED[name]}" for name in missing)
        raise ModelError(f"{adapter.__name__}: it does not state {', '.join(missing)}; add to the class: {lines}")


def check_stated(adapter: ModelAdapter) -> None:
    """Refuse facts of another kind, and pipelines that diffusers does not have.

    Raises:
        ModelError: Naming the first.
    """
    import diffusers

    own = type(adapter).__name__
    for name, table in TABLES.items():
        value = getattr(adapter, name)
        if not isinstance(value, table):
            raise ModelError(f"{own}: {name}: {value!r} is no {table.__name__}; state {name} = {table.__name__}(...)")
    blocks: object = adapter.blocks  # a user's class is checked by nobody else
    if isinstance(blocks, str):
        raise ModelError(f"{own}: blocks: {blocks!r} is one name; state a tuple: blocks = ({blocks!r},)")
    pictures = adapter.pictures
    places: dict[str, object] = {
        "pipelines": adapter.pipelines,
        "tasks": adapter.tasks,
        "pictures.control_pipelines": pictures.control_pipelines,
        "pictures.reference_pipelines": pictures.reference_pipelines,
    }
    known = dir(diffusers)  # imports none of them
    for place, pipelines in places.items():
        if not isinstance(pipelines, Mapping) or (not pipelines and place in ("pipelines", "tasks")):
            raise ModelError(f"{own}: {place}: {pipelines!r} names no task; state {place} = {NEEDED['pipelines']}")
        for task, pipeline in pipelines.items():
            if pipeline not in known:
                close = get_close_matches(str(pipeline), known, n=1)
                hint = f"did you mean {close[0]!r}?" if close else "name a class of diffusers"
                raise ModelError(f"{own}: {place}: diffusers has no {pipeline!r} ({task}); {hint}")


def check_text(text: Any, adapter: ModelAdapter, count: int) -> Text:
    """Refuse what ``encode_prompt`` returned, if it is not tensors [B, T, D] or [B, D] by name, or lengths int64 [B].

    Raises:
        ModelError: Saying what it is.
    """
    wanted = "return a mapping of names to tensors [B, T, D] or [B, D], B the number of captions"
    own = f"{type(adapter).__name__}: encode_prompt"
    checked = _rows(text, own, f"{count} captions", wanted, count=count)
    for name, tensor in checked.items():
        if tensor.ndim not in (2, 3) and not is_length(tensor):
            raise ModelError(
                f"{own} returns {name!r} of shape {list(tensor.shape)}, of {tensor.ndim} axes; {wanted}"
                f"{': further axes are part of D' if tensor.ndim > 3 else ''}"
            )
    return checked


def check_image(image: Any, adapter: ModelAdapter, count: int) -> Image:
    """Refuse what ``encode_image`` returned, if it is not tensors [B, ...] by name.

    Raises:
        ModelError: Saying what it is.
    """
    wanted = "return a mapping of names to tensors [B, ...], B the number of clips"
    return _rows(image, f"{type(adapter).__name__}: encode_image", f"{count} clips", wanted, count=count)


def _rows(found: Any, own: str, what: str, wanted: str, *, count: int) -> Mapping[str, Tensor]:
    """Refuse what a method returned, if it is not a mapping of names to tensors of ``count`` rows."""
    if not isinstance(found, Mapping):
        raise ModelError(f"{own} returns a {type(found).__name__}; {wanted}")
    for name, tensor in found.items():
        if not isinstance(tensor, Tensor):
            raise ModelError(f"{own} returns a {type(tensor).__name__} as {name!r}; {wanted}")
        if tensor.ndim == 0 or len(tensor) != count:
            raise ModelError(f"{own} returns {name!r} of shape {list(tensor.shape)} for {what}; {wanted}")
    rows: Mapping[str, Tensor] = found
    return rows


def about_given(latents: Tensor, prompt: Prompt) -> str:
    """Say in which shapes ``denoise`` was given what it failed with."""
    given = {"latents": latents, **prompt.text, **prompt.image}
    shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in given.items())
    flat = [name for name, tensor in prompt.text.items() if tensor.ndim == 2]
    hint = f"; encode_prompt returned {', '.join(flat)} as [B, D], without an axis of tokens" if flat else ""
    return f"denoise was given {shapes}{hint}"


def check_velocity(answer: Any, adapter: ModelAdapter, expected: Sequence[int]) -> Tensor:
    """Refuse what ``denoise`` returned, if it is not the velocity of each latent of a shape [B, C, F, H, W].

    A loss would broadcast it, or end with the error of a library.

    Raises:
        ModelError: Saying what it is.
    """
    if isinstance(answer, Tensor) and answer.shape == tuple(expected):
        return answer
    if not isinstance(answer, Tensor):
        found, way = f"a {type(answer).__name__}", ": its tensor alone, such as denoiser(..., return_dict=False)[0]"
    else:
        found, way = f"shape {list(answer.shape)}", WAYS_TO_LATENTS.get(answer.ndim, "")
    raise ModelError(
        f"{type(adapter).__name__}: denoise returns {found} for latents [B, C, F, H, W] of shape {list(expected)}; "
        f"return their velocity, of the same shape{way}"
    )


def check_latents(latents: Tensor, adapter: ModelAdapter, size: tuple[int, int, int]) -> Tensor:
    """Refuse latents [B, C, F, H, W] of another shape than the grid says for a size (frames, height, width).

    Raises:
        ModelError: Naming both.
    """
    expected = list(adapter.grid.encoded_shape(size))
    if list(latents.shape[1:]) != expected:
        raise ModelError(
            f"{type(adapter).__name__}: make_grid says that {list(size)} gives latents [C, F, H, W] of shape {expected}, "
            f"but the VAE makes {list(latents.shape[1:])}; correct channels, vae_step or vae_frame_step of its Grid"
        )
    return latents


def statistic(value: Any, name: str, adapter: ModelAdapter) -> Tensor:
    """Make the tensor [C], or [1] for all channels, of a statistic that a VAE has under a name.

    Raises:
        ModelError: If it has none, or of other channels.
    """
    own, channels = f"{type(adapter).__name__}: latents.statistics", adapter.grid.channels
    if value is None:
        where = {"buffers": "buffer", "config": "entry in its config.json"}[adapter.latents.statistics]
        raise ModelError(
            f"{own}: {adapter.latents.statistics!r}, but the VAE has no {where} "
            f"{name}; state another one: shift_scale (shift_factor and scaling_factor), buffers or config"
        )
    numbers = torch.as_tensor(value).float().cpu().flatten()
    if len(numbers) not in (1, channels):
        raise ModelError(
            f"{own}: the VAE's {name} has shape [{len(numbers)}], but make_grid says {channels} channels: expected is "
            f"[{channels}]; correct channels of its Grid, or the VAE's config.json"
        )
    return numbers
