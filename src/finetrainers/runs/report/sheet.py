"""The samples of a report: a row for each prompt, a column for each step, and a slider through them."""

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from finetrainers.files.whole import to_json
from finetrainers.runs.outputs import Sample
from finetrainers.runs.report.pictures import Pictures

SIDE, SMALL_SIDE = 384, 224
"""Pixels of the longer side of a picture on the page: of few, and of many."""
FEW = 120
MAX_CELLS = 600
"""Samples on the page; of more steps, some are left out."""
PRIVATE = ("image", "last_image", "control", "references")
"""Settings that are paths."""


def sheet(samples: Sequence[Sample], pictures: Pictures, *, folder: Path, best: int | None) -> list[str]:
    """Write the samples as HTML; files that are too large for the page are linked, relative to the page's folder."""
    if not samples:
        return []
    steps = chosen_steps(samples, best)
    shown = [sample for sample in samples if sample.step in steps]
    side = SIDE if len(shown) <= FEW else SMALL_SIDE
    rows = {number: {s.step: s for s in shown if s.number == number} for number in sorted({s.number for s in shown})}
    left_out = len({sample.step for sample in samples}) - len(steps)
    parts = ["<h2 id=samples>Samples</h2>"]
    if len(steps) > 1:
        parts.append(
            '<p class="slider" hidden><label>Step <input type="range" id="step" min="0" '
            f'max="{len(steps) - 1}" value="{len(steps) - 1}" data-steps="{escape(to_json(steps))}"></label> '
            '<output id="shown"></output> <label><input type="checkbox" id="all" checked> all steps</label></p>'
        )
    if left_out:
        parts.append(f'<p class="quiet">{left_out} steps between these are in the folder validation.</p>')
    for row in rows.values():
        first = next(iter(row.values()))
        cells = "".join(
            _cell(row.get(step), step, pictures, side=side, folder=folder, is_best=step == best) for step in steps
        )
        settings = ", ".join(f"{key} {_plain(key, value)}" for key, value in first.settings.items())
        parts.append(
            f'<section class="prompt"><details><summary>{escape(first.prompt) or "(no prompt)"}</summary>'
            f'<p class="quiet">{escape(settings)}</p></details><div class="strip" tabindex="0">{cells}</div></section>'
        )
    return parts


def chosen_steps(samples: Sequence[Sample], best: int | None) -> list[int]:
    """Steps that the page shows: all, or of too many the first, the last, the best and some between."""
    steps = sorted({sample.step for sample in samples})
    prompts = len({sample.number for sample in samples})
    room = max(3, MAX_CELLS // max(1, prompts))
    if len(steps) <= room:
        return steps
    chosen = {steps[round(n * (len(steps) - 1) / (room - 2))] for n in range(room - 1)}
    return sorted(chosen | ({best} & set(steps) if best is not None else set()))


def _cell(sample: Sample | None, step: int, pictures: Pictures, *, side: int, folder: Path, is_best: bool) -> str:
    name = f"step {step}{', best' if is_best else ''}"
    if sample is None:
        return f'<figure data-step="{step}"><figcaption>{name}: none</figcaption></figure>'
    link = escape(link_to(sample.file, folder), quote=True)
    source = pictures.embed(sample, side)
    alt = escape(f"{name}: {sample.prompt}", quote=True)
    if sample.is_video:
        medium = (
            f'<video src="{source or link}" aria-label="{alt}" loop muted playsinline controls preload="metadata"></video>'
        )
    elif source is not None:
        medium = f'<a href="{link}"><img alt="{alt}" src="{source}" decoding="async"></a>'
    else:
        medium = f'<a href="{link}"><img alt="{alt}" src="{link}" decoding="async"></a>'
    return f'<figure data-step="{step}">{medium}<figcaption><a href="{link}">{name}</a></figcaption></figure>'


def link_to(file: Path, folder: Path) -> str:
    """Write a file of the run as an address relative to the page's folder."""
    return quote(os.path.relpath(file, folder))


def _plain(key: str, value: object) -> str:
    if key in PRIVATE:
        files = value if isinstance(value, list) else [value]
        return ", ".join(Path(str(file)).name for file in files)
    return (
        "x".join(map(str, reversed(value[1:]))) + f", {value[0]} frames" * (value[0] > 1)
        if key == "size" and isinstance(value, list)
        else str(value)
    )
