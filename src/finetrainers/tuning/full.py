"""Full-rank tuning: the weights themselves."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from finetrainers.config import FullConfig
from finetrainers.distributed.parallelize import plain_class
from finetrainers.errors import ConfigError, ModelError
from finetrainers.files.whole import to_json
from finetrainers.models import ModelAdapter
from finetrainers.models.weights import copy_from_files, kept_in_float32
from finetrainers.tuning.base import ExportFacts, Tuning, exported_config, trained_parameters
from finetrainers.tuning.qat import rounded_layers, save_quantized, train_rounded


class FullTuning(Tuning):
    """Trains all parameters, or those whose names match a regular expression."""

    def __init__(self, config: FullConfig) -> None:
        self._pattern = config.modules
        self._start = config.start_from
        self._qat = config.qat

    def apply(
        self, denoiser: Any, adapter: ModelAdapter, *, component: str, seed: int, full_modules: Sequence[str] = ()
    ) -> None:
        if self._start is not None:
            _load(denoiser, self._start / component)
        if self._qat != "none":
            train_rounded(denoiser, self._qat, adapter.blocks)
        for name, parameter in denoiser.named_parameters():
            parameter.requires_grad_(self._pattern is None or re.search(self._pattern, name) is not None)
        if not trained_parameters(denoiser):
            some = ", ".join(name for name, _ in list(denoiser.named_parameters())[:3])
            raise ConfigError(f"tuning.modules: {self._pattern!r} matches no parameter; there are {some} ...")
        for name in full_modules:
            denoiser.get_submodule(name).requires_grad_(True)

    def without_adapter(self, denoiser: nn.Module) -> AbstractContextManager[None]:
        raise ConfigError(
            "tuning.kind: full trains the weights themselves, which leaves nothing of the base model that the objective "
            "compares with; set lora or lokr, or take another objective.kind"
        )

    def exported(self, denoiser: Any, facts: ExportFacts) -> Iterator[tuple[str, Tensor]]:
        kept = kept_in_float32(denoiser)
        for name, tensor in denoiser.state_dict().items():
            yield name, tensor.detach().to(torch.float32 if kept.intersection(name.split(".")) else facts.dtype)

    def export(self, denoiser: Any, tensors: Mapping[str, Tensor], directory: Path, facts: ExportFacts) -> None:
        with torch.device("meta"):
            made: Any = plain_class(denoiser)
            shell = made.from_config(exported_config(denoiser, facts))
        shell.load_state_dict(dict(tensors), assign=True)
        if self._qat == "none":
            shell.save_pretrained(directory / facts.component)
        else:
            save_quantized(shell, directory / facts.component, kind=self._qat, layers=rounded_layers(denoiser))

    def load_exported(self, pipeline: Any, directory: Path) -> None:
        for name in (file.parent.name for file in directory.glob("*/config.json")):
            old = getattr(pipeline, name)
            new = type(old).from_pretrained(directory / name, torch_dtype=old.dtype, use_safetensors=True).to(old.device)
            new.register_to_config(**{key: old.config[key] for key in ("in_channels", "out_channels") if key in old.config})
            pipeline.register_modules(**{name: new})

    def snippet(self, base: str, weights: str, components: Mapping[str, ExportFacts]) -> str:
        facts = next(iter(components.values()))
        dtype, pipeline_class = facts.dtype, facts.drawing_class
        loads = [
            f'{c} = AutoModel.from_pretrained({to_json(weights)}, subfolder="{c}", dtype={dtype})\n' for c in components
        ]
        given = ", ".join(f"{component}={component}" for component in components)
        needs = "" if self._qat == "none" else "# The weights are quantised: pip install torchao\n"
        return (
            f"{needs}import torch\n"
            f"from diffusers import AutoModel, {pipeline_class}\n\n"
            f"{''.join(loads)}"
            # Not DiffusionPipeline: without a word, it drops what is given in place of Wan's optional components.
            f"pipeline = {pipeline_class}.from_pretrained({to_json(base)}, {given}, dtype={dtype})\n"
        )


def _load(denoiser: Any, folder: Path) -> None:
    """Put exported weights into a denoiser, one tensor at a time.

    Raises:
        ConfigError: If they are of another model.
    """
    try:
        if "quantization_config" in json.loads((folder / "config.json").read_text()):
            saved = type(denoiser).from_pretrained(folder, torch_dtype=denoiser.dtype, use_safetensors=True)
            saved.dequantize()
            denoiser.load_state_dict(saved.state_dict())
        else:
            copy_from_files(denoiser, sorted(folder.glob("*.safetensors")))
    except (OSError, ValueError, RuntimeError, SafetensorError, ModelError) as error:
        raise ConfigError(
            f"tuning.start_from: {folder} does not fit ({str(error).splitlines()[0]}); name weights of the same model, "
            "tuning and conditioning"
        ) from error
