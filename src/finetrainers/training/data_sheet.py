"""What training sees of its data, kept beside the run for its report: crops, captions, and what is left out."""

import shutil
import time
from pathlib import Path
from typing import Any

from finetrainers.config import Bucket
from finetrainers.data.media.remote import is_remote
from finetrainers.files.whole import to_json, whole_directory, write_whole
from finetrainers.runs.report.data import SHEET_FILE, SHEET_FOLDER
from finetrainers.training.inspect.sheets import SHEET_SIDE, Shown, show, spread_samples
from finetrainers.training.lock import shortened
from finetrainers.training.prepared import Prepared

SHEET_VERSION = 1
SECONDS = 2.0
"""That training waits for the crops: what is not decoded by then is left out."""
PER_BUCKET, IN_ALL = 8, 48
"""Samples that are shown."""
MAX_NAMES = 50
QUALITY = 80


def write_data_sheet(directory: Path, prepared: Prepared) -> None:
    """Write the sheet into a run directory, in the place of the one of an earlier start."""
    folder = directory / SHEET_FOLDER
    with whole_directory(folder) as temporary:
        told = {
            "version": SHEET_VERSION,
            "data": prepared.plan.fingerprint(),
            "buckets": _buckets(prepared, temporary),
            "bad": _names([(problem.path, problem.reason) for problem in prepared.problems], prepared),
            "held_out": _names([(job.target.path, "") for job in prepared.held_out], prepared),
        }
        write_whole(temporary / SHEET_FILE, to_json(told, indent=1))


def is_written(directory: Path, prepared: Prepared) -> bool:
    """Whether a sheet of these data is there."""
    file = directory / SHEET_FOLDER / SHEET_FILE
    return file.is_file() and f'"{prepared.plan.fingerprint()}"' in file.read_text(encoding="utf-8")


def remove_data_sheet(directory: Path) -> None:
    """Remove what was written."""
    shutil.rmtree(directory / SHEET_FOLDER, ignore_errors=True)


def _buckets(prepared: Prepared, folder: Path) -> list[dict[str, Any]]:
    until, number = time.monotonic() + SECONDS, 0
    chosen = spread_samples(prepared, PER_BUCKET)
    found: dict[Bucket, dict[str, Any]] = {bucket: {"size": list(bucket), "shown": []} for bucket, _ in chosen}
    turns = max((len(samples) for _, samples in chosen), default=0)
    for turn in range(turns):  # one of each bucket, then the next: all are shown where time or room ends
        for bucket, samples in chosen:
            if turn < len(samples) and number < IN_ALL and time.monotonic() < until:
                shown = None if _is_far(prepared, samples[turn]) else show(prepared.plan, samples[turn])
                if shown is not None:
                    found[bucket]["shown"].append(_written(shown, prepared, folder, number))
                    number += 1
    return list(found.values())


def _is_far(prepared: Prepared, sample: int) -> bool:
    data, row = prepared.plan.catalog.locate(sample)
    return is_remote(data.path(row, "media"))


def _written(shown: Shown, prepared: Prepared, folder: Path, number: int) -> dict[str, Any]:
    names = []
    for frame, picture in enumerate(shown.pictures):
        names.append(f"{number:03d}-{frame}.jpg")
        small = picture.convert("RGB")
        small.thumbnail((SHEET_SIDE, SHEET_SIDE))
        small.save(folder / names[-1], "jpeg", quality=QUALITY)
    return {"ref": _short(shown.ref, prepared), "caption": shown.caption, "files": names}


def _names(found: list[tuple[str, str]], prepared: Prepared) -> dict[str, Any]:
    names = [f"{_short(path, prepared)}: {reason}" if reason else _short(path, prepared) for path, reason in found]
    kept = list(dict.fromkeys(names))
    return {"count": len(kept), "names": kept[:MAX_NAMES]}


def _short(path: str, prepared: Prepared) -> str:
    roots = [data.config.path for plan in prepared.plans for data in plan.catalog.sets]
    root = max((root for root in roots if path.startswith(root)), key=len, default="")
    return f"{Path(root).name}/{shortened(path, root)}" if root and root != path else Path(path).name
