"""Kronecker adapters through peft."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from finetrainers.files.whole import to_json
from finetrainers.tuning.base import ExportFacts, write_tensors
from finetrainers.tuning.exported import SECOND, SETTINGS, adapter_files, load_layers
from finetrainers.tuning.lora import AdapterTuning


class LokrTuning(AdapterTuning):
    """Kronecker adapters: pipelines refuse to load them, the denoiser itself does not (diffusers 0.42)."""

    def _export_adapter(self, denoiser: Any, adapter: Mapping[str, Tensor], directory: Path, facts: ExportFacts) -> None:
        metadata = {**facts.metadata, SETTINGS: to_json(self._loading_settings(denoiser))}
        write_tensors(directory / facts.file, adapter, metadata)

    def load_exported(self, pipeline: Any, directory: Path) -> None:
        for component, file in adapter_files(directory).items():
            name = SECOND if component == SECOND else pipeline.transformer_name
            getattr(pipeline, name).load_lora_adapter(directory, prefix=None, weight_name=file.name)
        load_layers(pipeline, directory)

    def _adapting_line(self, weights: str, facts: ExportFacts) -> str:
        return self._loading_line(weights, facts).removeprefix("pipeline.")

    def _loading_line(self, weights: str, facts: ExportFacts) -> str:
        told = f"{to_json(weights)}, prefix=None, weight_name={to_json(facts.file)}"
        return f"pipeline.{facts.component}.load_lora_adapter({told})\n"
