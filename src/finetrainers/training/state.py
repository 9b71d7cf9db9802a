"""The state of a run on the disk: tensors in safetensors, all else in JSON. To read it runs no code, whoever wrote it.

A tree is made of dicts with text for keys, lists, tuples, tensors, and plain values. JSON writes the shortest digits that
give a float back to the bit.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from finetrainers.errors import CheckpointError

Tree = Any  # what optimizers and schedules hold: checked when it is written
VERSION = 1
STATE_FILE = "state.json"
MAX_FILE_BYTES = 1 << 30
"""Size from which a further file is begun: bounds what is held in the host's memory beside the state itself."""


@dataclass(frozen=True, slots=True)
class SavedTensor:
    """A tensor on the disk."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], Tensor]


def write_state(state: Mapping[str, Tree], directory: Path) -> None:
    """Write a tree into a directory.

    Raises:
        CheckpointError: If it holds what cannot be written whole.
    """
    files = _TensorFiles(directory)
    text = json.dumps({"version": VERSION, "state": _encode(state, "", files)})
    files.flush()
    (directory / STATE_FILE).write_text(text, encoding="utf-8")


@dataclass(slots=True)
class _TensorFiles:
    """Takes tensors one by one, and writes some of them at a time."""

    directory: Path
    count: int = 0
    """Files that are written."""
    waiting: dict[str, Tensor] = field(default_factory=dict)
    """Of the next file, on the CPU."""

    def add(self, name: str, tensor: Tensor) -> dict[str, Tree]:
        """Take a tensor; say where it will be."""
        # A copy: tensors may share memory, which safetensors refuses, and are restored as tensors of their own.
        kept = whole_tensor(name, tensor).detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        if self.waiting and sum(t.nbytes for t in self.waiting.values()) + kept.nbytes > MAX_FILE_BYTES:
            self.flush()
        self.waiting[name] = kept
        return {"tensor": name, "file": self._name(), "shape": list(kept.shape), "dtype": str(kept.dtype)}

    def flush(self) -> None:
        """Write what waits."""
        if self.waiting:
            save_file(self.waiting, self.directory / self._name())
            self.waiting, self.count = {}, self.count + 1

    def _name(self) -> str:
        return f"state-{self.count:05d}.safetensors"


def whole_tensor(name: str, tensor: Tensor) -> Tensor:
    """Return a tensor as it is here, if all of it is.

    Raises:
        CheckpointError: If other processes have parts of it, or if it is of a kind that files do not know.
    """
    if isinstance(tensor, DTensor):
        if not all(placement.is_replicate() for placement in tensor.placements):
            raise CheckpointError(f"{name}: this process has a part of the tensor only; it cannot be saved as the whole")
        tensor = tensor.to_local()
    if type(tensor) not in (Tensor, nn.Parameter, nn.Buffer):
        raise CheckpointError(f"{name}: a tensor of type {type(tensor).__name__} cannot be saved")
    return tensor


def _encode(value: Tree, name: str, files: _TensorFiles) -> Tree:
    """Turn a tree into what JSON knows: dicts, tuples and tensors are objects that say what they are."""
    match value:
        case Tensor():
            return files.add(name, value)
        case None | bool() | int() | float() | str():
            return value
        case list() | tuple():
            items = [_encode(item, f"{name}/{index}", files) for index, item in enumerate(value)]
            return items if isinstance(value, list) else {"tuple": items}
        case Mapping() if all(isinstance(key, str) and "/" not in key for key in value):
            return {"dict": {key: _encode(item, f"{name}/{key}", files) for key, item in value.items()}}
    raise CheckpointError(f"{name}: {type(value).__name__} cannot be saved in a checkpoint")


def read_state(directory: Path) -> dict[str, Tree]:
    """Read a tree; its tensors are read when they are asked for.

    Raises:
        CheckpointError: If it is not what ``write_state`` writes.
    """
    opened: dict[str, Any] = {}  # safetensors has no types

    def read(file: str, name: str) -> Tensor:
        if file not in opened:
            opened[file] = safe_open(directory / file, framework="pt")
        tensor: Tensor = opened[file].get_tensor(name)
        return tensor

    try:
        contents = json.loads((directory / STATE_FILE).read_text(encoding="utf-8"))
        if contents["version"] != VERSION:
            raise CheckpointError(
                f"{directory}: the checkpoint has version {contents['version']}, and this version of finetrainers reads "
                f"{VERSION}; go on with the version that wrote it, or take another output_dir"
            )
        state: dict[str, Tree] = _decode(contents["state"], read)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{directory}: the checkpoint cannot be read ({error})") from error
    return state


def _decode(value: Tree, read: Callable[[str, str], Tensor]) -> Tree:
    match value:
        case {"tensor": str(name), "file": str(file), "shape": list(shape), "dtype": str(dtype)}:
            return SavedTensor(tuple(shape), dtype, partial(read, file, name))
        case {"tuple": list(items)}:
            return tuple(_decode(item, read) for item in items)
        case {"dict": dict(items)}:
            return {key: _decode(item, read) for key, item in items.items()}
        case list():
            return [_decode(item, read) for item in value]
        case dict():
            raise ValueError(f"{STATE_FILE} holds an unknown object with {', '.join(value)}")
    return value


def leaves(tree: Tree, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Tree]]:
    """Tensors and plain values with their places; a list of plain values is one of them."""
    match tree:
        case Mapping():
            for key, item in tree.items():
                yield from leaves(item, (*path, key))
        case list() | tuple() if any(isinstance(item, Mapping | Tensor | SavedTensor) for item in tree):
            for index, item in enumerate(tree):
                yield from leaves(item, (*path, str(index)))
        case _:
            yield path, tree


def load_into(state: Mapping[str, Tree], saved: Mapping[str, Tree]) -> dict[str, Tree]:
    """Return the saved tree with its tensors read into those of ``state``, as far as these have the same form.

    So a device holds no second copy of them.
    """
    places = {path: leaf for path, leaf in leaves(state) if isinstance(leaf, Tensor)}
    used: set[int] = set()

    def place(path: tuple[str, ...], tensor: SavedTensor) -> Tensor:
        own = places.get(path)
        if own is None:
            return tensor.read().clone()
        is_free = own.untyped_storage().data_ptr() not in used  # else another would be overwritten
        if not (is_free and tuple(own.shape) == tensor.shape and str(own.dtype) == tensor.dtype):
            return tensor.read().to(own.device, copy=True)
        used.add(own.untyped_storage().data_ptr())
        return own.copy_(tensor.read())

    with torch.no_grad():
        loaded: dict[str, Tree] = _replaced(saved, (), place)
    return loaded


def _replaced(tree: Tree, path: tuple[str, ...], place: Callable[[tuple[str, ...], SavedTensor], Tensor]) -> Tree:
    match tree:
        case SavedTensor():
            return place(path, tree)
        case Mapping():
            return {key: _replaced(item, (*path, key), place) for key, item in tree.items()}
        case list() | tuple():
            items = [_replaced(item, (*path, str(index)), place) for index, item in enumerate(tree)]
            return items if isinstance(tree, list) else tuple(items)
    return tree
