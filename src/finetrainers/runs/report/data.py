"""The data of a run on its report: buckets, what of the pixels is cut off, and the actual crops with their captions."""

import base64
from html import escape
from pathlib import Path
from typing import Any

from finetrainers.errors import DataError
from finetrainers.events.words import as_cut, as_steps
from finetrainers.runs.folder import RunFolder
from finetrainers.runs.inside import inside
from finetrainers.runs.outputs import read_json
from finetrainers.runs.report.shell import table

SHEET_FOLDER = "data-sheet"
SHEET_FILE = "sheet.json"
"""In it: what training wrote of its data as it began (``training.data_sheet``)."""
MAX_CROP_BYTES = 1_000_000


def read_sheet(run: RunFolder) -> dict[str, Any]:
    """Read what training wrote of its data; empty if it wrote nothing."""
    return read_json(run.path, run.path / SHEET_FOLDER / SHEET_FILE)


def data_parts(run: RunFolder) -> list[str]:
    """Write the data page."""
    begun, told = run.begun, read_sheet(run)
    if begun is None:
        return []
    parts = ["<h2 id=data>Data</h2>", f"<p>{escape(sentence(begun))}</p>"]
    rows = [
        (Path(one["path"]).name, one["layout"], f"{one['items']:,}", f"{one['left_out']:,}") for one in begun.get("sets", ())
    ]
    if rows:
        parts.append(table(rows, header=("Data set", "Layout", "Items", "Left out"), name="numbers"))
    crops = {tuple(one["size"]): one for one in told.get("buckets", ())}
    parts.append(table(bucket_rows(begun, crops), header=("Bucket", "Samples", "Held out", "Cut off"), name="numbers"))
    for name, words in (("bad", "Left out because they cannot be used"), ("held_out", "Held out")):
        parts += _named(told.get(name), words)
    for one in crops.values():
        parts += _crops(run, one)
    return parts


def sentence(begun: dict[str, Any]) -> str:
    """Say how much is trained on."""
    text = f"{begun.get('num_samples', 0):,} samples, {begun.get('num_held_out', 0):,} held-out ones measured"
    if begun.get("steps") and begun.get("batch_size"):
        samples = begun.get("samples_of_pass") or begun.get("num_samples", 0)
        text += f"; {as_steps(begun['steps'], begun['batch_size'], samples)}"
    return text + (f"; {begun['num_bad']} bad items" if begun.get("num_bad") else "")


def bucket_rows(begun: dict[str, Any], crops: dict[tuple[int, ...], Any]) -> list[tuple[str, ...]]:
    """Rows of the table of buckets: size, samples, held out, and what of the pixels is cut off."""
    return [
        (size_words(one["size"]), f"{one['samples']:,}", f"{one.get('held_out', 0):,}", _cut(one, crops))
        for one in begun.get("buckets", ())
    ]


def _cut(one: dict[str, Any], crops: dict[tuple[int, ...], Any]) -> str:
    """Say what a bucket's crop removes; of a run whose event did not tell, the median that was written of it."""
    if one.get("cropped") is not None and one.get("most_cropped") is not None:
        return as_cut(one["cropped"], one["most_cropped"])
    cut = crops.get(tuple(one["size"]), {}).get("cropped")
    return f"median {as_cut(cut['median'], cut['max'])}" if isinstance(cut, dict) else ""


def size_words(size: list[int]) -> str:
    """Write (frames, height, width) as one says it."""
    frames, height, width = size
    return f"{width} x {height}" + (f", {frames} frames" if frames > 1 else "")


def _named(told: object, words: str) -> list[str]:
    if not isinstance(told, dict) or not told.get("names"):
        return []
    names = "".join(f"<li><code>{escape(str(name))}</code></li>" for name in told["names"])
    more = told["count"] - len(told["names"])
    rest = f"<li>and {more:,} more</li>" if more > 0 else ""
    return [f"<details><summary>{escape(words)}: {told['count']:,}</summary><ul>{names}{rest}</ul></details>"]


def _crops(run: RunFolder, bucket: dict[str, Any]) -> list[str]:
    figures = []
    for one in bucket.get("shown", ()):
        sources = [source for name in one["files"] if (source := _crop(run, str(name))) is not None]
        pictures = "".join(f'<img alt="" src="{source}" decoding="async">' for source in sources)
        caption = escape(str(one["caption"])) or "(no caption)"
        figures.append(
            f"<figure><div>{pictures}</div><figcaption>{caption}<span>{escape(str(one['ref']))}</span></figcaption></figure>"
        )
    if not figures:
        return []
    title = f"<h3>What training sees of bucket {size_words(bucket['size'])}</h3>"
    return [f'{title}<div class="sheet crops">{"".join(figures)}</div>']


def _crop(run: RunFolder, name: str) -> str | None:
    try:
        file = inside(run.path / SHEET_FOLDER, name)
        if file.suffix != ".jpg" or file.stat().st_size > MAX_CROP_BYTES:
            return None
        return f"data:image/jpeg;base64,{base64.b64encode(file.read_bytes()).decode()}"
    except (OSError, DataError):
        return None
