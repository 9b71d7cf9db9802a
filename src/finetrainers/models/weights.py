"""A component of diffusers as a shell without weights, and what fills it, tensor by tensor."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from finetrainers.distributed.parallelize import copy_whole
from finetrainers.distributed.reading import SharedReading
from finetrainers.errors import ModelError

Weights = Literal["stored", "random", "none"]
"""What a shell is filled with: the model's files, random numbers, or nothing: it stays on the meta device."""
Settle = Callable[[nn.Module, str], None]
"""Called with a component and the name of each of its modules that has parameters of its own, once they are on the device:
what is stored otherwise than it was read, such as quantised, is made so here, and never exists twice."""
RANDOM_DEVIATION = 0.02
"""Standard deviation of random weights, as transformers are initialized with."""


def make_shell(component_class: Any, settings: Any, dtype: torch.dtype) -> Any:
    """Make a component as its config has it: parameters without memory on the meta device, buffers as they are computed.

    Args:
        component_class: One of diffusers' models.
        settings: Its config.
        dtype: Data type of its parameters, but for those that its class keeps in float32.
    """
    import accelerate
    from diffusers.models.modeling_utils import no_init_weights

    with _default_dtype(dtype), no_init_weights(), accelerate.init_empty_weights():
        shell = component_class.from_config(settings).eval().requires_grad_(False)
    kept = kept_in_float32(shell)
    for name, tensor in shell.state_dict(keep_vars=True).items():
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(torch.float32 if kept.intersection(name.split(".")) else dtype)
    return shell


def undrawn(weights: Weights) -> AbstractContextManager[None]:
    """Let modules be made without drawing their weights, where there are none; a shell that is made inside ends that."""
    from diffusers.models.modeling_utils import no_init_weights

    return no_init_weights() if weights == "none" else nullcontext()


def kept_in_float32(denoiser: Any) -> frozenset[str]:
    """Names of the modules that diffusers loads in float32, whatever type is asked for (Wan's time embedding, norms).

    Args:
        denoiser: One of diffusers' models, or its class.
    """
    return frozenset(denoiser._keep_in_fp32_modules or ())


def read_settings(file: Path) -> dict[str, Any]:
    """Read a JSON file that lies beside weights, or at the top of a pipeline.

    Raises:
        ModelError: If it cannot be read, or holds something else than keys and values.
    """
    try:
        settings: object = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file}: is damaged or not whole ({error}); download it again") from error
    if not isinstance(settings, dict):
        raise ModelError(f"{file}: holds no keys and values; download it again")
    return settings


def files_in_index(index: Path) -> list[str]:
    """Names of the files of weights that an index has.

    Raises:
        ModelError: If it cannot be read, or has none.
    """
    places = read_settings(index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(file, str) for file in places.values()):
        raise ModelError(f"{index}: has no weight_map, which names the files of weights; download it again")
    return sorted(set(places.values()))


def fill_from_files(
    shell: Any,
    files: Sequence[Path],
    device: torch.device,
    settle: Settle | None = None,
    reading: SharedReading | None = None,
) -> None:
    """Read a shell's weights from safetensors files: each tensor is read, cast, and put on the device before the next.

    What the files have beside them, such as layers of another version, is passed over. Where several processes fill theirs
    together, one of each host reads.

    Raises:
        ModelError: If tensors are missing or of other shapes.
    """
    left = _count_by_module(shell)
    wanted = shell.state_dict(keep_vars=True)
    stored = _stored(shell, files)
    for name, tensor in stored if reading is None else reading.share(stored, wanted):
        _put(shell, name, tensor.to(wanted[name].dtype), device)
        _settle_if_whole(shell, name, left, settle)
    _move_buffers(shell, device)


@torch.no_grad()
def copy_from_files(module: Any, files: Sequence[Path]) -> None:
    """Copy a module's weights from safetensors files, one tensor at a time.

    Raises:
        ModelError: If tensors are missing or of other shapes.
    """
    own = module.state_dict(keep_vars=True)
    for name, tensor in _stored(module, files):
        copy_whole(own[name], tensor)


