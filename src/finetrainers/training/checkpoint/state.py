"""The state of a run on the disk: tensors in safetensors, all else in JSON. To read it runs no code, whoever wrote it.

A tree is made of dicts with text for keys, lists, tuples, tensors, and plain values. JSON writes the shortest digits that
give a float back to the bit. A tensor is in one piece or in many, written by as many processes: whoever reads it takes the
box that it needs, from whichever pieces have some of it.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.distributed.tensor import DTensor

from finetrainers.distributed.parts import Box, Part, own_part, whole, with_part
from finetrainers.errors import CheckpointError

Tree = Any  # what optimizers and schedules hold: checked when it is written
VERSION = 2
VERSIONS = (1, 2)
"""Those that are read; version 1 has whole tensors only."""
STATE_FILE = "state.json"


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a tensor, under the tensor's name in a file."""

    file: str
    box: Box | None
    """None: all of it."""


@dataclass(frozen=True, slots=True)
class SavedTensor:
    """A tensor on the disk."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    pieces: tuple[Piece, ...]
    open: Callable[[str], Any]  # safetensors has no types

    def read(self, box: Box | None = None) -> Tensor:
        """Read what a box of it holds, by default all; from no more of the files than that.

        Raises:
            ValueError: If the files do not have it.
        """
        box = whole(self.shape) if box is None else box
        made = torch.empty(box.shape, dtype=getattr(torch, self.dtype.removeprefix("torch.")))
        left = box.num_elements
        for piece in self.pieces:
            place = whole(self.shape) if piece.box is None else piece.box
            shared = place.shared(box)
            if shared is not None:
                made[shared.slices_in(box)] = self._cut(piece.file, place, shared)
                left -= shared.num_elements
        if left:
            raise ValueError(f"{self.name}: {left} of {box.num_elements} numbers are in none of the files")
        return made

    def _cut(self, file: str, place: Box, wanted: Box) -> Tensor:
        found = self.open(file).get_slice(self.name)
        if tuple(found.get_shape()) != place.shape:
            raise ValueError(f"{file}: {self.name} has the shape {found.get_shape()}, not {list(place.shape)}")
        if place == wanted:
            tensor: Tensor = self.open(file).get_tensor(self.name)
        else:
            tensor = found[wanted.slices_in(place)]
        if str(tensor.dtype) != self.dtype:
            raise ValueError(f"{file}: {self.name} has the type {tensor.dtype}, not {self.dtype}")
        return tensor


@dataclass(frozen=True, slots=True)
class SavedParts:
    """Trees on the disk, each of what one process has of a tensor and bound to that part of it."""

    shape: tuple[int, ...]
    """Of the whole."""
    parts: Mapping[Box, Tree]


def read_state(directory: Path) -> dict[str, Tree]:
    """Read a tree; its tensors are read when they are asked for.

    Raises:
        CheckpointError: If it is not what ``write_state`` writes.
    """

    @cache
    def opened(file: str) -> Any:
        return safe_open(directory / file, framework="pt")

    try:
        contents = json.loads((directory / STATE_FILE).read_text(encoding="utf-8"))
        if contents["version"] not in VERSIONS:
            raise CheckpointError(
                f"{directory}: the checkpoint has version {contents['version']}, and this version of finetrainers reads "
                f"{' and '.join(map(str, VERSIONS))}; continue with the version that wrote it, or choose another output_dir"
            )
        reader = _Reader(opened, contents.get("files", []), contents.get("pieces", {}), contents.get("parts", {}))
        state: dict[str, Tree] = reader.decode(contents["state"])
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise CheckpointError(f"{directory}: the checkpoint cannot be read ({error})") from error
    return state


@dataclass(frozen=True, slots=True)
class _Reader:
    """Turns what JSON knows into a tree."""

    open: Callable[[str], Any]
    files: list[str]
    pieces: Mapping[str, list[tuple[int, list[int], list[int]]]]
    """By the name of the tensor: number of the file, offset and shape."""
    parts: Mapping[str, list[tuple[list[int], list[int], Tree]]]
    """By the name of what is bound to them: offset, shape, and the tree."""

    def decode(self, value: Tree) -> Tree:
        match value:
            case {"tensor": str(name), "file": str(file), "shape": list(shape), "dtype": str(dtype)}:
                return SavedTensor(name, tuple(shape), dtype, (Piece(file, None),), self.open)
            case {"tensor": str(name), "shape": list(shape), "dtype": str(dtype)}:
                found = self.pieces.get(name, [])
                pieces = tuple(Piece(self.files[number], Box(tuple(at), tuple(size))) for number, at, size in found)
                return SavedTensor(name, tuple(shape), dtype, pieces, self.open)
            case {"parts": str(name), "shape": list(shape)}:
                parts = {Box(tuple(at), tuple(size)): self.decode(tree) for at, size, tree in self.parts[name]}
                return SavedParts(tuple(shape), parts)
            case {"tuple": list(items)}:
                return tuple(self.decode(item) for item in items)
            case {"dict": dict(items)}:
                return {key: self.decode(item) for key, item in items.items()}
            case list():
                return [self.decode(item) for item in value]
            case dict():
                raise ValueError(f"{STATE_FILE} holds an unknown object with {', '.join(value)}")
        return value


def leaves(tree: Tree, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Tree]]:
    """Tensors and plain values with their places; a list of plain values is one of them."""
    match tree:
        case Mapping():
            for key, item in tree.items():
                yield from leaves(item, (*path, key))
        case list() | tuple() if any(isinstance(item, Mapping | Tensor | SavedTensor | SavedParts | Part) for item in tree):
            for index, item in enumerate(tree):
                yield from leaves(item, (*path, str(index)))
        case _:
            yield path, tree


def load_into(state: Mapping[str, Tree], saved: Mapping[str, Tree]) -> dict[str, Tree]:
    """Return the saved tree with its tensors read into those of ``state``, as far as these have the same form.

    So a device holds no second copy of them, and of sharded tensors a process reads its own part alone.

    Raises:
        ValueError: If a part does not fit.
    """
    with torch.no_grad():
        loaded: dict[str, Tree] = _replaced(saved, (), _Places(dict(leaves(state))).put)
    return loaded


class _Places:
    """Where tensors are read into."""

    def __init__(self, own: Mapping[tuple[str, ...], Tree]) -> None:
        self._own = own
        self._used: set[int] = set()

    def put(self, path: tuple[str, ...], saved: SavedTensor | SavedParts) -> Tree:
        own = self._own.get(path)
        if isinstance(saved, SavedParts):
            return _own_of(saved, own, ".".join(path))
        if not isinstance(own, Tensor):
            return saved.read()
        if isinstance(own, DTensor) and tuple(own.shape) != saved.shape:
            raise ValueError(f"{'.'.join(path)} has the shape {list(saved.shape)}, and is spread as {list(own.shape)}")
        box, local = own_part(own)
        is_alike = tuple(own.shape) == saved.shape and str(own.dtype) == saved.dtype
        if is_alike and local.untyped_storage().data_ptr() not in self._used:  # else another would be overwritten
            self._used.add(local.untyped_storage().data_ptr() if local.numel() else 0)
            local.copy_(saved.read(box))
            return own
        if isinstance(own, DTensor):
            return with_part(own, saved.read(box).to(local.device))
        return saved.read().to(own.device)


def _own_of(saved: SavedParts, own: Tree, name: str) -> Part:
    """Take the part that is as large as what this process has."""
    if isinstance(own, Part) and not own.box.num_elements:
        return own
    if not isinstance(own, Part) or own.box not in saved.parts:
        raise ValueError(f"{name} is that of parts which are cut otherwise")
    return Part(own.box, own.shape, _replaced(saved.parts[own.box], (), _Places(dict(leaves(own.value))).put))


def _replaced(tree: Tree, path: tuple[str, ...], place: Callable[[tuple[str, ...], Any], Tree]) -> Tree:
    match tree:
        case SavedTensor() | SavedParts():
            return place(path, tree)
        case Mapping():
            return {key: _replaced(item, (*path, key), place) for key, item in tree.items()}
        case list() | tuple():
            items = [_replaced(item, (*path, str(index)), place) for index, item in enumerate(tree)]
            return items if isinstance(tree, list) else tuple(items)
    return tree
