"""The twin of a model: the same pipeline of the same classes, shrunk from its config files, with random weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from finetrainers.errors import ModelError
from finetrainers.models import Model
from finetrainers.training.rehearse.shrink import Tree, Widths, small_denoiser, small_encoder, small_vae

MAX_WEIGHTS = 300_000_000
"""Of one component of a twin: more is no rehearsal for a laptop."""


def write_twin(model: Model, directory: Path) -> Path:
    """Write the twin of a model into a new directory, and return the directory. Only config files and tokenizers are read.

    Raises:
        ModelError: If a component cannot be made: from its config, or small.
    """
    pretrained = model.pretrained
    index = dict(pretrained.index)
    components = [name for name, value in index.items() if isinstance(value, list) and value[0] is not None]
    directory.mkdir(parents=True)
    classes = {name: pretrained.component_class(name) for name in components}
    weighty = [name for name in components if issubclass(classes[name], torch.nn.Module)]
    settings = {name: dict(pretrained.settings(name)) for name in weighty}
    denoisers = (*model.denoisers.trained, *model.denoisers.frozen)
    widths = Widths.of(own for name, own in settings.items() if name not in ("vae", *denoisers))
    for name in components:
        if name not in weighty:
            pretrained.load(name).save_pretrained(directory / name)
            continue
        small = _small(name, settings[name], widths, denoisers)
        _write(classes[name], small, directory / name, name)
    (directory / "model_index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")
    return directory


def _small(name: str, settings: Mapping[str, Any], widths: Widths, denoisers: tuple[str, ...]) -> Tree:
    if name in denoisers:
        return small_denoiser(settings, widths)
    return small_vae(settings) if name == "vae" else small_encoder(settings, widths)


def _write(component_class: Any, settings: Tree, directory: Path, name: str) -> None:
    """Make a component of its config at random, and save it.

    Raises:
        ModelError: If it cannot be made, or is large all the same.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        try:
            with torch.device("meta"):
                count = sum(own.numel() for own in _make(component_class, settings).parameters())
            if count > MAX_WEIGHTS:
                raise ModelError(
                    f"{name}: the twin of {component_class.__name__} has {count / 1e6:.0f} million weights: its config has "
                    "sizes by other names than are known, and it cannot be rehearsed"
                )
            component = _make(component_class, settings)
        except (TypeError, ValueError, RuntimeError, AttributeError, KeyError) as error:
            raise ModelError(f"{name}: {component_class.__name__} cannot be made small from its config: {error}") from error
    component.save_pretrained(directory)


def _make(component_class: Any, settings: Tree) -> Any:
    from transformers import PreTrainedModel

    if issubclass(component_class, PreTrainedModel):
        return component_class(component_class.config_class.from_dict(settings))
    return component_class.from_config(settings)
