"""``finetrainers reproduce``: checks that a run can be made again, and makes it again."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from finetrainers.cli.imports import uncollected
from finetrainers.cli.status import DONE, USER_ERROR

if TYPE_CHECKING:
    from finetrainers.runs.folder import RunFolder
    from finetrainers.training.reproduce import Check


def add_reproduce(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    reproduce = commands.add_parser("reproduce", help="check whether a run can be repeated, or repeat it")
    reproduce.add_argument("run_directory", metavar="RUN", type=Path, help="output_dir of the run")
    reproduce.add_argument("--output", type=Path, metavar="DIR", help="train the run again in this folder, and compare")
    reproduce.add_argument("--json", action="store_true", help="print the checks, and the comparison, as JSON")
    reproduce.set_defaults(run=run_reproduce)


def run_reproduce(options: argparse.Namespace, _: list[str]) -> int:
    """``reproduce``."""
    from finetrainers.runs.folder import RunFolder

    run = RunFolder(options.run_directory)
    with uncollected():
        from finetrainers.cli.imports import quiet_libraries

        quiet_libraries()
        from finetrainers.training.reproduce import can_be_made, check_run, is_same_machine

    checks = check_run(run)
    told: dict[str, object] = {"checks": [_plain(check) for check in checks], "can_be_made": can_be_made(checks)}
    if not options.json:
        print("\n".join(map(_line, checks)))
    status = DONE if can_be_made(checks) else USER_ERROR
    if status == DONE and options.output is not None:
        status = _make(run, options, told, is_same_machine=is_same_machine(checks))
    if options.json:
        from finetrainers.files.whole import to_json

        print(to_json(told, indent=1))
    elif status != DONE and options.output is not None and not can_be_made(checks):
        print("not made again: what it needs has changed", file=sys.stderr)
    return status


def _make(run: "RunFolder", options: argparse.Namespace, told: dict[str, object], *, is_same_machine: bool) -> int:
    """Train it again, and compare; equal bits are owed by the same code, packages and machine alone."""
    from finetrainers.runs.comparison.compare import SMALL, compare
    from finetrainers.runs.comparison.words import as_text
    from finetrainers.training.reproduce import make_again

    told["comparison"] = found = compare(run, make_again(run, options.output))
    if not options.json:
        print(f"\n{as_text(found)}")
    parting = found["parting"]
    is_close = parting is None or (not is_same_machine and parting["relative"] <= SMALL)
    return DONE if is_close and (parting is not None or found["num_equal"]) else USER_ERROR


def _line(check: "Check") -> str:
    word = {True: "same", False: "CHANGED" if check.is_needed else "differs", None: "unknown"}[check.is_same]
    return f"{check.what}: {word}{f': {check.detail}' if check.detail else ''}"


def _plain(check: "Check") -> dict[str, object]:
    return {"what": check.what, "is_same": check.is_same, "is_needed": check.is_needed, "detail": check.detail}