def check_stored(module: Any, files: Sequence[Path]) -> None:
    """Look whether files hold all that a module saves, by their headers alone.

    Raises:
        ModelError: If there is something missing, of another shape, or if a file is cut off.
    """
    wanted = {name: tensor.shape for name, tensor in module.state_dict(keep_vars=True).items()}
    missing = dict.fromkeys(wanted)
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                found = {name: torch.Size(opened.get_slice(name).get_shape()) for name in opened.keys() if name in missing}  # noqa: SIM118  # no mapping
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file}: is damaged or not whole ({error}); download it again") from error
        for name, shape in found.items():
            _check_shape(module, file, name, shape, wanted[name])
            del missing[name]
    _refuse_missing(module, files, list(missing))


def _check_shape(module: Any, file: Path, name: str, found: torch.Size, wanted: torch.Size) -> None:
    if found != wanted:
        raise ModelError(
            f"{file}: {name} has shape {list(found)}, and {type(module).__name__} of this config.json needs {list(wanted)}"
        )


def _refuse_missing(module: Any, files: Sequence[Path], missing: Sequence[str]) -> None:
    if missing:
        where = files[0].parent if files else "no file"
        raise ModelError(
            f"{where}: {len(missing)} tensors of {type(module).__name__} are missing, such as {', '.join(missing[:3])}"
        )


def _stored(module: Any, files: Sequence[Path]) -> Iterator[tuple[str, Tensor]]:
    """Read all that a module saves: names, and tensors on the host.

    Raises:
        ModelError: If there is something missing, or of another shape.
    """
    wanted = module.state_dict(keep_vars=True)
    missing = dict.fromkeys(wanted)
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118  # no mapping
                if name not in missing:
                    continue
                tensor = opened.get_tensor(name)
                _check_shape(module, file, name, tensor.shape, wanted[name].shape)
                del missing[name]
                yield name, tensor
    _refuse_missing(module, files, list(missing))


def fill_at_random(shell: Any, device: torch.device, settle: Settle | None = None) -> None:
    """Fill a shell with normal numbers, the same on each device: for trials of speed and memory."""
    left = _count_by_module(shell)
    for number, (name, tensor) in enumerate(shell.state_dict(keep_vars=True).items()):
        value = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
        if tensor.is_floating_point() and isinstance(tensor, nn.Parameter):
            value.normal_(0, RANDOM_DEVIATION, generator=torch.Generator(device).manual_seed(number))
        else:
            value.zero_()
        _put(shell, name, value, device)
        _settle_if_whole(shell, name, left, settle)
    _move_buffers(shell, device)


def leave_empty(shell: Any, settle: Settle | None = None) -> None:
    """Leave a shell on the meta device, with its buffers, as if it were filled."""
    shell.to("meta")
    if settle is not None:
        for name in _count_by_module(shell):
            settle(shell, name)


def _put(shell: nn.Module, name: str, value: Tensor, device: torch.device) -> None:
    """Give a shell one of its parameters or buffers."""
    owner, _, own = name.rpartition(".")
    module = shell.get_submodule(owner)
    value = value.contiguous().to(device)
    if own in module._parameters:
        module._parameters[own] = nn.Parameter(value, requires_grad=False)
    else:
        module._buffers[own] = value


def _move_buffers(shell: nn.Module, device: torch.device) -> None:
    """Move what is computed from the config; parameters are where they were put, or settled."""
    for module in shell.modules():
        module._buffers.update({name: None if own is None else own.to(device) for name, own in module._buffers.items()})


def _count_by_module(shell: nn.Module) -> dict[str, int]:
    """Modules by name that have parameters of their own, with how many tensors of them are saved."""
    counts: dict[str, int] = {}
    with_parameters = {name.rpartition(".")[0] for name, _ in shell.named_parameters()}
    for name in shell.state_dict():
        owner = name.rpartition(".")[0]
        if owner in with_parameters:
            counts[owner] = counts.get(owner, 0) + 1
    return counts


def _settle_if_whole(shell: nn.Module, name: str, left: dict[str, int], settle: Settle | None) -> None:
    owner = name.rpartition(".")[0]
    if owner not in left:
        return
    left[owner] -= 1
    if not left[owner] and settle is not None:
        settle(shell, owner)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """As diffusers loads: buffers that are computed from the config are made in the model's type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
