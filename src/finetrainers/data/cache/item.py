"""One encoded item as bytes: a safetensors file's, wherever it lies.

Shape letters as in ``finetrainers.batch``.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from safetensors.torch import save
from torch import Tensor

from finetrainers.data.cache.reading import Bytes
from finetrainers.files.whole import HEADER_START, sort_metadata

DIGEST = "digest"
ROWS = "rows"
"""Metadata: how many rows a tensor has whose last ones are zeros, and are not stored."""
METADATA_START = '{"__metadata__":'
"""How the header begins of what safetensors writes."""
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""By the names that safetensors has for them."""
Item = tuple[dict[str, Tensor], dict[str, str]]
"""Tensors by their names, and metadata."""
_decode = json.JSONDecoder().raw_decode


class DamagedError(Exception):
    """Bytes that are no whole item; the message says why."""


def to_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return an item's bytes; those of equal items are equal."""
    contents = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return sort_metadata(save(contents, {**metadata, DIGEST: digest(contents)}))


def from_bytes(data: Bytes) -> Item:
    """Return what an item's bytes [n] hold; the tensors are views of them, copied nowhere.

    Raises:
        DamagedError: If they are cut off or are something else; a number that has changed, ``is_whole`` finds.
    """
    tensors, metadata = _parsed(data)
    if ROWS not in metadata:
        return tensors, metadata
    rows = json.loads(metadata[ROWS])
    return {name: _with_zeros(tensor, rows.get(name)) for name, tensor in tensors.items()}, metadata


def is_whole(data: Bytes) -> bool:
    """Whether bytes [n] are those that were written."""
    try:
        tensors, metadata = _parsed(data)
    except DamagedError:
        return False
    return metadata.get(DIGEST) == digest(tensors)


def without_zeros(tensors: Mapping[str, Tensor]) -> Item:
    """Cut the zeros at the end of each [T, D]; the metadata say how many rows it had, and ``from_bytes`` puts them back."""
    kept = {name: tensor[: _num_rows(tensor)] if tensor.ndim > 1 else tensor for name, tensor in tensors.items()}
    rows = {name: len(tensors[name]) for name, own in kept.items() if own.shape != tensors[name].shape}
    return kept, {ROWS: json.dumps(rows)} if rows else {}


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Hash names, types, shapes and numbers."""
    found = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"{name}/{tensor.dtype}/{tuple(tensor.shape)}".encode())
        found.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def _parsed(data: Bytes) -> Item:
    """Read the tensors as they are stored, and the metadata."""
    try:
        start = HEADER_START + int.from_bytes(data.data[:HEADER_START], "little")
        if len(data) < HEADER_START or start > len(data):
            raise DamagedError(f"its {len(data)} bytes are cut off in the header")
        metadata, (length, layout) = _header(str(data.data[HEADER_START:start], "utf-8"))
        if start + length != len(data):
            raise DamagedError(f"it has {len(data)} bytes, and the header speaks of others")
        return {own.name: own.of(data, start) for own in layout}, metadata
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise DamagedError(f"its header cannot be read: {type(error).__name__}: {error}") from error


@dataclass(frozen=True, slots=True)
class _Stored:
    """One tensor, as a header speaks of it; its bytes are counted from the end of the header."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    start: int
    stop: int

    def of(self, data: Bytes, header_end: int) -> Tensor:
        """The tensor in an item's bytes [n]."""
        count = (self.stop - self.start) // self.dtype.itemsize
        if not count:
            return torch.empty(self.shape, dtype=self.dtype)
        flat = torch.frombuffer(data, dtype=self.dtype, count=count, offset=header_end + self.start)
        return flat.as_strided(self.shape, self.strides)  # of what is laid out already: half of what a view costs


_Layout = tuple[int, tuple[_Stored, ...]]
"""Bytes of all tensors, and each of them."""


def _header(text: str) -> tuple[dict[str, str], _Layout]:
    """Read metadata and tensors; items of one size differ in their metadata alone, which come first."""
    if not text.startswith(METADATA_START):
        tree = json.loads(text)
        return tree.pop("__metadata__", {}), _layout_of(tree)
    metadata, end = _decode(text, len(METADATA_START))
    return metadata, _layout("{" + text[end:].lstrip(","))


@lru_cache(maxsize=256)
def _layout(text: str) -> _Layout:
    """Read what a header without metadata says of tensors; equal ones are read once."""
    return _layout_of(json.loads(text))


def _layout_of(tree: Mapping[str, Mapping[str, list[int]]]) -> _Layout:
    stored = tuple(_stored(name, own) for name, own in tree.items())
    return max((own.stop for own in stored), default=0), stored


def _stored(name: str, about: Mapping[str, list[int]]) -> _Stored:
    dtype, shape, (start, stop) = DTYPES[str(about["dtype"])], tuple(about["shape"]), about["data_offsets"]
    if stop - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{stop - start} bytes for the shape {list(shape)}")
    strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return _Stored(name, dtype, shape, strides, start, stop)


def _num_rows(tensor: Tensor) -> int:
    """Count rows up to the last that is not zero; one stays in any case, which has the other sizes."""
    shown = torch.nonzero(tensor.flatten(1).any(1))
    return int(shown[-1]) + 1 if len(shown) else min(1, len(tensor))


def _with_zeros(tensor: Tensor, num_rows: int | None) -> Tensor:
    if num_rows is None:
        return tensor
    whole = tensor.new_zeros(num_rows, *tensor.shape[1:])
    whole[: len(tensor)] = tensor
    return whole
