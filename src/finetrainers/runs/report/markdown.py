"""The report of a run as Markdown, for a model card: no path of this machine is in it."""

import re
from collections.abc import Iterable, Sequence
from urllib.parse import quote

from finetrainers.runs.folder import RunFolder
from finetrainers.runs.report import facts
from finetrainers.runs.state import Standing
from finetrainers.runs.validations import best

SAMPLES_FOLDER = "samples"
"""In the repository: where a push to the Hub puts the samples of the last step."""
PLACES = re.compile(r"(^|\.)(path|control_path|output_dir|prompts|start_from|folders|dir|signal|adapter)$|^cache\.")
"""Keys of places on this machine, which are nobody else's business."""
PRIVATE = re.compile(r"(^|[\s\"'\[({:=,])(~|/\w|[A-Za-z]:\\)|file:/")
"""Begins an absolute place on some machine, be it in the value of a key that is none of these."""
SHOWN_PROMPTS = 24


def as_markdown(run: RunFolder, standing: Standing) -> str:
    """Write head, held-out loss, samples and settings as a section of a model card."""
    rows = [(label, value) for label, value in facts.head(run, standing) if label != "State"]
    parts = [f"## Training of {text(run.name)}", _table(("", ""), rows)]
    measured = [one for one in run.validations() if one.held_out_loss is not None]
    if measured:
        lowest = best(measured)
        bins = list(dict.fromkeys(name for one in measured for name in one.bins))
        header = ("Step", "Held-out loss", *(f"at {name}" for name in bins))
        losses = [
            (
                f"{one.step}{' (best)' if one is lowest else ''}",
                f"{one.held_out_loss:.5f}",
                *(f"{one.bins[n]:.4f}" if n in one.bins else "" for n in bins),
            )
            for one in measured
        ]
        parts += ["### Held-out loss", "By noise level: 0 is clean, 1 is noise.", _table(header, losses)]
    parts += _samples(run)
    if run.config is not None:
        settings = [
            row for row in facts.settings(run.config) if not PLACES.search(row[0]) and not any(map(PRIVATE.search, row[1:]))
        ]
        parts += ["### Settings", "What differs from the defaults.", _table(("Key", "Value", "Default"), settings)]
    return "\n\n".join(parts) + "\n"


def _samples(run: RunFolder) -> list[str]:
    samples = run.samples()
    if not samples:
        return []
    last = [sample for sample in samples if sample.step == samples[-1].step][:SHOWN_PROMPTS]
    rows = []
    for sample in last:
        link = f"{SAMPLES_FOLDER}/{quote(sample.file.name)}"
        shown = f"[{sample.file.name}]({link})" if sample.is_video else f"![]({link})"
        rows.append((text(sample.prompt), shown))
    return ["### Samples", f"Of step {last[0].step}.", _table(("Prompt", "Sample"), rows, is_plain=False)]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], *, is_plain: bool = True) -> str:
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    return "\n".join([*lines, *(f"| {' | '.join(text(cell) if is_plain else cell for cell in row)} |" for row in rows)])


def text(words: str) -> str:
    """Write plain words such that Markdown and the HTML in it mean nothing else by them."""
    one_line = " ".join(words.split())
    escaped = re.sub(r"([\\`*_{}\[\]#|~$!])", r"\\\1", one_line)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
