"""The report of an inspection as one HTML page that needs nothing beside it."""

from html import escape
from typing import Any

from finetrainers.events.words import as_share, plural
from finetrainers.runs.report.pictures import data_uri
from finetrainers.runs.report.shell import page
from finetrainers.training.inspect.sheets import SHEET_SIDE, Shown, most_shown, sheets
from finetrainers.training.inspect.text import as_text
from finetrainers.training.prepared import Prepared


def as_page(report: dict[str, Any], prepared: Prepared | None) -> str:
    """Write the report with the contact sheets of all buckets."""
    verdict = "Training would run." if report["would_train"] else f"Training would not run: {report['refused']}"
    parts = [
        "<h1>Data of a run</h1>",
        f'<p class="verdict{"" if report["would_train"] else " no"}">{escape(verdict)}</p>',
        f"<pre>{escape(as_text(report))}</pre>",
    ]
    for bucket, shown in [] if prepared is None else sheets(prepared):
        frames, height, width = bucket
        length = "" if frames == 1 else f", {plural(frames, 'frame')}: first, middle and last"
        parts.append(f'<h2>Bucket {width} x {height}{length}</h2><div class="sheet">{"".join(map(_figure, shown))}</div>')
    worst = [] if prepared is None else list(zip(report["cropped"], most_shown(prepared), strict=True))
    if worst:
        figures = (_figure(shown, f"loses {as_share(row['cropped'])}") for row, shown in worst if shown is not None)
        parts.append(f'<h2>What loses most to the crop</h2><div class="sheet">{"".join(figures)}</div>')
    return page("Data of a run", parts)


def _figure(shown: Shown, said: str = "") -> str:
    pictures = "".join(f'<img alt="" src="{data_uri(picture, SHEET_SIDE)}">' for picture in shown.pictures)
    caption = escape(shown.caption) or "(no caption)"
    told = f"{said}: {escape(shown.ref)}" if said else escape(shown.ref)
    return f"<figure><div>{pictures}</div><figcaption>{caption}<span>{told}</span></figcaption></figure>"
