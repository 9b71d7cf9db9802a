"""WebDataset shards of small pictures, for several tests."""

import io
import tarfile
from pathlib import Path

from runs import write_pictures


def write_shards(folder: Path, shards: int, items: int, *, seed: int = 0, bad: int | None = None) -> Path:
    """Shards of small pictures, the last of each with other proportions; one may have a file more, which is no picture."""
    write_pictures(folder / "pictures", shards * items, seed=seed)
    write_pictures(folder / "tall", shards, size=(64, 32), seed=seed + 1)
    for shard in range(shards):
        members = []
        for number in range(items):
            name = f"{shard * items + number:02d}"
            place = folder / "pictures" / f"{name}.png" if number < items - 1 else folder / "tall" / f"{shard:02d}.png"
            members += [(f"{name}.png", place.read_bytes()), (f"{name}.txt", f"{folder.name} {name}".encode())]
        if shard == bad:
            members += [("bad.png", b"no picture"), ("bad.txt", b"bad")]
        _write_tar(folder / "shards" / f"{shard:03d}.tar", members)
    return folder / "shards"


def _write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
