"""Runs that were never trained: a configuration and random weights, laid out as a run leaves them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from runs import Tree, config_of, flux_tree, merged
from torch import Tensor

from finetrainers.conditioning import build_conditioning
from finetrainers.config import dump_config
from finetrainers.files.steps import step_directory
from finetrainers.files.whole import whole_directory, write_whole
from finetrainers.models import open_model
from finetrainers.training.export import file_metadata
from finetrainers.tuning import ExportFacts, build_tuning
from finetrainers.tuning.exported import FILE, SECOND_FILE

STEP = 12
Deltas = dict[str, Tensor]
"""What an adapter adds to each layer's weight, by its name in diffusers."""


def make_run(
    model: Path, root: Path, tuning: Tree, *, components: Sequence[str] = ("transformer",), seed: int = 0, **sections: Any
) -> tuple[Path, dict[str, Any]]:
    """Lay out a run whose adapter, or full weights, are random; return it, and its denoisers with what it trained."""
    tree = merged(flux_tree(model, root / "data", root, output_dir=str(root / "run")), {"tuning": tuning, **sections})
    config = config_of(tree)
    opened, conditioning = open_model(config.model), build_conditioning(config.conditioning)
    made, folder = {}, step_directory(config.output_dir / "weights", STEP)
    folder.parent.mkdir(parents=True)
    write_whole(config.output_dir / "config.yaml", dump_config(config))
    with torch.random.fork_rng(devices=[]), whole_directory(folder) as temporary:
        torch.default_generator.manual_seed(seed)
        for component in components:
            built, denoiser = build_tuning(config.tuning), opened.pretrained.load_denoiser(component, torch.device("cpu"))
            conditioning.prepare(denoiser, opened.adapter)
            modules = conditioning.trained_modules(denoiser, opened.adapter)
            built.apply(denoiser, opened.adapter, component=component, seed=0, full_modules=modules)
            with torch.no_grad():
                for parameter in denoiser.parameters():
                    if parameter.requires_grad:
                        parameter.add_(torch.randn_like(parameter), alpha=0.1)
            metadata = file_metadata(config, opened, step=STEP) | {"finetrainers.component": component}
            settings = conditioning.exported_settings(denoiser, opened.adapter)
            file = FILE if component == "transformer" else SECOND_FILE  # as earlier versions named them
            facts = ExportFacts(component, opened.pipeline_class, torch.float32, settings, file=file, metadata=metadata)
            built.export(denoiser, dict(built.exported(denoiser, facts)), temporary, facts)
            made[component] = denoiser
    return config.output_dir, made


def deltas(denoiser: Any) -> Deltas:
    """What peft adds to each layer's weight, by its own count."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = {name: own for name, own in denoiser.named_modules() if isinstance(own, BaseTunerLayer)}
    found = {}
    with torch.no_grad():
        for name, layer in layers.items():
            before = layer.get_base_layer().weight.clone()
            layer.merge()
            found[name] = layer.get_base_layer().weight - before
            layer.unmerge()
            layer.get_base_layer().weight.copy_(before)
    return found


def added(tensors: Mapping[str, Tensor], layer: str) -> Tensor:
    """What ComfyUI and kohya's tools add for a layer: alpha is divided by the inner dimension, if there is one."""
    names = (("lora_B.weight", "lora_A.weight"), ("lora_up.weight", "lora_down.weight"))
    found = next(
        ((tensors[f"{layer}.{up}"], tensors[f"{layer}.{down}"]) for up, down in names if f"{layer}.{up}" in tensors), None
    )
    if found is not None:
        product, rank = found[0].float() @ found[1].float(), len(found[1])
    else:
        first = tensors[f"{layer}.lokr_w1"]
        rank = len(tensors[f"{layer}.lokr_w2_b"]) if f"{layer}.lokr_w2_b" in tensors else None
        whole = f"{layer}.lokr_w2"
        second = tensors[whole] if rank is None else tensors[f"{whole}_a"] @ tensors[f"{whole}_b"]
        product = torch.kron(first, second)
    alpha = tensors.get(f"{layer}.alpha")
    return product if alpha is None or rank is None else product * (alpha.item() / rank)
