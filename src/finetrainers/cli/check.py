"""``finetrainers check``: all that can be known of a run without loading weights."""

import argparse
import json
from contextlib import closing

from finetrainers.cli.imports import uncollected
from finetrainers.cli.options import count
from finetrainers.cli.status import DONE, USER_ERROR
from finetrainers.errors import ConfigError


def add_check(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command; its options are read where overrides have been told apart from them."""
    check = commands.add_parser("check", help="show what a run would do, and what is wrong with it", add_help=False)
    check.set_defaults(run=run_check)


def check_parser() -> argparse.ArgumentParser:
    """Options of the command; whatever else is given is CONFIG and its overrides."""
    parser = argparse.ArgumentParser(
        "finetrainers check",
        usage="finetrainers check CONFIG [section.key=value | --section.key value ...] [options]",
        description="Check everything that train checks before it loads weights, and show what the run would do. "
        "Nothing is written. The exit status is 0 if train would start, and 2 if not. Keys are those of finetrainers train "
        "--help.",
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument(
        "--processes", type=count, metavar="N", help="processes of the run (by default what parallel asks for)"
    )
    return parser


def run_check(_: argparse.Namespace, words: list[str]) -> int:
    """``check``."""
    from finetrainers.config import find_file

    options, rest = check_parser().parse_known_args(words)
    if not rest:
        check_parser().print_help()
        return USER_ERROR
    file, overrides = find_file(rest)
    if file is None:
        raise ConfigError(f"check: no configuration file is among {' '.join(rest)!r}; give CONFIG as well")
    from finetrainers.cli.imports import quiet_libraries

    with uncollected():
        quiet_libraries()
        from finetrainers.training.check.page import as_report, as_text
        from finetrainers.training.check.run import Checking, check
        from finetrainers.training.console.bar import Stages

    with closing(Stages()) as stages:
        checked = check(file, overrides, Checking(options.processes, progress=stages.show))
    print(json.dumps(as_report(checked), indent=1) if options.json else as_text(checked))
    return USER_ERROR if checked.findings.errors else DONE
