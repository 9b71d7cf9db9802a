"""The choice of an attention backend: the fastest of those that are right here, at the sizes of the run."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from finetrainers.errors import ConfigError
from finetrainers.memory.attention import KERNELS, NATIVE, Key, check_attention
from finetrainers.memory.attention_calls import Call

CANDIDATES = (NATIVE, "_native_flash", "_native_cudnn", "_native_efficient", "flash", "flash_varlen", "xformers")
HUB_CANDIDATES = ("flash_hub", "_flash_3_hub")
"""Tried where the package ``kernels`` is installed: their kernels are downloaded when they are first used."""
FORWARD_CANDIDATES = ("_flash_3", "flash_4_hub")
"""Exact, but without a backward pass. Those that round further (sage) have to be named."""
MAX_SECONDS = 180.0
"""Time that one backend may take, the download of its kernel included."""
START_SECONDS = 120.0
"""Time that a process may take besides, before the first of them."""
WAIT_SECONDS = 0.1
BACKENDS = "finetrainers.memory.attention_trial:backend_of"


@dataclass(frozen=True, slots=True)
class Trial:
    """How a backend did."""

    backend: str
    milliseconds: float | None
    """For all calls of one pass of the denoiser; None if it cannot be taken."""
    reason: str | None = None
    """Why not."""

    def __str__(self) -> str:
        return f"{self.backend}: {self.reason if self.milliseconds is None else f'{self.milliseconds:.2f} ms'}"


def candidates(
    key: Key, device: torch.device, *, is_dispatched: bool, usable: Collection[str] | None = None
) -> tuple[str, ...]:
    """Name the backends that auto tries on a device, as far as their packages are installed; torch's choice is the first.

    Args:
        key: Below ``attention``.
        device: Where they compute.
        is_dispatched: Whether diffusers lets a backend compute the attention of the denoiser.
        usable: Those that can be taken, if not all.
    """
    if device.type != "cuda":
        return (NATIVE,)  # of which a CPU has one kernel that is fast
    names = (*CANDIDATES, *HUB_CANDIDATES, *(FORWARD_CANDIDATES if key == "validate" else ()))
    names = tuple(name for name in names if usable is None or name in usable)
    if not is_dispatched:
        return tuple(name for name in names if name in (NATIVE, *KERNELS))
    return tuple(name for name in names if _is_installed(key, name))


def _is_installed(key: Key, name: str) -> bool:
    from diffusers.utils import is_kernels_available

    if name.endswith("_hub"):  # not check_attention, which would download the kernel here
        return bool(is_kernels_available())
    try:
        check_attention(key, name, is_dispatched=True)
    except ConfigError:
        return False
    return True


def fastest(trials: Sequence[Trial], key: Key) -> str:
    """Choose the backend that took the least time.

    Raises:
        ConfigError: If none can be taken.
    """
    taken = {trial.backend: trial.milliseconds for trial in trials if trial.milliseconds is not None}
    if not taken:
        told = "; ".join(map(str, trials))
        raise ConfigError(f"attention.{key}: auto found no backend that works here: {told}. Name one, such as _native_math")
    return min(taken, key=lambda name: taken[name])


def try_backends(
    calls: Counter[Call],
    backends: Sequence[str],
    *,
    device: torch.device,
    needs_backward: bool,
    backends_of: str = BACKENDS,
    max_seconds: float = MAX_SECONDS,
    interrupt: Callable[[], None] = lambda: None,
) -> list[Trial]:
    """Try backends on calls of attention, in processes of their own, so that none can harm this one.

    A process that dies or takes too long drops the backend that it was at, and the next one goes on with the others.

    Args:
        calls: And how often each is made.
        backends: In the order in which they are tried.
        device: Where.
        needs_backward: Whether the backward pass is tried too.
        backends_of: The function, as module:name, that makes what computes attention of a backend's name.
        max_seconds: How long one backend may take.
        interrupt: Called again and again; may raise.
    """
    trials: list[Trial] = []
    asked = {
        "device": str(device),
        "calls": [(call.to_json(), count) for call, count in calls.items()],
        "needs_backward": needs_backward,
        "backends_of": backends_of,
    }
    while left := list(backends[len(trials) :]):
        with tempfile.TemporaryDirectory(prefix="finetrainers-attention-") as folder:
            trials += _try(Path(folder), {**asked, "backends": left}, max_seconds=max_seconds, interrupt=interrupt)
    return trials


def _try(folder: Path, tree: Mapping[str, Any], *, max_seconds: float, interrupt: Callable[[], None]) -> list[Trial]:
    """Try backends in one process, as far as it gets: at least one."""
    asked, answers, errors = (folder / name for name in ("asked.json", "answers.jsonl", "errors.txt"))
    asked.write_text(json.dumps(tree), encoding="utf-8")
    answers.write_text("")
    end = _run(asked, answers, errors, max_seconds=max_seconds, interrupt=interrupt)
    told = list(_read(answers))
    trials = [Trial(**line) for line in told if len(line) > 1]
    left = tree["backends"][len(trials) :]
    if len(told) > 2 * len(trials):  # it had begun with one more
        trials.append(Trial(left[0], None, end))
    elif not told:  # the process did not get as far as the first
        last = errors.read_text(errors="replace").strip().splitlines()[-1:]
        trials += [Trial(name, None, " ".join([end, *last])) for name in left]
    return trials


def _run(asked: Path, answers: Path, errors: Path, *, max_seconds: float, interrupt: Callable[[], None]) -> str:
    """Run one process of trials to its end, and say how it ended; it is killed if a backend takes too long."""
    command = [sys.executable, "-m", "finetrainers.memory.attention_trial", str(asked), str(answers)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr, start_new_session=True
        )
    try:
        size, deadline = 0, time.monotonic() + START_SECONDS + max_seconds
        while process.poll() is None:
            interrupt()
            if answers.stat().st_size != size:
                size, deadline = answers.stat().st_size, time.monotonic() + max_seconds
            if time.monotonic() > deadline:
                return f"took more than {max_seconds:g} s"
            time.sleep(WAIT_SECONDS)
    finally:
        process.kill()
        process.wait()
    return f"ended its process with status {process.returncode}"


def _read(answers: Path) -> Iterator[dict[str, Any]]:
    """Read what a process has told; a line that its end cut off is left out."""
    for line in answers.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return
