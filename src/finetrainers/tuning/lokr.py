"""Kronecker adapters through peft."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from finetrainers.files.whole import to_json
from finetrainers.tuning.base import ExportFacts, write_tensors
from finetrainers.tuning.exported import FILE, SECOND, SECOND_FILE, SETTINGS, file_of, load_layers
from finetrainers.tuning.lora import AdapterTuning


class LokrTuning(AdapterTuning):
    """Kronecker adapters: pipelines refuse to load them, the denoiser itself does not (diffusers 0.42)."""

    def _export_adapter(self, denoiser: Any, adapter: Mapping[str, Tensor], directory: Path, facts: ExportFacts) -> None:
        metadata = {**facts.metadata, SETTINGS: to_json(self._loading_settings(denoiser))}
        write_tensors(directory / file_of(facts.component), adapter, metadata)

    def load_exported(self, pipeline: Any, directory: Path) -> None:
        for component, file in ((pipeline.transformer_name, FILE), (SECOND, SECOND_FILE)):
            if (directory / file).is_file():
                getattr(pipeline, component).load_lora_adapter(directory, prefix=None, weight_name=file)
        load_layers(pipeline, directory)

    def _adapting_line(self, weights: str, component: str) -> str:
        return self._loading_line(weights, component).removeprefix("pipeline.")

    def _loading_line(self, weights: str, component: str) -> str:
        return f'pipeline.{component}.load_lora_adapter("{weights}", prefix=None, weight_name="{file_of(component)}")\n'
