"""Adapters added into the base's own weights, file by file and tensor by tensor: a model is never in memory as a whole."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from finetrainers.errors import ConfigError, ModelError
from finetrainers.export.base import names_in
from finetrainers.export.changes import Change, check_fits
from finetrainers.export.combine import total
from finetrainers.export.writing import CODES, DTYPES, Spec, cast_one, some, write_stream
from finetrainers.files.whole import to_json, write_whole
from finetrainers.models.weight_files import DIFFUSERS_FILE, index_name
from finetrainers.models.weights import kept_in_float32
from finetrainers.tuning.base import NOT_EXPORTED

Changes = Mapping[str, Sequence[tuple[Change, float]]]
"""By layer: what is added to its weight, and what it is multiplied by."""


def write_fused(
    folder: Path,
    files: Sequence[Path],
    settings: Mapping[str, Any],
    *,
    changes: Changes,
    replaced: Mapping[str, Tensor],
    dtype: str | None,
    metadata: Mapping[str, str],
) -> None:
    """Write full weights of one component, in diffusers' layout.

    Args:
        folder: Is made, and receives config and files.
        files: Of the weights that are changed.
        settings: The component's config.
        changes: What is added to them.
        replaced: Tensors that take the place of those of the same names, such as layers of a control.
        dtype: One of ``DTYPES``, for all but what diffusers keeps in float32; None leaves each as it is stored.
        metadata: Of the files.

    Raises:
        ConfigError: If changes are of layers that the weights have not, or are stored as no numbers that can be added to.
    """
    stored = {name: file for file in files for name in names_in(file)}
    names = set(stored)
    strange = sorted(({f"{layer}.weight" for layer in changes} | replaced.keys()) - names)
    if strange:
        raise ConfigError(f"--base: it has no {some(strange)}, which the adapter changes; name what it was trained from")
    folder.mkdir(parents=True)
    specs = {file: _specs(file, replaced, dtype, _kept(settings)) for file in files}
    for file in files:
        with safe_open(file, framework="pt") as opened:
            read = _reader(opened, specs[file], changes, replaced)
            write_stream(folder / file.name, specs[file], read, metadata)
    if len(files) > 1:
        sizes = {name: spec.bytes for own in specs.values() for name, spec in own.items()}
        index = {
            "metadata": {"total_size": sum(sizes.values())},
            "weight_map": {n: f.name for n, f in sorted(stored.items())},
        }
        write_whole(folder / index_name(DIFFUSERS_FILE), to_json(index, indent=2))
    own = {name: value for name, value in settings.items() if name not in NOT_EXPORTED}
    write_whole(folder / "config.json", to_json(own, indent=2))


def _reader(
    opened: Any, specs: Mapping[str, Spec], changes: Changes, replaced: Mapping[str, Tensor]
) -> Callable[[str], Tensor]:
    """Make each tensor of an open file as it is to be written."""

    def read(name: str) -> Tensor:
        tensor: Tensor = replaced[name] if name in replaced else opened.get_tensor(name)
        own = changes.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
        if own is not None:
            tensor = _changed(name, tensor, own)
        return cast_one(name, tensor, specs[name].dtype)

    return read


def _kept(settings: Mapping[str, Any]) -> frozenset[str]:
    """Names of the modules that stay in float32; none of a class that diffusers does not have."""
    import diffusers

    denoiser_class = getattr(diffusers, str(settings.get("_class_name")), None)
    return frozenset() if denoiser_class is None else kept_in_float32(denoiser_class)


def _changed(name: str, tensor: Tensor, own: Sequence[tuple[Change, float]]) -> Tensor:
    if not tensor.is_floating_point() or tensor.dtype.itemsize < 2:
        raise ConfigError(f"--base: {name} is stored as {tensor.dtype}, to which nothing can be added; name it in bfloat16")
    for change, _ in own:
        check_fits(change, tensor)
    added = total(name.removesuffix(".weight"), own, lambda _: tensor)
    return added.reshape(tensor.shape).add_(tensor)


def _specs(file: Path, replaced: Mapping[str, Tensor], dtype: str | None, kept: frozenset[str]) -> dict[str, Spec]:
    """What each tensor of a file becomes."""
    specs = {}
    with safe_open(file, framework="pt") as opened:
        for name in names_in(file):
            part = opened.get_slice(name)
            own = _dtype(part.get_dtype(), file)
            shape = tuple(replaced[name].shape) if name in replaced else tuple(part.get_shape())
            if dtype is not None and own.is_floating_point and not kept.intersection(name.split(".")):
                own = DTYPES[dtype]
            specs[name] = Spec(own, shape)
    return specs


def _dtype(code: str, file: Path) -> torch.dtype:
    found = next((dtype for dtype, own in CODES.items() if own == code), None)
    if found is None:
        raise ModelError(f"{file} has tensors of type {code}, which cannot be written; name the same model in bfloat16")
    return found
