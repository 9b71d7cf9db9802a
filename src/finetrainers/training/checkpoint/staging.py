"""The first phase of a checkpoint: what this process will write of a state, in the host's memory, which no step changes."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from finetrainers.distributed.groups import by_bytes
from finetrainers.distributed.parts import Box, Part, Writers, own_part
from finetrainers.errors import CheckpointError
from finetrainers.files.whole import Facts, file_facts
from finetrainers.training.checkpoint.state import STATE_FILE, VERSION, Tree

MAX_FILE_BYTES = 1 << 30
"""Size from which a further file is begun: bounds what is held in the host's memory beside the state itself."""
Place = tuple[int, tuple[int, ...], tuple[int, ...]]
"""Number of the file, offset and shape."""


@dataclass(frozen=True, slots=True)
class Report:
    """What one process has written."""

    digest: str
    """Of the tree without its tensors, which is to be the same in all."""
    files: Sequence[str]
    pieces: Mapping[str, Place]
    parts: Mapping[str, tuple[Box, Tree]]
    facts: Facts
    """Of its files, for the manifest."""


@dataclass(slots=True)
class Staged:
    """What one process will write of a state."""

    text: str
    """JSON of the tree without its tensors."""
    sizes: dict[str, int]
    """Numbers in each tensor, by its name, and in each of which there are parts."""
    parts: dict[str, tuple[Box, Tree]]
    files: list[str]
    pieces: dict[str, Place]
    tensors: Iterator[dict[str, Tensor]]
    """Of each file."""
    events: Sequence[torch.cuda.Event] = ()
    """After which the copies are there."""

    def write(self, directory: Path) -> Report:
        """Write the files of this process, and flush them to the disk."""
        for event in self.events:
            event.synchronize()
        for file, tensors in zip(self.files, self.tensors, strict=True):
            save_file(tensors, directory / file)
            tensors.clear()
        facts = file_facts(directory, [directory / file for file in self.files])
        digest = hashlib.blake2b(self.text.encode(), digest_size=16).hexdigest()
        return Report(digest, self.files, self.pieces, self.parts, facts)


def stage(state: Mapping[str, Tree], *, rank: int = 0, size: int = 1, copies: bool = True) -> Staged:
    """Copy what this process has to write of a tree; all processes do, and their trees differ in the tensors' parts alone.

    Args:
        state: The tree.
        rank: Of this process.
        size: How many there are.
        copies: Now; else file by file, as they are written, for which nothing may change meanwhile.

    Raises:
        CheckpointError: If it holds what cannot be written.
    """
    walk = _Walk(Writers(rank, size))
    text = json.dumps(walk.encode(state, ""))
    prefix = "state" if size == 1 else f"state-rank-{rank:05d}"
    pieces: dict[str, Place] = {}
    groups = list(by_bytes(walk.mine, lambda each: each[2], MAX_FILE_BYTES))
    for number, group in enumerate(groups):
        pieces |= {name: (number, box.offset, box.shape) for name, box, _ in group}
    tensors: Iterator[dict[str, Tensor]] = (
        {name: to_host(tensor, waits=not copies) for name, _, tensor in group} for group in groups
    )
    events: Sequence[torch.cuda.Event] = ()
    if copies:
        tensors = iter(list(tensors))
        events = copied(tensor for _, _, tensor in walk.mine)
    files = [f"{prefix}-{number:05d}.safetensors" for number in range(len(groups))]
    return Staged(text, walk.sizes, walk.parts, files, pieces, tensors, events)


