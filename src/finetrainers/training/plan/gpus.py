"""GPUs by what decides how fast a step is and whether it fits. docs/plan.md says where the numbers come from."""

import re
from dataclasses import dataclass

from finetrainers.config.memory import read_size
from finetrainers.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Gpu:
    """One kind of GPU, as its vendor states it."""

    name: str
    memory_gb: float
    """10^9 bytes."""
    tflops: float | None = None
    """Of matrix products in bfloat16 that add up in float32, without sparsity; None where only the memory is known."""
    float32_tflops: float = 0.0
    """Of float32, without TF32."""
    bandwidth_gbs: float = 0.0
    """10^9 bytes a second of its own memory."""
    link_gbs: float = 0.0
    """10^9 bytes a second to the host, in one direction."""
    peer_gbs: float = 0.0
    """10^9 bytes a second to other GPUs of the host, in one direction."""

    @property
    def memory_bytes(self) -> int:
        """All of its memory."""
        return int(self.memory_gb * 1e9)


GPUS: tuple[Gpu, ...] = (
    Gpu("B200", 180, 2250, 75, 8000, 64, 900),
    Gpu("H200", 141, 989, 67, 4800, 64, 450),
    Gpu("H100", 80, 989, 67, 3350, 64, 450),
    Gpu("H100 PCIe", 80, 756, 51, 2000, 64, 64),
    Gpu("A100 80GB", 80, 312, 19.5, 2039, 32, 300),
    Gpu("A100 40GB", 40, 312, 19.5, 1555, 32, 300),
    Gpu("L40S", 48, 362, 91.6, 864, 32, 32),
    Gpu("L4", 24, 121, 30.3, 300, 32, 32),
    Gpu("A10", 24, 125, 31.2, 600, 32, 32),
    Gpu("RTX PRO 6000", 96, 503, 125, 1792, 64, 64),
    Gpu("RTX 6000 Ada", 48, 364, 91.1, 960, 32, 32),
    Gpu("RTX A6000", 48, 155, 38.7, 768, 32, 32),
    Gpu("RTX 5090", 32, 209, 104.8, 1792, 64, 64),
    Gpu("RTX 4090", 24, 165, 82.6, 1008, 32, 32),
    Gpu("RTX 4080", 16, 97.5, 48.7, 717, 32, 32),
    Gpu("RTX 4060 Ti 16GB", 16, 44, 22.1, 288, 16, 16),
    Gpu("RTX 3090", 24, 71, 35.6, 936, 32, 32),
    Gpu("RTX 3060", 12, 25.5, 12.7, 360, 32, 32),
)
"""Known ones, the largest of each line first."""
LARGEST_GB = 1000
"""Up to which a number without a unit is taken for a size that lacks one."""
MEANINGLESS = (
    *("nvidia", "geforce", "sxm", "sxm4", "sxm5", "hbm3", "hbm3e"),
    *("generation", "blackwell", "server", "workstation", "edition"),
)
"""Words that torch adds to their names, and that are no other GPU's."""


def find_gpu(text: str) -> Gpu:
    """Find a GPU by its name, or make one of which only the memory is known, such as 24GB.

    Raises:
        ConfigError: If it is neither.
    """
    if re.fullmatch(r"\s*\d+(\.\d+)?\s*(GB|GiB|MB|MiB)\s*", text):
        return _of_size(text.strip())
    found = [gpu for gpu in GPUS if _plain(text) in _short_names(gpu)]
    if len(found) == 1:
        return found[0]
    number = re.fullmatch(r"\s*(\d+(\.\d+)?)\s*(g|gb|gib|gig)?\s*", text, re.IGNORECASE)
    if number is not None and float(number[1]) <= LARGEST_GB:  # above, it is a name such as 9090
        raise ConfigError(
            f"--gpu: {text!r} is not a size with a unit; write {number[1]}GB or {number[1]}GiB, or a GPU's name"
        )
    if found:
        raise ConfigError(f"--gpu: {text!r} is {' or '.join(gpu.name for gpu in found)}; write which")
    raise ConfigError(
        f"--gpu: there is no {text!r} among {', '.join(gpu.name for gpu in GPUS)}; or give a size, such as 24GB"
    )


def _of_size(text: str) -> Gpu:
    """Make a GPU of which only the memory is known.

    Raises:
        ConfigError: If it has none.
    """
    num_bytes = int(str(read_size(text)))
    if not num_bytes:
        raise ConfigError(f"--gpu: {text!r} is no memory; write how much the GPU has, such as 24GB")
    return Gpu(text, num_bytes / 1e9)


def gpu_of_device(name: str) -> Gpu | None:
    """Find the GPU that torch names so, such as NVIDIA A100-SXM4-80GB; None if a word of the name may mean another one."""
    words = _words(name)
    for gpu in GPUS:
        own = _words(gpu.name)
        if own <= words and words - own <= {*MEANINGLESS, f"{gpu.memory_gb:g}gb"}:
            return gpu
    return None


def _words(name: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", name.lower()))


def _short_names(gpu: Gpu) -> set[str]:
    """What people write: with and without RTX and the memory. Other words, such as Ti, are part of the name."""
    without_size = re.sub(r" \d+GB$", "", gpu.name)
    return {_plain(own) for name in (gpu.name, without_size) for own in (name, name.removeprefix("RTX "))}


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower().removeprefix("nvidia").replace("geforce", ""))
