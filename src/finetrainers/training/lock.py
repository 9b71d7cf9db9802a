"""What a run was made with: lock.json, from which it can be made again, and compared with others."""

import hashlib
import json
import platform
import re
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch

import finetrainers
from finetrainers.config import Config
from finetrainers.data.streams import MEDIA
from finetrainers.files.whole import DIGEST_BYTES, hash_file, to_json, write_whole
from finetrainers.runs.summary import LOCK_FILE
from finetrainers.training.checks.relocated import contents
from finetrainers.training.prepared import Prepared
from finetrainers.training.session import Session
from finetrainers.training.user_code import digests_of

LOCK_VERSION = 1
MAX_ITEMS = 5000
"""Items that are listed one by one; of more, the hash of all tells whether they are the same, and no more."""
MAX_STARTS = 50


def write_lock(session: Session, prepared: Prepared, *, resumed: int | None) -> None:
    """Note what this start of a run is made with, after those before it."""
    file = session.config.output_dir / LOCK_FILE
    before = [] if resumed is None else _read(file).get("starts", [])
    start = {
        "time": time.time(),
        "resumed_from": resumed,
        **environment(session.device, session.world.launch.size),
        "config": hash_file(session.config.output_dir / "config.yaml").hex(),
        **contents(prepared),
        "captions": prepared.captions,
        "held_out_captions": prepared.held_out_captions,
        "files": files_of(session.config),
    }
    write_whole(file, to_json({"version": LOCK_VERSION, "starts": [*before, start][-MAX_STARTS:], "items": items(prepared)}))


def _read(file: Path) -> dict[str, Any]:
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def environment(device: torch.device, processes: int) -> dict[str, Any]:
    """Code, versions and devices of this process and of so many like it."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device.type)
    return {
        "version": finetrainers.__version__,
        "code": code_digest(),
        "commit": commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cuda": torch.version.cuda,
        "packages": packages(),
        "processes": processes,
        "devices": [name] * processes,
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
    }


@cache
def code_digest() -> str:
    """Hash the source of this package: two versions with the same number may differ."""
    root, digest = Path(finetrainers.__file__).parent, hashlib.blake2b(digest_size=DIGEST_BYTES)
    for file in sorted(root.rglob("*.py")):
        digest.update(f"{file.relative_to(root)}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


@cache
def commit() -> str | None:
    """Find the commit that is checked out where this package runs from a checkout; None elsewhere."""
    root = Path(finetrainers.__file__).parent.parent.parent
    if not (root / ".git").exists():
        return None
    try:
        found = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None


@cache
def packages() -> dict[str, str]:
    """Versions of all that is installed, by the names of its folders: to parse what is in them takes far longer."""
    found = {}
    for place in reversed(sys.path):  # of two, the first is imported
        folder = Path(place)
        for info in folder.glob("*.dist-info") if folder.is_dir() else ():
            name, _, version = info.name.removesuffix(".dist-info").partition("-")
            found[re.sub(r"[-_.]+", "-", name).lower()] = version
    return dict(sorted(found.items()))


def files_of(config: Config) -> dict[str, str]:
    """Hashes of files that belong to the run besides its data: code of the user's own, and the prompts."""
    found = digests_of(config)
    if config.validation.prompts_file is not None:
        found["validation.prompts"] = hash_file(config.validation.prompts_file).hex()
    return found


def items(prepared: Prepared) -> list[list[str]] | None:
    """List name and hashes, of the media and of the captions, of each item that is trained on; None of too many."""
    if prepared.chapters is not None or sum(len(data.table) for data in prepared.plan.catalog.sets) > MAX_ITEMS:
        return None
    found = []
    for number, data in enumerate(prepared.plan.catalog.sets):
        used = sorted(set(data.item.tolist()))
        for row in used:
            path = str(data.table[MEDIA.name][row].as_py())
            digest = data.digests[MEDIA.name][row].tobytes().hex()
            captions = "\0".join(data.table["captions"][row].as_py() or ())
            found.append([f"{number}/{shortened(path, data.config.path)}", digest, _hash(captions)])
    return found


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(errors="backslashreplace"), digest_size=8).hexdigest()


def shortened(path: str, root: str) -> str:
    """Name a file within its data set: where that is on this machine is nobody else's business."""
    return path.removeprefix(root).lstrip("/#") if path.startswith(root) and path != root else path.rpartition("/")[2]
