"""Full weights in diffusers' layout: the base with adapters added, or those of full tuning in another data type."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from finetrainers.errors import ConfigError
from finetrainers.export.base import Base, needed, weight_files
from finetrainers.export.fused import write_fused
from finetrainers.export.header import header
from finetrainers.export.source import Source, component_settings
from finetrainers.files.whole import whole_directory

FUSED = "fused"


def write_full(
    folder: Path, sources: Sequence[Source], factors: Sequence[float], base: Base | None, *, dtype: str | None
) -> None:
    """Write a folder with a folder of full weights for each component that was trained; a source of full weights is alone.

    Raises:
        ConfigError: If the folder is there, or if the adapters cannot be added to the base.
    """
    if folder.exists():
        raise ConfigError(f"--output: {folder} exists; name another folder, or move it away")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole_directory(folder) as temporary:
        for component in dict.fromkeys(name for source in sources for name in (*source.adapters, *source.full)):
            about = header(sources, factors, component, names=None, to=FUSED, changed=True)
            if sources[0].full:
                _rewrite(temporary / component, sources[0].full[component], dtype, about)
            else:
                own = needed(base, "the adapter is added to it")
                _fuse(temporary / component, component, sources, factors, own, dtype=dtype, about=about)


def _rewrite(folder: Path, full: Path, dtype: str | None, about: Mapping[str, str]) -> None:
    settings = component_settings(full)
    if "quantization_config" in settings:
        raise ConfigError(f"export: {full} is quantised, and diffusers loads it as it is; nothing else can be made of it")
    write_fused(folder, weight_files(full), settings, changes={}, replaced={}, dtype=dtype, metadata=about)


def _fuse(
    folder: Path,
    component: str,
    sources: Sequence[Source],
    factors: Sequence[float],
    base: Base,
    *,
    dtype: str | None,
    about: Mapping[str, str],
) -> None:
    settings: dict[str, Any] = base.settings(component)
    changes: dict[str, list[Any]] = {}
    replaced: dict[str, Tensor] = {}
    for source, factor in zip(sources, factors, strict=True):
        adapter = source.adapters.get(component)
        if adapter is None:
            continue
        for layer, change in adapter.changes.items():
            changes.setdefault(layer, []).append((change, factor))
        if adapter.layers is not None:
            if len(sources) > 1 or factor != 1.0:
                raise ConfigError(
                    f"--weights: {source.path} has layers of a control, which are added to nothing; name it alone"
                )
            replaced = load_file(adapter.layers)
            settings = component_settings(adapter.layers.parent)
    write_fused(folder, base.files(component), settings, changes=changes, replaced=replaced, dtype=dtype, metadata=about)
