"""Low-rank adapters through peft, and what all of peft's adapters share."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from finetrainers.config import LokrConfig, LoraConfig
from finetrainers.distributed.parallelize import beside_parts
from finetrainers.errors import ConfigError
from finetrainers.files.whole import to_json, write_whole
from finetrainers.models import ModelAdapter
from finetrainers.tuning.base import ExportFacts, Tuning, exported_config, write_tensors
from finetrainers.tuning.exported import (
    ADAPTER_NAME,
    LAYERS_FILE,
    LOADING,
    PREFIX,
    SCALES,
    SECOND,
    SETTINGS,
    adapter_files,
    adapter_settings,
    adapter_state,
    load_layers,
)
from finetrainers.tuning.targets import find_targets, why_not


class AdapterTuning(Tuning):
    """Trains a peft adapter over a frozen base."""

    def __init__(self, config: LoraConfig | LokrConfig) -> None:
        self._config = config
        self._full_modules: tuple[str, ...] = ()

    def apply(
        self, denoiser: Any, adapter: ModelAdapter, *, component: str, seed: int, full_modules: Sequence[str] = ()
    ) -> None:
        wanted = adapter.lora_targets if self._config.targets is None else self._config.targets
        targets = find_targets(denoiser, wanted)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            try:
                with beside_parts():  # DoRA's magnitudes begin as norms of weights, which may be shards
                    denoiser.add_adapter(self._peft_config(targets), adapter_name=ADAPTER_NAME)
            except ValueError as error:
                raise ConfigError(f"tuning.targets: {why_not(denoiser, targets, error)}") from error
        for name in full_modules:
            if hasattr(denoiser.get_submodule(name), "base_layer"):
                raise ConfigError(f"tuning.targets: {targets!r} has {name}, which conditioning trains in full; leave it out")
        for name in full_modules:
            denoiser.get_submodule(name).requires_grad_(True)
        self._full_modules = tuple(full_modules)
        if self._config.start_from is not None:
            self._begin_from(denoiser, self._config.start_from, component)

    @contextmanager
    def without_adapter(self, denoiser: nn.Module) -> Iterator[None]:
        from peft.tuners.tuners_utils import BaseTunerLayer

        if self._full_modules:
            raise ConfigError(
                f"conditioning: channel_concat trains {self._full_modules[0]} itself, which leaves nothing of the base "
                "model that the objective compares with; remove it, or take another objective.kind"
            )
        layers = [module for module in denoiser.modules() if isinstance(module, BaseTunerLayer)]
        try:
            for layer in layers:
                layer.enable_adapters(False)
            yield
        finally:
            for layer in layers:
                layer.enable_adapters(True)

    def exported(self, denoiser: Any, facts: ExportFacts) -> Iterator[tuple[str, Tensor]]:
        yield from adapter_state(denoiser).items()
        yield from ((name, parameter.detach()) for name, parameter in self._full_layers(denoiser).items())

    def export(self, denoiser: Any, tensors: Mapping[str, Tensor], directory: Path, facts: ExportFacts) -> None:
        layers = {name: tensors[name] for name in self._full_layers(denoiser)}
        adapter = {name: tensor for name, tensor in tensors.items() if name not in layers}
        self._export_adapter(denoiser, adapter, directory, facts)
        if layers:
            (directory / facts.component).mkdir(parents=True)
            write_tensors(directory / facts.component / LAYERS_FILE, layers, facts.metadata)
            settings = to_json(exported_config(denoiser, facts), indent=2)
            write_whole(directory / facts.component / "config.json", settings)

    def _export_adapter(self, denoiser: Any, adapter: Mapping[str, Tensor], directory: Path, facts: ExportFacts) -> None:
        import diffusers

        pipeline_class = getattr(diffusers, facts.pipeline_class)
        name = pipeline_class.transformer_name
        settings = {f"{name}.{key}": value for key, value in self._loading_settings(denoiser).items()}

        def write(tensors: Mapping[str, Tensor], file: str) -> None:
            write_tensors(Path(file), tensors, {**facts.metadata, SETTINGS: to_json(settings)})

        layers = {f"{name}_lora_layers": dict(adapter)}
        pipeline_class.save_lora_weights(directory, weight_name=facts.file, save_function=write, **layers)

    def _loading_settings(self, denoiser: Any) -> dict[str, Any]:
        """What peft has to be told of the adapter to load it; its other settings concern training, or are defaults."""
        peft = denoiser.peft_config[ADAPTER_NAME]
        targets = peft.target_modules if isinstance(peft.target_modules, str) else sorted(peft.target_modules)
        return {"target_modules": targets, **{name: getattr(peft, name) for name in LOADING if hasattr(peft, name)}}

    def _begin_from(self, denoiser: Any, directory: Path, component: str) -> None:
        """Put exported weights into a denoiser whose adapter is new.

        Raises:
            ConfigError: If they have other names or shapes.
        """
        from peft import get_peft_model_state_dict, set_peft_model_state_dict

        try:
            file = adapter_files(directory).get(component)
            if file is None:
                raise ConfigError(
                    f"tuning.start_from: {directory} holds no adapter of {component}; name weights that a run has exported"
                )
            saved, settings = load_file(file), adapter_settings(file)
            layers_file = directory / component / LAYERS_FILE
            layers = load_file(layers_file) if layers_file.exists() else {}
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"tuning.start_from: {directory} cannot be read: {error}") from error
        adapter = {name.removeprefix(PREFIX): tensor for name, tensor in saved.items()}
        for key, value in denoiser.peft_config[ADAPTER_NAME].to_dict().items():
            if key in SCALES and settings.get(key, value) != value:
                raise ConfigError(
                    f"tuning.start_from: {directory} was trained with {key}: {settings[key]}, not {value}, and would count "
                    "otherwise; set tuning as it was"
                )
        for found, own in ((adapter, get_peft_model_state_dict(denoiser)), (layers, self._full_layers(denoiser))):
            shapes, wanted = ({name: tensor.shape for name, tensor in tensors.items()} for tensors in (found, own))
            wrong = {name for name, _ in shapes.items() ^ wanted.items()}
            if wrong:
                raise ConfigError(
                    f"tuning.start_from: {directory} does not fit: {len(wrong)} tensors are others or missing, such as "
                    f"{min(wrong)}; tuning and conditioning have to be those of the run that exported it"
                )
        with beside_parts():
            set_peft_model_state_dict(denoiser, adapter, adapter_name=ADAPTER_NAME)
        denoiser.load_state_dict(layers, strict=False)

    def _full_layers(self, denoiser: Any) -> dict[str, torch.nn.Parameter]:
        """Parameters that train in full beside the adapter."""
        modules = {name: denoiser.get_submodule(name) for name in self._full_modules}
        return {f"{name}.{own}": p for name, module in modules.items() for own, p in module.named_parameters()}

    def load_exported(self, pipeline: Any, directory: Path) -> None:
        for component, file in adapter_files(directory).items():
            second = {"load_into_transformer_2": True} if component == SECOND else {}
            pipeline.load_lora_weights(directory, weight_name=file.name, **second)
        load_layers(pipeline, directory)

    def snippet(self, base: str, weights: str, components: Mapping[str, ExportFacts]) -> str:
        facts = next(iter(components.values()))
        if facts.settings:
            return self._widened_snippet(base, weights, components)
        return (
            "import torch\n"
            f"from diffusers import {facts.drawing_class}\n\n"
            f"pipeline = {facts.drawing_class}.from_pretrained({to_json(base)}, dtype={facts.dtype})\n"
            f"{''.join(self._loading_line(weights, own) for own in components.values())}"
        )

    def _widened_snippet(self, base: str, weights: str, components: Mapping[str, ExportFacts]) -> str:
        """As ``snippet``, for denoisers of more inputs with layers that are trained in full."""
        facts = next(iter(components.values()))
        loads = ""
        for name, own in components.items():
            changes = ", ".join(f"{key}={value}" for key, value in facts.settings.items())
            file = f'hf_hub_download({to_json(weights)}, "{name}/{LAYERS_FILE}")'
            file = to_json(f"{weights}/{name}/{LAYERS_FILE}") if Path(weights).is_absolute() else file
            loads += (
                f'{name} = AutoModel.from_pretrained({to_json(base)}, subfolder="{name}", {changes}, dtype={facts.dtype},\n'
                "    ignore_mismatched_sizes=True, low_cpu_mem_usage=False)\n"
                f"{name}.load_state_dict(load_file({file}), strict=False)\n"
                f"{self._adapting_line(weights, own)}"
            )
        given = ", ".join(f"{name}={name}" for name in components)
        hub = "" if Path(weights).is_absolute() else "from huggingface_hub import hf_hub_download\n"
        return (
            f"import torch\nfrom diffusers import AutoModel, {facts.drawing_class}\n{hub}"
            f"from safetensors.torch import load_file\n\n{loads}"
            f"pipeline = {facts.drawing_class}.from_pretrained({to_json(base)}, {given}, dtype={facts.dtype})\n"
        )

    def _adapting_line(self, weights: str, facts: ExportFacts) -> str:
        """Line that loads the adapter into a component; not all pipelines of control can (CogView4's, diffusers 0.42)."""
        told = f'{to_json(weights)}, prefix="transformer", weight_name={to_json(facts.file)}'
        return f"{facts.component}.load_lora_adapter({told})\n"

    def _loading_line(self, weights: str, facts: ExportFacts) -> str:
        """Line that loads the adapter; offline, and where there are several files, diffusers has to be told its name."""
        second = ", load_into_transformer_2=True" if facts.component == SECOND else ""
        return f"pipeline.load_lora_weights({to_json(weights)}, weight_name={to_json(facts.file)}{second})\n"

    def _peft_config(self, targets: str | list[str]) -> Any:
        import peft

        match self._config:
            case LoraConfig() as lora:
                return peft.LoraConfig(
                    r=lora.rank_value,
                    lora_alpha=lora.alpha_value,
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
