"""Write the tables of docs/choosing*.md from the recipes in the code; ``--check`` fails if they are not what it says."""

import argparse
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from finetrainers.models import adapters
from finetrainers.training.init.recipes import LEARNED, Figure, Learned, Recipe
from finetrainers.training.init.sources import SOURCES

DOCS = Path(__file__).parents[1] / "docs"
PAGES = ("choosing.md", "choosing_sources.md")
NUMBERS = {name: number for number, name in enumerate(SOURCES, 1)}
"""Number of each source on the page."""


def main() -> int:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the page is stale")
    is_check = parser.parse_args().check
    stale = [page for page in PAGES if not _is_fresh(DOCS / page, is_check=is_check)]
    for page in stale:
        print(f"{page} is stale: run python {Path(__file__).name} in scripts/", file=sys.stderr)
    return int(bool(stale))


def _is_fresh(page: Path, *, is_check: bool) -> bool:
    before = page.read_text(encoding="utf-8")
    text = filled(before)
    if not is_check:
        page.write_text(text, encoding="utf-8")
    return text == before or not is_check


def filled(page: str) -> str:
    """Put each table between its marks."""

    def table(found: re.Match[str]) -> str:
        lines = "\n".join(tables()[found[2]])
        return f"{found[1]}\n{lines}\n\n{found[3]}"

    return re.sub(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", table, page, flags=re.DOTALL)


def tables() -> Mapping[str, list[str]]:
    """Lines of each table."""
    sizes = list(next(iter(LEARNED.values())).recipes)
    return {
        "recipes": [
            f"| learned | {' | '.join(f'{size} items' for size in sizes)} | from |",
            "|---" * (len(sizes) + 2) + "|",
            *(_recipes(kind, own) for kind, own in LEARNED.items()),
        ],
        "batches": [
            "| learned | " + " | ".join(f"{size} items" for size in sizes) + " |",
            "|---" * (len(sizes) + 1) + "|",
            *_batches(),
        ],
        "numbers": [f"- {SOURCES[name].says}{_marks((name,))}" for name in ("number-a", "number-b", "rates")],
        "captions": [f"- **{kind}**: {own.captions}{_marks(own.sources)}." for kind, own in LEARNED.items()],
        "watch": [f"- **{kind}**: {own.watch}." for kind, own in LEARNED.items()],
        "rates": [
            "| family | `optimizer.lr` |",
            "|---|---|",
            *(f"| {name} | {adapter.recipe.lr:g} |" for name, adapter in adapters().items()),
        ],
        "sources": [f"{NUMBERS[name]}. <{own.address}>: {own.says}." for name, own in SOURCES.items()],
    }


def _recipes(kind: str, own: Learned) -> str:
    cells = [f"{_figure(recipe.rank)}, {_figure(recipe.passes)}" for recipe in own.recipes.values()]
    names = [name for recipe in own.recipes.values() for name in (*recipe.rank.sources, *recipe.passes.sources)]
    return f"| {kind} | {' | '.join(cells)} |{_marks((*names, *own.rate.sources)) or ' convention'} |"


def _batches() -> list[str]:
    """One line for kinds that have the same batches and shares."""
    found: dict[tuple[str, ...], list[str]] = {}
    for kind, own in LEARNED.items():
        found.setdefault(tuple(_batch(recipe) for recipe in own.recipes.values()), []).append(kind)
    return [f"| {', '.join(kinds)} | {' | '.join(cells)} |" for cells, kinds in found.items()]


def _batch(recipe: Recipe) -> str:
    return f"{recipe.batch_size}, {recipe.held_out:.0%}"


def _figure(own: Figure) -> str:
    return f"{own.value:g} ({own.low:g}-{own.high:g})" if own.low != own.high else f"{own.value:g}"


def _marks(names: tuple[str, ...]) -> str:
    numbers = sorted({NUMBERS[name] for name in names})
    return f" [{', '.join(map(str, numbers))}](choosing_sources.md)" if numbers else ""


if __name__ == "__main__":
    sys.exit(main())
