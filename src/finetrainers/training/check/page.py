"""What a check has found, in words for a terminal of 80 columns, and as plain values."""

import textwrap
from collections.abc import Iterator
from typing import Any

from finetrainers.data.catalog.found import set_lines
from finetrainers.events import RunOutline
from finetrainers.events.words import as_share, as_size, as_steps, as_trained, plural
from finetrainers.training.check.run import Checked
from finetrainers.training.console.outline import NUM_BAD

REPORT_VERSION = 1
WIDTH, LABEL = 80, 12
MAX_BUCKETS = 12
"""Rows of the table of buckets."""
FILES = ("config.yaml", "events.jsonl", "report.json", "checkpoints/", "weights/", "validation/")
"""What a run writes into its directory."""
NEXT = "memory and time: finetrainers plan CONFIG; a trial of the run in small: finetrainers rehearse CONFIG"
"""Where the answers are that a check does not give."""


def as_report(checked: Checked) -> dict[str, Any]:
    """Return plain values, as ``--json`` prints them."""
    findings, outline = checked.findings, checked.outline
    return {
        "version": REPORT_VERSION,
        "ok": not findings.errors,
        "errors": findings.errors,
        "warnings": findings.warnings,
        "not_checked": findings.left_out,
        "changed": list(checked.changed),
        "run": None if outline is None else outline.tree(),
    }


def as_text(checked: Checked) -> str:
    """Write a page to read."""
    findings, outline = checked.findings, checked.outline
    lines = [] if outline is None else list(_outline_lines(outline, checked))
    errors = [_shortened(error) for error in findings.errors]
    told = [("not checked", findings.left_out), ("warning", findings.warnings), ("ERROR", errors)]
    lines += ["", *textwrap.wrap(NEXT, WIDTH)] if outline is not None else []
    lines += [line for kind, sentences in told for sentence in sentences for line in _listed(kind, sentence)]
    count = len(findings.errors)
    verdict = "OK: train would begin" if outline is None or not outline.resumed_from else "OK: train would continue"
    return "\n".join([*lines, "", f"{count} error{'s' * (count != 1)}: train would not begin" if count else verdict])


def _shortened(error: str) -> str:
    """Cut the list of bad samples: there may be as many as there are items."""
    lines = error.split("\n")
    listed = [line for line in lines if line.startswith("  ")]
    if not error.startswith("data: ") or len(listed) <= NUM_BAD:
        return error
    last = lines.index(listed[NUM_BAD - 1])
    rest = [line for line in lines[last + 1 :] if not line.startswith("  ")]
    return "\n".join([*lines[: last + 1], f"  and {len(listed) - NUM_BAD} more, which --json lists", *rest])


def _outline_lines(run: RunOutline, checked: Checked) -> Iterator[str]:
    revision = f" ({run.model_revision})" if run.model_revision else ""
    yield from _row("model", f"{run.family}, {run.task}: {run.model_path}{revision}")
    yield from _row("device", _device(run))
    for number, line in enumerate(set_lines([own.tree() for own in run.sets])):
        yield from _row("" if number else "data", line)
    yield from _row("", _samples(run, checked.num_bad_held_out))
    errors = "\n".join(checked.findings.errors)
    for bad in [own for own in run.bad or () if f"{own.path}: {own.reason}" not in errors]:
        yield from _row("left out", f"{bad.path}: {bad.reason}")
    yield from _buckets(run)
    yield from _row("trains", "-" if run.trained is None else as_trained(run.trained))
    for number, line in enumerate(run.auto or ()):
        yield from _row("" if number else "auto", line)
    for number, line in enumerate(run.yours or ()):
        yield from _row("" if number else "yours", line)
    yield from _row("steps", as_steps(run.steps, run.batch_size, run.samples_of_pass or run.num_samples))
    yield from _row("validation", _validations(run, asks_held_out=checked.asks_held_out))
    yield from _row("start", _start(run))
    for change in checked.changed:
        yield from _row("", change)
    yield from _row("writes", f"{run.output_dir}: {', '.join(FILES)}")
    for own in run.disk or ():
        yield from _row("", f"{own.what}, at most {as_size(own.gb)}: {own.path}")


