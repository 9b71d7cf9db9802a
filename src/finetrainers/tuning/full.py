"""Full-rank tuning: the weights themselves."""

import re
from pathlib import Path
from typing import Any

import torch

from finetrainers.config import FullConfig
from finetrainers.errors import ConfigError
from finetrainers.models import ModelAdapter
from finetrainers.tuning.base import Tuning, to_float32, trained_parameters


class FullTuning(Tuning):
    """Trains all parameters, or those whose names match a regular expression."""

    needs_autocast = True

    def __init__(self, config: FullConfig) -> None:
        self._pattern = config.modules

    def apply(self, denoiser: Any, adapter: ModelAdapter, *, seed: int) -> None:
        for name, parameter in denoiser.named_parameters():
            parameter.requires_grad_(self._pattern is None or re.search(self._pattern, name) is not None)
        if not trained_parameters(denoiser):
            some = ", ".join(name for name, _ in list(denoiser.named_parameters())[:3])
            raise ConfigError(f"tuning.modules: {self._pattern!r} matches no parameter; there are {some} ...")
        to_float32(denoiser)

    def export(self, denoiser: Any, directory: Path, *, pipeline_class: Any, dtype: torch.dtype) -> None:
        state = {name: tensor.detach().to("cpu", dtype, copy=True) for name, tensor in denoiser.state_dict().items()}
        with torch.device("meta"):
            shell = type(denoiser).from_config(denoiser.config)
        shell.load_state_dict(state, assign=True)
        shell.save_pretrained(directory / pipeline_class.transformer_name)

    def load_exported(self, pipeline: Any, directory: Path) -> None:
        name = pipeline.transformer_name
        old = getattr(pipeline, name)
        new = type(old).from_pretrained(directory / name, torch_dtype=old.dtype).to(old.device)
        pipeline.register_modules(**{name: new})

    def snippet(self, base: str, weights: str, *, denoiser: str, dtype: torch.dtype) -> str:
        return (
            "import torch\n"
            "from diffusers import AutoModel, DiffusionPipeline\n\n"
            f'{denoiser} = AutoModel.from_pretrained("{weights}", subfolder="{denoiser}", torch_dtype={dtype})\n'
            f'pipeline = DiffusionPipeline.from_pretrained("{base}", {denoiser}={denoiser}, torch_dtype={dtype})\n'
        )
