"""Two runs beside each other: settings, data, code, versions, machine and results."""

import math
from typing import Any

import numpy as np

from finetrainers.runs.comparison.causes import PLACES, Effect, effect_of, flat, order_of
from finetrainers.runs.folder import RunFolder
from finetrainers.runs.outputs import read_json
from finetrainers.runs.summary import LOCK_FILE, last_start
from finetrainers.runs.validations import best

VERSION = 1
SMALL = 1e-3
"""Difference of two losses, as a part of them, that rounding can make."""
TINY = 1e-30
MAX_ITEMS = 20
"""Items that are named of each kind of difference."""
Difference = dict[str, Any]
"""What differs: ``what`` (config, data, model, code, versions, machine, files), ``key``, ``values`` (both), ``effect``."""
IDENTITIES = (("data", "data"), ("held_out", "held-out data"), ("model", "model"), ("objective", "objective"))
CAPTIONS = (("captions", "captions"), ("held_out_captions", "held-out captions"))
"""Compared where both runs have noted them."""
CODE = ("version", "commit", "code")
MACHINE = ("platform", "devices", "processes", "cuda", "threads")


def compare(first: RunFolder, second: RunFolder) -> dict[str, Any]:
    """Compare two runs as of now; plain values, as ``--json`` prints them."""
    pair = (first, second)
    for run in pair:
        run.update()
    parting = part(first, second)
    is_first = parting is not None and parting["step"] == parting["first_step"]
    is_small = parting is not None and parting["relative"] <= SMALL
    items = _items(pair)
    told = ("data", "captions") if items else ()  # of which the items tell more
    contents = [one for one in (*_identities(pair), *_all_captions(pair)) if one["key"] not in told]
    found = [*_config(pair), *items, *contents, *_starts(pair)]
    ranked = sorted(found, key=lambda one: order_of(one["effect"], is_first=is_first, is_small=is_small))
    return {
        "version": VERSION,
        "runs": [_about(run) for run in pair],
        "parting": parting,
        "num_equal": _num_equal(first, second, parting),
        "differences": ranked,
        "results": _results(pair),
    }


def part(first: RunFolder, second: RunFolder) -> dict[str, Any] | None:
    """Find the first step that both took at which loss or gradient norm differ; None where all are equal to the bit."""
    common, a, b = np.intersect1d(first.columns.steps(), second.columns.steps(), return_indices=True)
    if not len(common):
        return None
    differs = np.zeros(len(common), np.bool_)
    for name in ("loss", "grad_norm"):
        one, other = first.columns.column(name)[a], second.columns.column(name)[b]
        differs |= ~((one == other) | (np.isnan(one) & np.isnan(other)))
    if not differs.any():
        return None
    place = int(np.argmax(differs))
    losses = [run.columns.column("loss")[rows][place].item() for run, rows in ((first, a), (second, b))]
    norms = [run.columns.column("grad_norm")[rows][place].item() for run, rows in ((first, a), (second, b))]
    apart = [abs(x - y) / max(abs(x), abs(y), TINY) for x, y in (losses, norms)]
    return {
        "step": int(common[place]),
        "first_step": int(common[0]),
        "loss": losses,
        "grad_norm": norms,
        "relative": max(own if math.isfinite(own) else 1.0 for own in apart),
    }


def _num_equal(first: RunFolder, second: RunFolder, parting: dict[str, Any] | None) -> int:
    """Steps that both took, and that are equal, from the first on."""
    common = np.intersect1d(first.columns.steps(), second.columns.steps())
    return int(len(common) if parting is None else (common < parting["step"]).sum())


def _about(run: RunFolder) -> dict[str, Any]:
    how = run.standing()
    return {"path": str(run.path), "name": run.name, "state": how.state, "step": how.step, "steps": run.steps}


def _difference(what: str, key: str, values: tuple[Any, Any], effect: Effect) -> Difference:
    return {"what": what, "key": key, "values": list(values), "effect": effect}


def _config(pair: tuple[RunFolder, RunFolder]) -> list[Difference]:
    """Settings that differ; where data and model are known by their contents, their places have no effect."""
    one, other = (flat(run.tree) for run in pair)
    is_known = all((run.begun or {}).get("data") and (run.begun or {}).get("model") for run in pair)
    found = []
    for key in dict.fromkeys([*one, *other]):
        values = one.get(key), other.get(key)
        if values[0] != values[1]:
            effect: Effect = "none" if is_known and PLACES.fullmatch(key) else effect_of(key)
            found.append(_difference("config", key, values, effect))
    return found