def _device(run: RunOutline) -> str:
    memory = "" if run.device_memory_gb is None else f", {run.device_memory_gb:.0f} GB"
    count = run.processes or 1
    return f"{run.device_name or run.device}{memory}" + (f"; {count} processes, a device each" if count > 1 else "")


def _samples(run: RunOutline, num_bad_held_out: int) -> str:
    apart = run.num_apart or 0
    told = f"{plural(run.num_samples, 'sample')} to train on"
    if apart:
        real = apart / (apart + run.num_samples)
        asked = "" if run.held_out_asked is None else f" ({real:.0%}; asked for {run.held_out_asked:.0%})"
        measured = "" if run.num_held_out == apart else f", {run.num_held_out} of them measured"
        told += f", {apart} held out{asked}{measured}"
    num_bad = run.num_bad - num_bad_held_out
    told += f"; {plural(num_bad, 'item')} left out" if num_bad else ""
    return told + (f"; {plural(num_bad_held_out, 'item')} of validation.data left out" if num_bad_held_out else "")


def _buckets(run: RunOutline) -> Iterator[str]:
    """Write a table; generated buckets without samples are not in it."""
    filled = [own for own in run.buckets if own.samples or own.held_out]
    shown = sorted(filled, key=lambda own: -own.samples)[:MAX_BUCKETS]
    head = f"{'frames':>6} {'height':>6} {'width':>6} {'samples':>8} {'held out':>8} {'cut off':>8} {'worst':>6}"
    yield from _row("buckets", head)
    for own in shown:
        cut = [as_share(share) for share in (own.cropped, own.most_cropped)]
        frames, height, width = own.size
        row = f"{frames:>6} {height:>6} {width:>6} {own.samples:>8} {own.held_out:>8} {cut[0]:>8} {cut[1]:>6}"
        yield f"{'':{LABEL}}{row}"
    others = len(run.buckets) - len(shown)
    if others:
        empty = others - (len(filled) - len(shown))
        more = plural(others, "more bucket")
        yield from _row("", f"and {more} without samples" if empty == others else f"and {more}, {empty} without samples")


def _validations(run: RunOutline, *, asks_held_out: bool) -> str:
    what = [plural(run.num_prompts, "prompt")] if run.num_prompts else []
    what += [f"the held-out loss of {plural(run.num_held_out, 'sample')}"] if run.num_held_out else []
    often = "at the beginning and the end" if run.validate_every is None else f"each {plural(run.validate_every, 'step')}"
    saved = f"saves each {plural(run.save_every or run.steps, 'step')}"
    why = "none of what is held out can be used" if asks_held_out else "nothing held out"
    return f"{' and '.join(what)} {often}; {saved}" if what else f"none: no prompts, {why}; {saved}"


def _start(run: RunOutline) -> str:
    if run.resumed_from is None:
        return f"a new run in {run.output_dir}"
    return f"continues after step {run.resumed_from} of {run.steps} in {run.output_dir}"


def _row(label: str, text: str) -> list[str]:
    """Write a label and what it is of, the latter below itself where it takes several lines."""
    own = " " * (len(text) - len(text.lstrip()))
    return textwrap.wrap(
        text.strip(),
        WIDTH,
        initial_indent=f"{label:{LABEL}}{own}",
        subsequent_indent=" " * LABEL + own,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _listed(kind: str, sentence: str) -> list[str]:
    lines = [line for part in sentence.split("\n") for line in (_row("", part) or [""])]
    return ["", f"{kind + ':':{LABEL - 1}} {lines[0].strip()}", *lines[1:]]
