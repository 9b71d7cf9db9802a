"""A comparison in words, for a terminal."""

from collections.abc import Iterator
from typing import Any

from finetrainers.runs.report.facts import shown

SHORT = 60
"""Letters of a value."""
MANY = 20
"""Differences of one kind that are listed."""
TITLES = {
    "first": "From the first step on",
    "update": "By an update",
    "rounding": "In the last digits",
    "none": "Without effect on what is trained",
}


def as_text(told: dict[str, Any]) -> str:
    """Write what differs: where the runs part, the likely cause, all else, and the results."""
    return "\n".join([*_runs(told), *_parting(told), *_differences(told), *_results(told)])


def _runs(told: dict[str, Any]) -> Iterator[str]:
    for letter, run in zip("AB", told["runs"], strict=True):
        yield f"{letter}: {run['path']}: {run['state']}, step {run['step']} of {run['steps']}"


def _parting(told: dict[str, Any]) -> Iterator[str]:
    parting, count = told["parting"], told["num_equal"]
    yield ""
    if parting is None:
        yield f"equal to the bit: losses and gradient norms of {count} steps" if count else "no step is common to both"
        return
    losses, norms = (" and ".join(f"{value:.9g}" for value in parting[name]) for name in ("loss", "grad_norm"))
    yield f"they part at step {parting['step']}: loss {losses}, gradient norm {norms}"
    yield f"steps before it that are equal to the bit: {count}"


def _differences(told: dict[str, Any]) -> Iterator[str]:
    found = told["differences"]
    causes = [one for one in found if one["effect"] != "none"]
    if not causes:
        yield "nothing is known that could make them differ"
    elif told["parting"] is not None:
        yield f"most likely by {line_of(causes[0])}"
    for effect in dict.fromkeys(one["effect"] for one in found):
        yield f"\n{TITLES[effect]}:"
        own = [one for one in found if one["effect"] == effect]
        for one in own[:MANY]:
            yield f"  {line_of(one)}"
            yield from (f"    {name}" for name in one.get("names", ()))
        if len(own) > MANY:
            yield f"  and {len(own) - MANY} more, which --json lists"


def line_of(one: dict[str, Any]) -> str:
    """Say what differs, and both values."""
    if "count" in one:
        return f"{one['count']} {one['key']}" if one["count"] != 1 else f"1 {one['key'].replace('items', 'item', 1)}"
    name = one["key"] if one["what"] in {"config", "contents"} else f"{one['what']}: {one['key']}"
    before, after = (_short(shown(value)) for value in one["values"])
    return f"{name}: {before} -> {after}"


def _short(text: str) -> str:
    return text if len(text) <= SHORT else f"{text[: SHORT - 3]}..."


def _results(told: dict[str, Any]) -> Iterator[str]:
    yield f"\n{'':26}{'A':>16}{'B':>16}"
    for row in told["results"]:
        cells = "".join(f"{'-' if value is None else f'{value:.6g}':>16}" for value in row["values"])
        yield f"{row['what']:26}{cells}"
