"""Losses of single items: which the model finds easiest and hardest, and what each was at first."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from finetrainers.data.order.jobs import SampleJob
from finetrainers.events import ItemLoss, ItemTable, SetLoss
from finetrainers.files.steps import step_folders

FACTS_FILE = "validation.json"
"""In the folder of a validation: its figures, those of all items among them."""
ITEMS = "item_losses"
"""Key there."""
MAX_ROWS = 5
"""Items that either half of the table names."""


def item_facts(jobs: Sequence[SampleJob], rows: Mapping[int, Tensor]) -> list[dict[str, str | float]]:
    """Say of each item what its loss is, the mean over its noise levels [levels]; ``key`` tells windows of a file apart."""
    return [
        {"path": job.target.path, "key": job.target.key, "loss": float(rows[number].double().mean())}
        for number, job in enumerate(jobs)
    ]


def item_table(facts: Sequence[Mapping[str, str | float]], first: Mapping[str, float]) -> ItemTable:
    """Name the easiest and the hardest items, the easiest first and the hardest first.

    Args:
        facts: Of all items.
        first: What their losses were at the first validation, by key.
    """
    ordered = sorted(facts, key=lambda item: (float(item["loss"]), str(item["key"])))
    count = max(1, min(MAX_ROWS, len(ordered) // 2))
    rows = [
        ItemLoss(path=str(item["path"]), loss=float(item["loss"]), first_loss=first.get(str(item["key"])))
        for item in ordered
    ]
    mean = sum(float(item["loss"]) for item in facts) / len(facts)
    return ItemTable(items=len(rows), loss=mean, easiest=rows[:count], hardest=rows[::-1][:count])


def set_losses(paths: Sequence[str], numbers: Sequence[int], rows: Mapping[int, Tensor]) -> list[SetLoss] | None:
    """Mean held-out loss of each data set; None where only one has held-out samples.

    Args:
        paths: Of the data sets.
        numbers: Of the data set of each held-out sample.
        rows: Losses of the samples, [levels], by number.
    """
    found = sorted(set(numbers))
    if len(found) < 2:
        return None
    own = {number: [float(rows[n].double().mean()) for n, of in enumerate(numbers) if of == number] for number in found}
    return [SetLoss(path=paths[n], samples=len(own[n]), loss=sum(own[n]) / len(own[n])) for n in found]


def first_losses(root: Path, step: int) -> dict[str, float]:
    """Losses of items at the first validation before a step that measured some, by key.

    Args:
        root: Folder of the validations.
        step: Of the one that is made.
    """
    for other, folder in step_folders(root).items():
        losses = item_losses(folder) if other < step else {}
        if losses:
            return losses
    return {}


def item_losses(folder: Path) -> dict[str, float]:
    """Losses of items at one validation, by key; none if it measured none."""
    return {item["key"]: float(item["loss"]) for item in read_facts(folder).get(ITEMS, ())}


def read_facts(folder: Path) -> dict[str, Any]:
    """Read the figures of a validation; none if the file is gone or damaged."""
    try:
        facts: dict[str, Any] = json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return facts
