"""Low-rank and Kronecker adapters through peft."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from finetrainers.config import LokrConfig, LoraConfig
from finetrainers.errors import ConfigError
from finetrainers.models import ModelAdapter
from finetrainers.tuning.base import Tuning, to_float32

ADAPTER_NAME = "default"
"""peft's name of the adapter that trains."""
FILE, SECOND_FILE = "pytorch_lora_weights.safetensors", "pytorch_lora_weights_2.safetensors"
"""Where pipelines look for an adapter, and where that of a second denoiser is, which they have to be told."""
SECOND = "transformer_2"
"""Name that diffusers gives to a second denoiser."""


class AdapterTuning(Tuning):
    """Trains a peft adapter in float32 over a frozen base."""

    needs_autocast = False  # peft casts the inputs of an adapter to its own type

    def __init__(self, config: LoraConfig | LokrConfig) -> None:
        self._config = config

    def apply(self, denoiser: Any, adapter: ModelAdapter, *, seed: int) -> None:
        targets = self._targets(denoiser, adapter)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            try:
                denoiser.add_adapter(self._peft_config(targets), adapter_name=ADAPTER_NAME)
            except ValueError as error:  # such as a regular expression that also matches what is no layer
                raise ConfigError(f"tuning.targets: {targets!r} cannot be adapted: {error}") from error
        to_float32(denoiser)

    def export(self, denoiser: Any, directory: Path, *, component: str, pipeline_class: Any, dtype: torch.dtype) -> None:
        from peft import get_peft_model_state_dict

        name = pipeline_class.transformer_name
        state = {k: v.detach().cpu().contiguous() for k, v in get_peft_model_state_dict(denoiser).items()}
        pipeline_class.save_lora_weights(
            directory,
            weight_name=SECOND_FILE if component == SECOND else FILE,
            **{
                f"{name}_lora_layers": state,
                f"{name}_lora_adapter_metadata": denoiser.peft_config[ADAPTER_NAME].to_dict(),
            },
        )

    def load_exported(self, pipeline: Any, directory: Path) -> None:
        if (directory / FILE).is_file():
            pipeline.load_lora_weights(directory, weight_name=FILE)
        if (directory / SECOND_FILE).is_file():
            pipeline.load_lora_weights(directory, weight_name=SECOND_FILE, load_into_transformer_2=True)

    def snippet(self, base: str, weights: str, *, components: Sequence[str], pipeline_class: str, dtype: torch.dtype) -> str:
        return (
            "import torch\n"
            f"from diffusers import {pipeline_class}\n\n"
            f'pipeline = {pipeline_class}.from_pretrained("{base}", torch_dtype={dtype})\n'
            f"{''.join(self._loading_line(weights, component) for component in components)}"
        )

    def _loading_line(self, weights: str, component: str) -> str:
        if component == SECOND:
            return f'pipeline.load_lora_weights("{weights}", weight_name="{SECOND_FILE}", load_into_transformer_2=True)\n'
        return f'pipeline.load_lora_weights("{weights}")\n'

    def _peft_config(self, targets: str | list[str]) -> Any:
        import peft

        match self._config:
            case LoraConfig() as lora:
                return peft.LoraConfig(
                    r=lora.rank,
                    lora_alpha=lora.alpha,
                    lora_dropout=lora.dropout,
                    target_modules=targets,
                    use_rslora=lora.rslora,
                    use_dora=lora.dora,
                )
            case LokrConfig() as lokr:
                return peft.LoKrConfig(
                    r=lokr.rank,
                    alpha=lokr.alpha,
                    decompose_factor=lokr.factor,
                    module_dropout=lokr.dropout,
                    target_modules=targets,
                )

    def _targets(self, denoiser: Any, adapter: ModelAdapter) -> str | list[str]:
        """Name the modules as peft takes them, each of which must be there."""
        targets = adapter.lora_targets if self._config.targets is None else self._config.targets
        names = [name for name, module in denoiser.named_modules() if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)]
        if isinstance(targets, str):
            if not any(re.fullmatch(targets, name) for name in names):
                raise ConfigError(f"tuning.targets: no layer's full name matches {targets!r}; there are {_some(names)}")
            return targets
        for target in targets:
            if not any(name == target or name.endswith(f".{target}") for name in names):
                raise ConfigError(f"tuning.targets: no layer's name ends in {target!r}; there are {_some(names)}")
        return list(targets)


class LokrTuning(AdapterTuning):
    """Kronecker adapters: pipelines refuse to load them, the denoiser itself does not (diffusers 0.42)."""

    def export(self, denoiser: Any, directory: Path, *, component: str, pipeline_class: Any, dtype: torch.dtype) -> None:
        weight_name = SECOND_FILE if component == SECOND else FILE
        denoiser.save_lora_adapter(directory, adapter_name=ADAPTER_NAME, weight_name=weight_name)

    def load_exported(self, pipeline: Any, directory: Path) -> None:
        for component, file in ((pipeline.transformer_name, FILE), (SECOND, SECOND_FILE)):
            if (directory / file).is_file():
                getattr(pipeline, component).load_lora_adapter(directory, prefix=None, weight_name=file)

    def _loading_line(self, weights: str, component: str) -> str:
        file = SECOND_FILE if component == SECOND else FILE
        return f'pipeline.{component}.load_lora_adapter("{weights}", prefix=None, weight_name="{file}")\n'


def _some(names: list[str]) -> str:
    return ", ".join(names[:2] + names[-2:]) + " ..."
