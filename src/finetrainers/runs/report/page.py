"""The report of a run as one HTML page that needs nothing beside it."""

import time
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from shlex import quote

from finetrainers.events.words import as_size
from finetrainers.runs.curves import smooth
from finetrainers.runs.folder import RunFolder
from finetrainers.runs.report import facts
from finetrainers.runs.report.charts import Chart, Line, draw
from finetrainers.runs.report.data import data_parts
from finetrainers.runs.report.pictures import Pictures
from finetrainers.runs.report.script import SCRIPT, STYLE
from finetrainers.runs.report.sheet import sheet
from finetrainers.runs.report.shell import page, table
from finetrainers.runs.state import Standing
from finetrainers.runs.summary import last_start
from finetrainers.runs.validations import best

POINTS = 400
"""Of a curve on the page."""
MEMORY = 20
"""Points that a smoothed curve goes back, about."""
BIN_STYLES = ("one", "two", "three", "four")


def as_page(run: RunFolder, standing: Standing, pictures: Pictures, *, folder: Path | None = None) -> str:
    """Write the report of a run, as of its last update.

    Args:
        run: The run.
        standing: How it stands.
        pictures: Made for it before.
        folder: Where the page will lie, to which its links are relative; by default in the run directory.
    """
    pictures.begin()
    lowest = best(run.validations())
    parts = [
        *_head(run, standing),
        *_warnings(run),
        *_curves(run),
        *sheet(
            run.samples(),
            pictures,
            folder=run.path if folder is None else folder,
            best=None if lowest is None else lowest.step,
        ),
        *_items(run),
        *_use(run),
        *data_parts(run),
        *_settings(run),
        f'<footer class="quiet">Written by finetrainers at {time.strftime("%Y-%m-%d %H:%M:%S")}. '
        "It holds names of files and captions: look through it before you publish it.</footer></main>",
    ]
    return page(f"Run {run.name}", parts, style=STYLE, script=SCRIPT)


def _head(run: RunFolder, standing: Standing) -> list[str]:
    share = min(1.0, standing.step / run.steps) if run.steps else 0.0
    parts = [
        f'<main><h1>{escape(run.name)} <span class="state {standing.state}">{standing.state}</span></h1>',
        f'<progress value="{share:.4f}" aria-label="steps taken">{share:.0%}</progress>',
        table(facts.head(run, standing), name="facts"),
    ]
    if standing.state in {"stopped", "failed", "new"}:
        words = ["finetrainers train", quote(str(run.path / "config.yaml"))]
        if run.config is not None and run.config.checkpoint.resume != "latest":  # the checkpoint of an earlier start
            words.append("checkpoint.resume=latest")
        parts.append(f"<p>To continue: <code>{escape(' '.join(words))}</code></p>")
    return parts


def _warnings(run: RunFolder) -> list[str]:
    found = facts.warnings(run)
    if not found:
        return []
    lines = "".join(
        f"<li>{escape(message)}{f' <b>({count} times)</b>' if count > 1 else ''}</li>" for message, count in found
    )
    return [f"<h2 id=warnings>Warnings</h2><ul class=warnings>{lines}</ul>"]


def _curves(run: RunFolder) -> list[str]:
    charts = [draw(chart) for chart in charts_of(run)]
    found = [chart for chart in charts if chart]
    if not found:
        return []
    note = " Marks on the axis of steps: validations." if run.validations() else ""
    note += " Dashed lines: the run was started again." if _restarts(run) else ""
    hint = "Move over a curve, or focus it and press the arrow keys, to read its values."
    return [f'<h2 id=curves>Curves</h2><p class="quiet">{hint}{note}</p><div class="charts">{"".join(found)}</div>']


def _restarts(run: RunFolder) -> list[int]:
    return [int(event["resumed_from"]) for event in run.of_kind("run") if event.get("resumed_from") is not None]


def charts_of(run: RunFolder) -> list[Chart]:
    """All charts of a run; some may be empty."""
    curves, steps, marks = run.curves(POINTS), run.steps, _restarts(run)
    x = curves.steps.tolist()

    def plain(title: str, name: str, *, is_log: bool = False, unit: str = "") -> Chart:
        values = curves.mean.get(name)
        lines = [] if values is None else [Line(name, (x, values.tolist()), "one", (curves.low[name], curves.high[name]))]
        return Chart(title, lines, steps, is_log=is_log, marks=marks, unit=unit)

    loss = []
    if "loss" in curves.mean:
        band, values = (curves.low["loss"], curves.high["loss"]), curves.mean["loss"]
        smoothed = smooth(values, weight=1 - 1 / MEMORY).tolist()
        loss = [Line("each step", (x, values.tolist()), "raw", band), Line("smoothed", (x, smoothed), "one")]
    charts = [
        Chart("Training loss", loss, steps, marks=marks),
        *_held_out(run, steps, marks),
        plain("Learning rate", "lr"),
        plain("Gradient norm", "grad_norm", is_log=True, unit="before clipping, logarithmic"),
        plain("Seconds a step", "step_seconds"),
        plain("Peak memory", "peak_memory_gb", unit="GB, 10^9 bytes"),
        plain("Tokens a second", "tokens_per_second"),
    ]
    validations = [one.step for one in run.validations()]
    return [replace(chart, validations=validations) for chart in charts]


