"""What all HTML pages of this package share: the frame, the style of light and dark, and tables."""

from collections.abc import Iterable, Sequence
from html import escape

STYLE = """
:root { color-scheme: light dark; --line: #8884; --quiet: #6b7280; --paper: #fff; --ink: #1c2024; --soft: #f4f5f7;
  --one: #2563eb; --two: #d97706; --three: #059669; --four: #9333ea; --bad: #c33; --good: #2a8; }
@media (prefers-color-scheme: dark) { :root { --paper: #15181c; --ink: #e6e8eb; --quiet: #9aa3ad; --soft: #1f2429;
  --one: #6ea8fe; --two: #fbbf24; --three: #34d399; --four: #c084fc; } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 72rem; padding: 1rem; background: var(--paper);
  color: var(--ink); }
h1 { font-size: 1.4rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; border-top: 1px solid var(--line); padding-top: 1rem; margin-top: 2rem; }
h3 { font-size: 1rem; margin-bottom: .25rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 13px; }
code { font-size: 13px; overflow-wrap: anywhere; }
.verdict { font-weight: 600; padding: .5rem .75rem; border-left: 4px solid var(--good); }
.verdict.no { border-color: var(--bad); }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); gap: 1rem; }
figure { margin: 0; }
figure div { display: flex; gap: 2px; }
figure img { min-width: 0; flex: 1; width: 100%; height: auto; }
figcaption { font-size: 12px; overflow-wrap: anywhere; } figcaption span { color: var(--quiet); display: block; }
"""


def page(title: str, parts: Iterable[str], *, style: str = "", script: str = "") -> str:
    """Put parts of HTML into a page; nothing is loaded from elsewhere.

    Args:
        title: Plain text.
        parts: HTML, in which all that is not ours is escaped.
        style: CSS besides that of all pages.
        script: JavaScript, without which the page says the same.
    """
    policy = "default-src 'none'; img-src data: file: 'self'; media-src data: file: 'self'; style-src 'unsafe-inline'; "
    policy += "script-src 'unsafe-inline'" if script else "script-src 'none'"
    head = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(title)}</title>',
        f"<style>{STYLE}{style}</style></head><body>",
    ]
    return "\n".join([*head, *parts, f"<script>{script}</script>" if script else "", "</body></html>\n"])


def table(rows: Iterable[Sequence[str]], *, header: Sequence[str] = (), name: str = "") -> str:
    """Write plain texts as a table; the first of a row names it."""
    lines = [f'<div class="wide"><table class="{escape(name)}">']
    if header:
        lines.append("<thead><tr>" + "".join(f'<th scope="col">{escape(text)}</th>' for text in header) + "</tr></thead>")
    for first, *rest in rows:
        cells = "".join(f"<td>{escape(text)}</td>" for text in rest)
        lines.append(f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>')
    return "\n".join([*lines, "</table></div>"])
