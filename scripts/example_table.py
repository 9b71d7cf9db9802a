"""Count what each example takes, without a GPU and without weights; write the tables of docs/measured_examples.md.

    python scripts/example_table.py                 # half an hour on one core
    python scripts/example_table.py --only tarot    # the rows whose example has this in its path
    python scripts/example_table.py --only tarot --print
    python scripts/example_table.py --check         # counts nothing: fails if a recipe is not the one that was counted

A row is of the example's own config.yaml, as ``finetrainers plan`` counts it. Where a card of 24 GB does not hold it, its
README and the table say what a plan adds there. ``scripts/fill_docs.py`` writes the rows into the READMEs.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml
from example_models import folder_of, forget

from finetrainers.cli.imports import quiet_libraries
from finetrainers.config import Config, load_config
from finetrainers.data.catalog.buckets import resolve_buckets
from finetrainers.errors import ConfigError
from finetrainers.models import open_model
from finetrainers.training.auto import settle
from finetrainers.training.cost import predict_step
from finetrainers.training.fit.choice import USABLE
from finetrainers.training.plan.figures import Planned
from finetrainers.training.plan.gpus import find_gpu
from finetrainers.training.plan.run import Asked, plan
from finetrainers.training.plan.speed import Machine

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples/training"
PAGE = ROOT / "docs/measured_examples.md"
CARDS = (12, 16, 24, 32, 48, 80, 96, 141)
"""GB."""
SMALL = 24
"""GB of the card that most people have who train at home."""
TABLES = {
    "examples": ("example", "GB", "in", "card", f"on {SMALL} GB", "step"),
    "disk": ("example", "item", "checkpoint", "weights", "recipe"),
}
"""Columns of each table of the page; a row of all is the name, and the rest of each."""
WIDTH = len(TABLES["examples"])


def rows(only: str) -> Iterator[tuple[str, list[str]]]:
    """Count the examples one by one: the name of each, and the cells of its row."""
    for file in sorted(EXAMPLES.rglob("config.yaml")):
        name = str(file.parent.relative_to(EXAMPLES))
        if only in name:
            print(name, file=sys.stderr, flush=True)
            folder = folder_of(load_config(file).model.path)
            yield name, [name, *cells(load_config(file, [f"model.path={folder}"])), recipe_hash(name)]
            forget(folder)


def cells(config: Config) -> list[str]:
    """Compose what is said of one example, as it is written and on a small card."""
    found = plan(config, Asked(say=silent))
    most = max(found.stages, key=lambda stage: stage.allocated or 0)
    gb = (most.allocated or 0) / 1e9
    card = next((card for card in CARDS if gb <= USABLE * card), None)
    return [
        f"{gb:.1f}",
        most.stage,
        "none" if card is None else str(card),
        "as written" if card is not None and card <= SMALL else on_small(config),
        f"{seconds_of_step(config):.2g} s",
        size_of(found.disk.item),
        size_of(found.disk.checkpoint),
        size_of(found.disk.weights),
    ]


def silent(_: str) -> None:
    """Show nothing."""


def seconds_of_step(config: Config) -> float:
    """Count the seconds of a step on an H200, at the largest bucket."""
    config = settle(config).config
    model = open_model(config.model, config.memory)
    sizes = {size for data in config.data for size in resolve_buckets(data.buckets)}
    cost = predict_step(config, model, max(sizes, key=model.adapter.grid.num_tokens))
    return Machine(find_gpu("h200")).seconds(cost.work)


def on_small(config: Config) -> str:
    """Say which keys a plan for a small card adds, and the most that any stage takes with them."""
    try:
        found = plan(config, Asked(find_gpu(f"{SMALL}GB"), say=silent))
    except ConfigError:
        return "nothing fits"
    if not found.fits:
        return "nothing fits"
    return f"{max(stage.allocated or 0 for stage in found.stages) / 1e9:.1f}: {added(found, config)}"


def added(found: Planned, config: Config) -> str:
    """Name the keys that are added: those of its step, and of the other stages, that are not as they are written."""
    (chosen,) = (own for own in found.techniques if own.is_chosen)
    keys = {key: str(value).lower() for key, value in chosen.keys.items()}
    memory = yaml.safe_load(str(found.proposal)).get("memory", {})
    for key in sorted(memory.keys() & {"text_encoder_weights", "vae_tiling", "vae_slicing"}):
        if memory[key] != config.memory.model_dump(mode="json")[key]:
            keys[f"memory.{key}"] = str(memory[key]).lower()
    return f"`{' '.join(f'{key}={value}' for key, value in keys.items())}`"


def size_of(num_bytes: int) -> str:
    """Write a size with two digits or more."""
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.{0 if num_bytes >= 1e7 else 1}f} MB"


def recipe_hash(name: str) -> str:
    """Name what is counted: the keys of an example's configuration, without its comments."""
    tree = yaml.safe_load((EXAMPLES / name / "config.yaml").read_text())
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:8]


def read_rows() -> dict[str, list[str]]:
    """Read the tables of the page: the cells of each example, and the recipe that was counted."""
    page, known = PAGE.read_text(), dict[str, list[str]]()
    for table in TABLES:
        text = page.partition(f"<!-- table: {table} -->")[2].partition("<!-- end of table -->")[0]
        lines = [line for line in text.splitlines() if line.startswith("| ")]
        for name, *cells in ([cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]):
            known.setdefault(name, [name]).extend(cells)
    return known


def write_rows(known: Mapping[str, Sequence[str]]) -> None:
    """Put the tables into the page."""
    from memory_table import filled

    page = PAGE.read_text()
    for table, header in TABLES.items():
        parts = (known[name][:WIDTH] if table == "examples" else [name, *known[name][WIDTH:]] for name in sorted(known))
        lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}", *(f"| {' | '.join(part)} |" for part in parts)]
        page = filled(page, table, lines)
    PAGE.write_text(page)


def stale() -> list[str]:
    """Name the examples of the table whose recipe is not the one that was counted."""
    return [name for name, cells in read_rows().items() if cells[-1] != recipe_hash(name)]


def main() -> None:
    """Count, and write each row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="part of the paths of examples")
    parser.add_argument("--print", action="store_true", help="print the rows, and change no page")
    parser.add_argument(
        "--check", action="store_true", help="count nothing; fail if a recipe is not the one that was counted"
    )
    options = parser.parse_args()
    if options.check:
        for name in stale():
            print(f"{name} has changed: run python scripts/example_table.py --only {name}")
        raise SystemExit(bool(stale()))
    quiet_libraries()
    for name, own in rows(options.only):
        if options.print:
            print(f"| {' | '.join(own)} |", flush=True)
        else:
            write_rows(read_rows() | {name: own})


if __name__ == "__main__":
    main()
