"""The end of a text file that a process writes."""

from pathlib import Path

TAIL_BYTES = 64 << 10


def tail(file: Path) -> str:
    """Read the last lines; of a progress bar, which a terminal overwrites, only how it looks now."""
    try:
        with file.open("rb") as text:
            end = text.seek(0, 2)
            text.seek(max(0, end - TAIL_BYTES))
            data = text.read().decode(errors="replace")
    except OSError:
        return ""
    if end > TAIL_BYTES:
        data = data.partition("\n")[2]
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in data.split("\n")).strip("\n")