def _identities(pair: tuple[RunFolder, RunFolder]) -> list[Difference]:
    """Contents that differ: data, held-out data, model, objective of the user's own, and the order of samples."""
    found = []
    for key, name in (*IDENTITIES, ("order", "version of the order")):
        values = tuple((run.begun or {}).get(key) for run in pair)
        if values[0] != values[1]:
            effect: Effect = "none" if key == "held_out" else "first"
            found.append(_difference("contents", name, (values[0], values[1]), effect))
    files = [last_start(run).get("files", {}) for run in pair]
    for key in sorted({*files[0], *files[1]}):
        if files[0].get(key) != files[1].get(key):
            effect = "none" if key == "validation.prompts" else "first"
            found.append(_difference("files", key, (files[0].get(key), files[1].get(key)), effect))
    return found


def _all_captions(pair: tuple[RunFolder, RunFolder]) -> list[Difference]:
    """Captions that differ, as hashes of all; where each item is listed, and none differs, they are of no item of these."""
    is_listed = all(_listed(run) for run in pair)
    found = []
    for key, name in CAPTIONS:
        values = tuple((run.begun or {}).get(key) for run in pair)
        if None not in values and values[0] != values[1]:
            effect: Effect = "none" if is_listed or key.startswith("held_out") else "first"
            found.append(_difference("contents", name, (values[0], values[1]), effect))
    return found


def _listed(run: RunFolder) -> Any:
    """What lock.json lists of each item that is trained on; empty of too many."""
    return read_json(run.path, run.path / LOCK_FILE).get("items") or ()


def _items(pair: tuple[RunFolder, RunFolder]) -> list[Difference]:
    """Items that only one has, and those whose media or captions differ, by their names in their data sets."""
    lists = [_listed(run) for run in pair]
    if not all(lists):
        return []
    one, other = ({str(row[0]): row[1:] for row in rows if isinstance(row, list) and len(row) > 1} for rows in lists)
    kinds = {
        "items only in the first": sorted(one.keys() - other.keys()),
        "items only in the second": sorted(other.keys() - one.keys()),
        "items with other media": sorted(name for name in one.keys() & other.keys() if one[name][0] != other[name][0]),
        "items with other captions": sorted(
            name for name in one.keys() & other.keys() if _captions(one[name]) != _captions(other[name])
        ),
    }
    return [
        {**_difference("data", kind, (len(one), len(other)), "first"), "count": len(names), "names": names[:MAX_ITEMS]}
        for kind, names in kinds.items()
        if names
    ]


def _captions(row: list[str]) -> str:
    return row[1] if len(row) > 1 else ""


def _starts(pair: tuple[RunFolder, RunFolder]) -> list[Difference]:
    """What the last starts were made with: code, packages and machine."""
    one, other = (last_start(run) for run in pair)
    if not one or not other:
        return []
    found = [
        _difference("code", key, (one.get(key), other.get(key)), "first") for key in CODE if one.get(key) != other.get(key)
    ]
    return [*found, *differing_packages(one, other), *differing_machine(one, other)]


def differing_packages(one: dict[str, Any], other: dict[str, Any]) -> list[Difference]:
    """Packages, and Python, of other versions; None where one is not installed."""
    pairs = [("python", (one.get("python"), other.get("python")))]
    packages = one.get("packages", {}), other.get("packages", {})
    pairs += [(name, (packages[0].get(name), packages[1].get(name))) for name in sorted({*packages[0], *packages[1]})]
    return [_difference("versions", name, values, "rounding") for name, values in pairs if values[0] != values[1]]


def differing_machine(one: dict[str, Any], other: dict[str, Any]) -> list[Difference]:
    """Devices and system."""
    return [
        _difference("machine", key, (one.get(key), other.get(key)), "rounding")
        for key in MACHINE
        if one.get(key) != other.get(key)
    ]


def _results(pair: tuple[RunFolder, RunFolder]) -> list[dict[str, Any]]:
    """Figures of both, by what they are."""
    own = [_figures(run) for run in pair]
    return [{"what": name, "values": [figures[name] for figures in own]} for name in own[0]]


def _figures(run: RunFolder) -> dict[str, float | int | None]:
    columns, lowest = run.columns, best(run.validations())
    measured = [one for one in run.validations() if one.held_out_loss is not None]
    return {
        "steps": len(columns) and int(columns.steps()[-1]),
        "last loss": _last(run, "loss"),
        "held-out loss, last": measured[-1].held_out_loss if measured else None,
        "held-out loss, lowest": None if lowest is None else lowest.held_out_loss,
        "at step": None if lowest is None else lowest.step,
        "seconds a step (median)": _median(columns.column("step_seconds")),
        "peak memory in GB": run.peak_memory_gb,
        "steps skipped": _last(run, "skipped"),
    }


def _last(run: RunFolder, name: str) -> float | None:
    values = run.columns.column(name)
    return float(values[-1]) if len(values) and math.isfinite(values[-1]) else None


def _median(values: Any) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else None
