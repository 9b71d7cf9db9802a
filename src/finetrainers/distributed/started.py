"""When a process of this host began, which tells it from a later one: numbers are given again."""

from contextlib import suppress
from pathlib import Path


def start_time(pid: int) -> str | None:
    """When a process of this host began; None if there is none, or if it has ended and waits to be noticed."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None if Path("/proc/self").exists() else _start_time_by_ps(pid)
    state, *others = text.rpartition(")")[2].split()
    return None if state in "ZX" else f"{_boot()}/{others[18]}"


def _boot() -> str:
    """Which start of the machine this is: times are counted from it."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


def _start_time_by_ps(pid: int) -> str | None:
    import subprocess

    shown = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    state, _, time = shown.stdout.strip().partition(" ")
    return None if not state or state.startswith("Z") else time.strip()
