"""Train short runs of all families on several layouts of processes, and write the table of docs/parallel.md.

    python scripts/layout_table.py             # some minutes on two cores
    python scripts/layout_table.py --print     # prints the table, and changes nothing
    python scripts/layout_table.py --device cuda --only "DDP 2"

Rows and columns are those of tests/distributed: this is its table, with the differences instead of a bound.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parent.parent / "tests"
sys.path += [str(TESTS), str(TESTS / "distributed"), str(TESTS / "models")]

import imported_by_ranks  # noqa: E402, F401 - the settings of all tests
from layouts import ALONE, LAYOUTS, Figures, differences, run_layout  # noqa: E402
from memory_table import DOCS, filled, row, say  # noqa: E402
from table_cases import EXPERTS, GIVEN, make_trees  # noqa: E402

from finetrainers.testing import make_tiny  # noqa: E402

NAME = "layouts"


def measure(folder: Path, layouts: Sequence[str], device: str) -> Mapping[str, Mapping[str, Figures | str]]:
    """Run all rows on each layout."""
    (folder / "runs").mkdir()
    trees = make_trees(_tiny(folder), folder / "runs")
    found = {}
    for number, layout in enumerate((ALONE, *layouts)):
        say(layout)
        found[layout] = run_layout(layout, trees, folder / str(number), device=device)
        for name, run in found[layout].items():
            alone = found[ALONE][name]
            both = isinstance(run, Figures) and isinstance(alone, Figures)
            say(f"{name}, {layout}: {differences(run, alone) if both else run}")
    return found


def _tiny(folder: Path) -> Callable[[str, str], Path]:
    @cache
    def make(family: str, variant: str) -> Path:
        return make_tiny(family, folder / f"{family} {variant}", variant=variant)

    return make


def kind_of(name: str) -> str:
    """What a row of the table has in common with others."""
    kind = "full rank" if ", full" in name else "LoRA"
    if name.endswith((", control", ", references")):
        return f"{name.rpartition(', ')[2]}, {kind}"
    if name.endswith((", EMA", ", 8-bit states")):
        return f"{name.rpartition(', ')[2]}, {kind}"
    if name.startswith(EXPERTS):
        return f"two experts, {kind}"
    return f"given frames, {kind}" if name.startswith(GIVEN) else f"six families, {kind}"


def table(found: Mapping[str, Mapping[str, Figures | str]]) -> Iterator[str]:
    """Largest relative difference of a loss or gradient norm from that of one process."""
    layouts = [layout for layout in found if layout != ALONE]
    largest: dict[str, dict[str, list[float]]] = {}
    refused: dict[str, list[str]] = {}
    for name, alone in found[ALONE].items():
        for layout in layouts:
            run = found[layout].get(name, "refused")
            if isinstance(run, Figures) and isinstance(alone, Figures):
                different = differences(run, alone)
                own = largest.setdefault(kind_of(name), {}).setdefault(layout, [])
                own.append(max(different["loss"], different["norm"]))
            else:
                refused.setdefault(layout, []).append(name)
    yield row("runs", *layouts)
    yield f"|---|{'---|' * len(layouts)}"
    for kind, by_layout in largest.items():
        yield row(kind, *(f"{max(by_layout[layout]):.1e}" if layout in by_layout else "refused" for layout in layouts))
    for layout, names in refused.items():
        say(f"{layout} refuses {', '.join(names)}")


def main() -> None:
    """Make the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--print", action="store_true", help="print the table, and change no page")
    parser.add_argument("--only", action="append", help="a layout; may be given several times")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda with a GPU for each process")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        layouts = options.only or [layout for layout in LAYOUTS if layout != ALONE]
        lines = list(table(measure(Path(folder), layouts, options.device)))
    if options.print:
        print("\n".join(lines))
    else:
        page = DOCS / "parallel.md"
        page.write_text(filled(page.read_text(), NAME, lines))


if __name__ == "__main__":
    main()
