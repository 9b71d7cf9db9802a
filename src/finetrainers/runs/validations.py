"""What a validation has measured."""

import math
from dataclasses import dataclass, field

from finetrainers.runs.curves import numbers
from finetrainers.runs.log import Event


@dataclass(frozen=True, slots=True)
class ItemLosses:
    """Losses of training items, each at the same noise: path, loss, and the loss at the first validation."""

    easiest: tuple[tuple[str, float, float | None], ...]
    hardest: tuple[tuple[str, float, float | None], ...]


@dataclass(frozen=True, slots=True)
class Validation:
    """What a validation has measured."""

    step: int
    time: float
    """Seconds since 1970 UTC."""
    held_out_loss: float | None = None
    bins: dict[str, float] = field(default_factory=dict)
    """Held-out loss by noise level: "0.00-0.25" and so on; 0 is clean."""
    sets: dict[str, float] = field(default_factory=dict)
    """Held-out loss by data set, where the event tells it."""
    items: ItemLosses | None = None
    """Losses of single items, where they are measured."""
    num_held_out: int = 0
    samples: tuple[str, ...] = ()
    """Names of files, in the order of the prompts."""


def as_validation(event: Event) -> Validation:
    """Read a validation event."""
    bins, sets, samples = (event.get(name) for name in ("held_out_bins", "held_out_sets", "samples"))
    return Validation(
        int(event["step"]),
        float(event["time"]),
        numbers({"loss": event.get("held_out_loss")}).get("loss"),
        numbers(bins) if isinstance(bins, dict) else {},
        _by_path(sets) if isinstance(sets, list) else {},
        _items(event.get("items")),
        int(event.get("held_out_samples") or 0),
        tuple(map(str, samples)) if isinstance(samples, list) else (),
    )


def _items(told: object) -> ItemLosses | None:
    if not isinstance(told, dict):
        return None
    easiest, hardest = (
        tuple(
            (str(one.get("path")), known["loss"], known.get("first_loss"))
            for one in told.get(kind) or ()
            if isinstance(one, dict) and "loss" in (known := numbers(one))
        )
        for kind in ("easiest", "hardest")
    )
    return ItemLosses(easiest, hardest)


def _by_path(sets: list[object]) -> dict[str, float]:
    """Read the losses of data sets, by their paths."""
    rows = [one for one in sets if isinstance(one, dict) and isinstance(one.get("path"), str)]
    return numbers({str(one["path"]): one.get("loss") for one in rows})


def best(validations: list[Validation]) -> Validation | None:
    """The validation of the lowest held-out loss, the first of several; step 0 has no weights of its own, and is none."""
    measured = [
        one for one in validations if one.step and one.held_out_loss is not None and math.isfinite(one.held_out_loss)
    ]
    return min(measured, key=lambda one: (one.held_out_loss or 0.0, one.step), default=None)
