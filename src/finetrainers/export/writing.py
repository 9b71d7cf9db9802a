"""Files of safetensors that are written tensor by tensor, and never over others."""

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from finetrainers.errors import ConfigError
from finetrainers.files.whole import hash_file, whole_file

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""What the format calls data types."""
EXACT = (".alpha", ".dora_scale", ".lora_magnitude_vector")
"""Ends of names of what is a number or one a row: it stays float32, whatever the matrices become."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What a tensor will be."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def write_stream(file: Path, specs: Mapping[str, Spec], read: Callable[[str], Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file of which one tensor at a time is in memory; equal contents give equal bytes.

    Args:
        file: Is made, with the mode that the umask gives; whoever needs it whole gives a temporary one.
        specs: What it will hold.
        read: Makes a tensor as it is to be written, by its name.
        metadata: Of its header.
    """
    order = sorted(specs, key=lambda name: (-specs[name].dtype.itemsize, name))  # so each begins at a multiple of its type
    header: dict[str, object] = {"__metadata__": dict(sorted({"format": "pt", **metadata}.items()))}
    end = 0
    for name in order:
        begin, end = end, end + specs[name].bytes
        header[name] = {
            "dtype": CODES[specs[name].dtype],
            "shape": list(specs[name].shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            tensor = read(name)
            assert (tensor.dtype, tuple(tensor.shape)) == (specs[name].dtype, specs[name].shape), name
            out.write(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
            del tensor  # before the next is read


def write_tensors(file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors that are in memory into a file, unless it is there already with the same contents.

    Raises:
        ConfigError: If it is there with others, which would be lost.
    """
    specs = {name: Spec(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        with whole_file(file) as temporary:
            write_stream(temporary, specs, tensors.__getitem__, metadata)
        return
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        write_stream(Path(folder) / file.name, specs, tensors.__getitem__, metadata)
        if not file.is_file() or hash_file(file) != hash_file(Path(folder) / file.name):
            raise ConfigError(f"--output: {file} exists, and holds something else; name another one, or move it away")


def cast(tensors: Mapping[str, Tensor], dtype: str) -> dict[str, Tensor]:
    """Bring tensors to the data type that they are written in.

    Raises:
        ConfigError: If numbers are beyond what it holds.
    """
    return {name: cast_one(name, tensor, DTYPES[dtype]) for name, tensor in tensors.items()}


def cast_one(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """As ``cast``, for one tensor of any name; what is not a number of a matrix stays as it is."""
    if not tensor.is_floating_point():
        return tensor
    result = tensor.to(torch.float32 if name.endswith(EXACT) else dtype)
    if dtype == torch.float16 and not torch.isfinite(result).all() and torch.isfinite(tensor).all():
        raise ConfigError(f"--dtype: {name} has numbers beyond those of fp16; take bf16 or fp32")
    return result


def some(names: Iterable[str]) -> str:
    """The first of many names."""
    names = sorted(names)
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