def _held_out(run: RunFolder, steps: int, marks: Sequence[int]) -> list[Chart]:
    """Held-out loss, in all and by noise level, and by data set where it is known."""
    measured = [one for one in run.validations() if one.held_out_loss is not None]
    if not measured:
        return []
    lowest = best(measured)
    x = [one.step for one in measured]
    total = Line("held-out loss", (x, [one.held_out_loss or 0.0 for one in measured]), "one")
    star = None if lowest is None else (lowest.step, lowest.held_out_loss or 0.0, f"best: step {lowest.step}")
    charts = [Chart("Held-out loss", [total], steps, marks=marks, star=star)]
    for title, unit, rows in (
        ("Held-out loss by noise level", "0 is clean, 1 is noise", [one.bins for one in measured]),
        ("Held-out loss by data set", "", [{Path(k).name: v for k, v in one.sets.items()} for one in measured]),
    ):
        names = list(dict.fromkeys(name for row in rows for name in row))
        lines = [
            Line(name, (x, [row.get(name, float("nan")) for row in rows]), BIN_STYLES[number % len(BIN_STYLES)])
            for number, name in enumerate(names)
        ]
        charts += [Chart(title, lines, steps, marks=marks, unit=unit)] if lines else []
    return charts


def _items(run: RunFolder) -> list[str]:
    """The easiest and the hardest items of the last validation that measured them."""
    measured = [one for one in run.validations() if one.items is not None]
    if not measured or measured[-1].items is None:
        return []
    header = ("Item", "Loss", "At first")
    parts = [f"<h2 id=items>Easiest and hardest items at step {measured[-1].step}</h2>"]
    for title, rows in (("Hardest", measured[-1].items.hardest), ("Easiest", measured[-1].items.easiest)):
        cells = [(Path(path).name, f"{loss:.5f}", "" if first is None else f"{first:.5f}") for path, loss, first in rows]
        parts.append(f"<h3>{title}</h3>{table(cells, header=header, name='numbers')}" if cells else "")
    return parts


def _use(run: RunFolder) -> list[str]:
    weights = [saved for saved in run.weights() if saved.is_valid]
    if not weights:
        return []
    parts = ["<h2 id=use>Use it</h2>"]
    snippet, folder = facts.snippet(run), quote(str(run.path))
    if snippet:
        parts.append(f"<h3>In diffusers</h3><pre>{escape(snippet)}</pre>")
    parts.append(f"<h3>On the command line</h3><pre>{escape(f'finetrainers sample {folder} --prompt TEXT')}</pre>")
    if run.config is not None and facts.fits_comfyui(run.config, str((run.begun or {}).get("family"))):
        parts.append(f"<h3>In ComfyUI</h3><pre>{escape(f'finetrainers export {folder} --to comfyui')}</pre>")
    rows = [(f"step {one.step}", as_size(one.bytes / 1e9), str(one.path.relative_to(run.path))) for one in weights]
    return [*parts, table(rows, header=("Weights", "Size", "Folder"))]


def _settings(run: RunFolder) -> list[str]:
    parts = ["<h2 id=settings>Settings</h2>"]
    if run.config is None:
        parts.append("<p>config.yaml is not one that this version of finetrainers reads.</p>")
    else:
        parts.append('<p class="quiet">What differs from the defaults.</p>')
        parts.append(table(facts.settings(run.config), header=("Key", "Value", "Default"), name="settings"))
    start, begun = last_start(run), run.begun or {}
    packages = start.get("packages", {})
    rows = [(name, str(begun[key])) for name, key in FINGERPRINTS if begun.get(key)]
    rows += [(name, str(start[key])) for name, key in VERSIONS if start.get(key)]
    rows += [(name, str(packages[name])) for name in MAIN_PACKAGES if name in packages]
    if rows:
        parts.append(f"<details><summary>Versions and fingerprints</summary>{table(rows)}</details>")
    seconds = [(stage, facts.duration(value)) for stage, value in run.seconds.items()]
    if seconds:
        parts.append(f"<details><summary>Time before the loop</summary>{table(seconds)}</details>")
    return parts


FINGERPRINTS = (
    ("Data", "data"),
    ("Captions", "captions"),
    ("Held-out data", "held_out"),
    ("Held-out captions", "held_out_captions"),
    ("Model", "model"),
    ("Objective", "objective"),
)
VERSIONS = (
    ("finetrainers", "version"),
    ("Commit", "commit"),
    ("Python", "python"),
    ("CUDA", "cuda"),
    ("System", "platform"),
)
MAIN_PACKAGES = ("torch", "diffusers", "transformers", "peft", "torchao", "accelerate", "safetensors")
