"""``finetrainers diff``: tells what differs between two runs."""

import argparse
from pathlib import Path


def add_diff(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    diff = commands.add_parser("diff", help="show what differs between two runs, the likely cause first")
    diff.add_argument("runs", metavar="RUN", type=Path, nargs=2, help="output_dir of a run")
    diff.add_argument("--json", action="store_true", help="print it as JSON")
    diff.set_defaults(run=run_diff)


def run_diff(options: argparse.Namespace, _: list[str]) -> None:
    """``diff``."""
    from finetrainers.files.whole import to_json
    from finetrainers.runs.comparison.compare import compare
    from finetrainers.runs.comparison.words import as_text
    from finetrainers.runs.folder import RunFolder

    first, second = options.runs
    told = compare(RunFolder(first), RunFolder(second))
    print(to_json(told, indent=1) if options.json else as_text(told))
