"""Backends of attention: which can be used, and how one is switched on."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from finetrainers.config import Config
from finetrainers.config.attention import AUTO
from finetrainers.config.parallel import ContextKind
from finetrainers.distributed.context import ContextPlan
from finetrainers.errors import ConfigError

Key = Literal["train", "validate"]
NATIVE = "native"
KERNELS = {
    "_native_math": "MATH",
    "_native_flash": "FLASH_ATTENTION",
    "_native_efficient": "EFFICIENT_ATTENTION",
    "_native_cudnn": "CUDNN_ATTENTION",
}
"""Backends that are one kernel of torch's own attention, and its name in ``torch.nn.attention.SDPBackend``."""

MASKLESS = (
    "flash",
    "flash_hub",
    "flash_4_hub",
    "_flash_3",
    "_flash_3_hub",
    "_native_flash",
    "_native_xla",
    "aiter_fa2_hub",
    "sage",
    "sage_hub",
    "sage_blackwell_hub",
    "_sage_qk_int8_pv_fp8_cuda",
    "_sage_qk_int8_pv_fp8_cuda_sm90",
    "_sage_qk_int8_pv_fp16_cuda",
    "_sage_qk_int8_pv_fp16_triton",
)
"""Backends of diffusers that raise in the first forward pass if they are given a mask."""

EXCHANGED = (
    NATIVE,
    "_native_flash",
    "_native_cudnn",
    "flash",
    "flash_hub",
    "flash_varlen_hub",
    "_flash_3_hub",
    "_flash_3_varlen_hub",
)
"""Backends that diffusers lets compute attention over the tokens of several processes."""
EXCHANGED_FORWARD = ("sage", "sage_hub")
"""Those of them that have no backward pass."""

SETTLED_FILE = "attention.json"
"""File in a run directory that says which backends auto has taken."""


def check_attention(key: Key, backend: str, *, is_dispatched: bool) -> None:
    """Refuse an attention backend that is unknown, whose package is missing, or that would not be asked.

    Args:
        key: Below ``attention``.
        backend: Its value.
        is_dispatched: Whether diffusers lets a backend compute the attention of the denoiser.

    Raises:
        ConfigError: Naming the key and the way out.
    """
    if backend == AUTO:
        return
    if not is_dispatched and backend not in (NATIVE, *KERNELS):
        raise ConfigError(
            f"attention.{key}: {backend!r} would change nothing, since diffusers computes the attention of this model with "
            f"torch's own; set {AUTO}, {NATIVE}, or one of its kernels: {', '.join(KERNELS)}"
        )
    try:
        with attention(backend):
            pass
    except (ValueError, RuntimeError, ImportError) as error:
        raise ConfigError(f"attention.{key}: {backend!r} cannot be used: {str(error).splitlines()[0]}") from error


def shared_backends(key: Key, plan: ContextPlan, kind: ContextKind) -> tuple[str, ...]:
    """Name the backends that can compute attention over the tokens of several processes, torch's choice first if it can."""
    if plan.prompt is not None:
        return (NATIVE, *KERNELS)
    names = EXCHANGED if key == "train" else (*EXCHANGED, *EXCHANGED_FORWARD)
    return names if kind == "ulysses" else names[1:]  # parts of a ring are weighed by what torch's choice does not tell


def attention(backend: str, *, is_dispatched: bool = True) -> AbstractContextManager[None]:
    """Compute attention with a backend while the body runs; auto is native until something else is settled.

    Args:
        backend: One of diffusers' backends.
        is_dispatched: Whether diffusers lets it compute the attention of the denoiser; if not, it is a kernel of torch's
            own, and computes all attention in the body.
    """
    name = NATIVE if backend == AUTO else backend
    if is_dispatched:
        from diffusers.models.attention_dispatch import attention_backend

        scope: AbstractContextManager[None] = attention_backend(name)
        return scope
    return nullcontext() if name == NATIVE else _kernel(name)


def _kernel(name: str) -> AbstractContextManager[None]:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    scope: AbstractContextManager[None] = sdpa_kernel([getattr(SDPBackend, KERNELS[name])])
    return scope


@contextmanager
def attention_within(denoisers: Sequence[nn.Module], backend: str, *, is_dispatched: bool) -> Iterator[None]:
    """As ``attention``, in the forward passes of denoisers alone: beside them, encoders and VAE keep torch's choice.

    Theirs may be attention that a kernel cannot compute.
    """
    if is_dispatched or backend in (AUTO, NATIVE):
        with attention(backend, is_dispatched=is_dispatched):
            yield
        return
    with ExitStack() as stack:
        for denoiser in denoisers:
            entered: list[AbstractContextManager[None]] = []

            def enter(*_: Any, entered: list[AbstractContextManager[None]] = entered) -> None:
                entered.append(_kernel(backend))
                entered[-1].__enter__()

            def leave(*_: Any, entered: list[AbstractContextManager[None]] = entered) -> None:
                entered.pop().__exit__(None, None, None)

            stack.callback(denoiser.register_forward_pre_hook(enter).remove)
            stack.callback(denoiser.register_forward_hook(leave, always_call=True).remove)
        yield


def settled_in(config: Config, key: Key, device: torch.device) -> str:
    """Name the backend of a run: the one that is configured, or the one that auto has taken in it, on such a device."""
    configured = config.attention.train if key == "train" else config.attention.validation
    if configured != AUTO:
        return str(configured)
    settled = read_settled(config.output_dir).get(key, {})
    return str(settled["backend"]) if settled.get("device") == device_name(device) else NATIVE


def read_settled(directory: Path) -> Mapping[str, Mapping[str, str]]:
    """Read what auto has taken in a run: by key, the backend and the device."""
    try:
        return json.loads((directory / SETTLED_FILE).read_text(encoding="utf-8"))  # type: ignore[no-any-return]  # ours
    except FileNotFoundError:
        return {}


def device_name(device: torch.device) -> str:
    """Name what computes, such as NVIDIA H100."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
