"""How long a GPU works on what was counted.

Each kernel computes or moves memory, whichever takes longer; small ones wait for the program that starts them. The shares of
a GPU's stated speed that kernels reach are those of an H200, fitted to measured steps (docs/plan.md). A figure of
``finetrainers bench`` of the user's own machine takes the place of what is not known of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from finetrainers.memory.work import KERNELS, Kernel, Work
from finetrainers.training.plan.gpus import Gpu

REACHED: Mapping[Kernel, float] = {
    "product": 0.52,
    "product_float32": 0.80,
    "convolution": 0.30,
    "attention": 0.54,
    "attention_backward": 0.56,
    "attention_narrow": 0.62,
    "attention_narrow_backward": 0.32,
}
"""Share of stated operations a second, by kernel."""
BANDWIDTH: Mapping[Kernel, float] = {"other": 0.76, "fused": 0.95}
"""Share of the stated bandwidth; of kernels that compute, that of the former."""
KERNEL_SECONDS = 6.3e-6
"""That a kernel takes besides."""
LAUNCH_SECONDS: Mapping[Kernel, float] = {"other": 22.7e-6, "fused": 34.3e-6}
"""That the program needs to start a kernel, by itself and in compiled code; those that compute are as the former."""
UPDATE_SECONDS = 3e-6
"""The same of what is not compiled beside compiled code: updates of many tensors, several of which are one kernel."""
LINK = 0.4
"""Share of the stated link between host and GPU: 25 GB/s of PCIe 5."""
PEERS = 0.7
"""Share of the stated links between GPUs."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A GPU, and how its steps compare with what its kind is expected to take."""

    gpu: Gpu
    factor: float = 1.0
    """By which a measured step was slower."""

    @property
    def is_known(self) -> bool:
        """Whether anything is known of its speed."""
        return self.gpu.tflops is not None

    def seconds(self, work: Work) -> float:
        """Seconds of some work; on the host's link as long as all else hides nothing of it."""
        return sum(self.parts(work).values())

    def parts(self, work: Work) -> dict[str, float]:
        """Seconds by kind of kernel, and what the GPU waits for the program (host) or for what comes to it (link)."""
        found = {kernel: self.factor * self._kernel(work, kernel) for kernel in KERNELS if work.kernels[kernel]}
        busy = sum(found.values())
        host = self.factor * _launch_seconds(work)
        link = work.link_bytes / (LINK * self.gpu.link_gbs * 1e9)
        waits = {"host": max(0.0, host - busy), "link": max(0.0, link - max(busy, host))}
        return found | {name: seconds for name, seconds in waits.items() if seconds}

    def _kernel(self, work: Work, kernel: Kernel) -> float:
        assert self.gpu.tflops is not None, "asked for where nothing is known"
        bandwidth = BANDWIDTH["fused" if kernel == "fused" else "other"] * self.gpu.bandwidth_gbs * 1e9
        moving, begun = work.moved[kernel] / bandwidth, KERNEL_SECONDS * work.kernels[kernel]
        if kernel not in REACHED:
            return begun + moving
        stated = self.gpu.float32_tflops if kernel == "product_float32" else self.gpu.tflops
        return begun + max(moving, work.flop[kernel] / (REACHED[kernel] * stated * 1e12))


def _launch_seconds(work: Work) -> float:
    """Seconds that the program takes to start all kernels."""
    number, others = sum(work.kernels.values()), work.kernels["other"]
    if not work.kernels["fused"]:
        return LAUNCH_SECONDS["other"] * number
    return LAUNCH_SECONDS["fused"] * (number - others) + UPDATE_SECONDS * others
