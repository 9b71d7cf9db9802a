"""The report of an inspection as one HTML page that needs nothing beside it."""

from html import escape
from typing import Any

from finetrainers.training.inspect.sheets import Shown, data_uri, sheets
from finetrainers.training.inspect.text import as_text, count
from finetrainers.training.prepared import Prepared

STYLE = """
:root { color-scheme: light dark; --line: #8884; --quiet: #777; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 72rem; padding: 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; border-top: 1px solid var(--line); padding-top: 1rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 13px; }
.verdict { font-weight: 600; padding: .5rem .75rem; border-left: 4px solid #2a8; } .verdict.no { border-color: #c33; }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); gap: 1rem; }
figure { margin: 0; }
figure div { display: flex; gap: 2px; }
figure img { min-width: 0; flex: 1; width: 100%; height: auto; }
figcaption { font-size: 12px; overflow-wrap: anywhere; } figcaption span { color: var(--quiet); display: block; }
"""


def as_page(report: dict[str, Any], prepared: Prepared | None) -> str:
    """Write the report with the contact sheets of all buckets."""
    verdict = "Training would run." if report["would_train"] else f"Training would not run: {report['refused']}"
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>Data of a run</title>',
        f"<style>{STYLE}</style></head><body><h1>Data of a run</h1>",
        f'<p class="verdict{"" if report["would_train"] else " no"}">{escape(verdict)}</p>',
        f"<pre>{escape(as_text(report))}</pre>",
    ]
    for bucket, shown in [] if prepared is None else sheets(prepared):
        frames, height, width = bucket
        length = "" if frames == 1 else f", {count(frames, 'frame')}: first, middle and last"
        parts.append(f'<h2>Bucket {width} x {height}{length}</h2><div class="sheet">{"".join(map(_figure, shown))}</div>')
    return "\n".join([*parts, "</body></html>\n"])


def _figure(shown: Shown) -> str:
    pictures = "".join(f'<img alt="" src="{data_uri(picture)}">' for picture in shown.pictures)
    caption = escape(shown.caption) or "(no caption)"
    return f"<figure><div>{pictures}</div><figcaption>{caption}<span>{escape(shown.ref)}</span></figcaption></figure>"
