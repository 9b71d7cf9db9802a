"""The files of an exported adapter: their names, and what stands in them."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from finetrainers.errors import ConfigError
from finetrainers.files.whole import listed

ADAPTER_NAME = "default"
"""peft's name of the adapter that trains."""
FILE, SECOND_FILE = "pytorch_lora_weights.safetensors", "pytorch_lora_weights_2.safetensors"
"""What diffusers and earlier versions call the file of an adapter, and what they called that of a second denoiser."""
FIRST, SECOND = "transformer", "transformer_2"
"""Names that diffusers gives to a denoiser, and to a second one."""
COMPONENT = "finetrainers.component"
"""Where the header of a file says of which component it is."""
PREFIX = "transformer."
"""Of the names in a file that a pipeline loads."""
SCALES = ("lora_alpha", "alpha", "use_rslora", "use_dora")
"""Settings of peft by which the same weights count differently."""
LOADING = ("r", "decompose_factor", *SCALES)
"""Settings of peft, besides the targets, that decide what a file of weights does."""
SETTINGS = "lora_adapter_metadata"
"""Where diffusers looks for them in the metadata of the file."""
LAYERS_FILE = "layers.safetensors"
"""Layers that are trained in full beside an adapter, in a folder of their component's name."""


def load_layers(pipeline: Any, directory: Path) -> None:
    """Put the layers that were trained in full beside an adapter into a pipeline."""
    for file in directory.glob(f"*/{LAYERS_FILE}"):
        getattr(pipeline, file.parent.name).load_state_dict(load_file(file), strict=False)


def adapter_state(denoiser: Any) -> dict[str, torch.Tensor]:
    """The adapter's own tensors, by their names in a file."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(denoiser, adapter_name=ADAPTER_NAME)
    return {name: tensor.detach() for name, tensor in state.items()}


def adapted_layers(denoiser: Any) -> list[str]:
    """Names of the layers that the adapter changes."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [name for name, module in denoiser.named_modules() if isinstance(module, BaseTunerLayer)]


def adapter_settings(file: Path) -> dict[str, Any]:
    """Read the settings of peft that stand in a file of weights."""
    with safe_open(file, framework="pt") as item:
        settings = json.loads((item.metadata() or {}).get(SETTINGS, "{}"))
    return {name.removeprefix(PREFIX): value for name, value in settings.items()}


def adapter_files(directory: Path) -> dict[str, Path]:
    """Find the files of adapters in a folder of weights, by component: named after their run, or as in earlier versions.

    Of a folder that a run made, what else somebody has put there does not count.

    Raises:
        ConfigError: If two are of one component.
        OSError: If a file cannot be read.
        SafetensorError: If a file is damaged.
    """
    found: dict[str, Path] = {}
    names = listed(directory)
    files = [file for file in directory.glob("*.safetensors") if names is None or file.name in names]
    for file in sorted(files):
        component = _component_of(file)
        if component in found:
            raise ConfigError(
                f"{directory} has two files of an adapter of {component}, {found[component].name} and {file.name}; leave "
                "the one there that is meant"
            )
        found[component] = file
    return found


def _component_of(file: Path) -> str:
    """Which component an adapter is of: its header says so, or else the name of its file."""
    with safe_open(file, framework="pt") as item:
        metadata = item.metadata() or {}
    return str(metadata.get(COMPONENT, SECOND if file.name == SECOND_FILE else FIRST))