def combined(staged: Staged, reports: Sequence[Report]) -> str:
    """Return the text of ``state.json``, which says where all processes have written all tensors.

    Raises:
        CheckpointError: If they do not fit together.
    """
    others = [rank for rank, report in enumerate(reports) if report.digest != reports[0].digest]
    if others:
        raise CheckpointError(f"process {others[0]} has another state than process 0, apart from its parts of the tensors")
    files: list[str] = []
    pieces: dict[str, dict[Box, int]] = {}
    parts: dict[str, dict[Box, Tree]] = {}
    for report in reports:
        for name, (number, offset, shape) in report.pieces.items():
            pieces.setdefault(name, {}).setdefault(Box(offset, shape), len(files) + number)  # some replicas write it twice
        for name, (box, tree) in report.parts.items():
            parts.setdefault(name, {}).setdefault(box, tree)
        files += report.files
    for name, wanted in staged.sizes.items():
        found = sum(box.num_elements for box in (*pieces.get(name, ()), *parts.get(name, ())))
        if found != wanted:
            raise CheckpointError(f"{name}: the processes have {found} of its {wanted} numbers")
    tree = {
        "version": VERSION,
        "files": files,
        "pieces": {name: [(file, *_listed(box)) for box, file in own.items()] for name, own in pieces.items()},
        "parts": {name: [(*_listed(box), tree) for box, tree in own.items()] for name, own in parts.items()},
    }
    return f'{json.dumps(tree)[:-1]}, "state": {staged.text}}}'


def write_state(state: Mapping[str, Tree], directory: Path) -> None:
    """Write a tree of this process alone into a directory.

    Raises:
        CheckpointError: If it holds what cannot be written whole.
    """
    staged = stage(state, copies=False)
    (directory / STATE_FILE).write_text(combined(staged, [staged.write(directory)]), encoding="utf-8")


@dataclass(slots=True)
class _Walk:
    """Goes through a tree: takes what this process writes of its tensors, and says what is to be in JSON."""

    writers: Writers
    mine: list[tuple[str, Box, Tensor]] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    parts: dict[str, tuple[Box, Tree]] = field(default_factory=dict)

    def encode(self, value: Tree, name: str) -> Tree:
        """Turn a tree into what JSON knows: dicts, tuples and tensors are objects that say what they are."""
        match value:
            case Tensor():
                return self._tensor(value, name)
            case Part():
                return self._part(value, name)
            case None | bool() | int() | float() | str():
                return value
            case list() | tuple():
                items = [self.encode(item, f"{name}/{index}") for index, item in enumerate(value)]
                return items if isinstance(value, list) else {"tuple": items}
            case Mapping() if all(isinstance(key, str) and "/" not in key for key in value):
                return {"dict": {key: self.encode(item, f"{name}/{key}") for key, item in value.items()}}
        raise CheckpointError(f"{name}: {type(value).__name__} cannot be saved in a checkpoint")

    def _tensor(self, tensor: Tensor, name: str) -> Tree:
        try:
            box, local = own_part(tensor)
        except ValueError as error:
            raise CheckpointError(f"{name}: {error}, and cannot be saved") from error
        if type(local) not in (Tensor, nn.Parameter, nn.Buffer):
            raise CheckpointError(f"{name}: a tensor of type {type(local).__name__} cannot be saved")
        self.sizes[name] = math.prod(tensor.shape)
        if self.writers.is_mine(tensor) and box.num_elements:
            self.mine.append((name, box, local))
        return {"tensor": name, "shape": list(tensor.shape), "dtype": str(tensor.dtype)}

    def _part(self, part: Part, name: str) -> Tree:
        """Take what is bound to the part of this process, all of it."""
        own = _Walk(Writers(0, 1))
        label = "-".join(map(str, part.box.offset))
        tree = own.encode(part.value, f"{name}@{label}")
        self.sizes[name] = math.prod(part.shape)
        if part.is_mine and part.box.num_elements:
            self.mine += own.mine
            self.parts[name] = part.box, tree
        return {"parts": name, "shape": list(part.shape)}


def to_host(tensor: Tensor, *, waits: bool = False) -> Tensor:
    """Copy a tensor; from a GPU without waiting, unless asked to. Tensors may share memory, which safetensors refuses."""
    travels = tensor.is_cuda and not waits
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=travels)
    return copy.copy_(tensor, non_blocking=travels)


def copied(tensors: Iterable[Tensor]) -> list[torch.cuda.Event]:
    """Return the events after which copies of these tensors are in the host's memory."""
    devices = {tensor.device for tensor in tensors if tensor.is_cuda}
    return [torch.cuda.current_stream(device).record_event() for device in devices]


def _listed(box: Box) -> tuple[list[int], list[int]]:
    return list(box.offset), list(box.shape)
