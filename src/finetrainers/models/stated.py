"""What an adapter has to state, looked at when one is made: each mistake is one message with the class and the fact."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor

from finetrainers.batch import Text
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
    """Refuse what ``encode_prompt`` returned, if it is not tensors [B, ...] by name.

    Raises:
        ModelError: Saying what it is.
    """
    wanted = "return a mapping of names to tensors [B, T, D] or [B, D], B the number of captions"
    own = f"{type(adapter).__name__}: encode_prompt"
    if not isinstance(text, Mapping):
        raise ModelError(f"{own} returns a {type(text).__name__}; {wanted}")
    for name, tensor in text.items():
        if not isinstance(tensor, Tensor):
            raise ModelError(f"{own} returns a {type(tensor).__name__} as {name!r}; {wanted}")
        if tensor.ndim == 0 or len(tensor) != count:
            raise ModelError(f"{own} returns {name!r} of shape {list(tensor.shape)} for {count} captions; {wanted}")
    return text


def statistic(value: Any, name: str, adapter: ModelAdapter) -> Tensor:
    """Make the tensor [C] of a statistic that a VAE has under a name.

    Raises:
        ModelError: If it has none.
    """
    if value is None:
        where = {"buffers": "buffer", "config": "entry in its config.json"}[adapter.latents.statistics]
        raise ModelError(
            f"{type(adapter).__name__}: latents.statistics: {adapter.latents.statistics!r}, but the VAE has no {where} "
            f"{name}; state another one: shift_scale (shift_factor and scaling_factor), buffers or config"
        )
    return torch.as_tensor(value).float().cpu()
