"""``finetrainers rehearse``: tries a run in small before a GPU is paid for."""

import argparse
import json
import sys

from finetrainers.cli.imports import uncollected
from finetrainers.cli.options import count
from finetrainers.cli.status import DONE, USER_ERROR
from finetrainers.errors import ConfigError


def add_rehearse(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command; its options are read where overrides have been told apart from them."""
    rehearse = commands.add_parser(
        "rehearse", help="run a miniature of a run, to find errors before the real one", add_help=False
    )
    rehearse.set_defaults(run=run_rehearse)


def rehearse_parser() -> argparse.ArgumentParser:
    """Options of the command; whatever else is given is CONFIG and its overrides."""
    parser = argparse.ArgumentParser(
        "finetrainers rehearse",
        usage="finetrainers rehearse CONFIG [section.key=value | --section.key value ...] [options]",
        description="Check all that can be known of the run of CONFIG, and run a twin of it from the first item to weights "
        "that diffusers loads: the model shrunk from its config files, and a few of your own items. Nothing of yours is "
        "written. The exit status is 0 if nothing is in the way of the run, and 2 if something is.",
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="print the list as JSON")
    parser.add_argument(
        "--processes", type=count, metavar="N", help="processes of the real run (by default what parallel asks for)"
    )
    parser.add_argument("--disk", metavar="SIZE", help="free disk space on the machine of the real run, such as 500GB")
    parser.add_argument("--checks-only", action="store_true", help="do not run the twin")
    return parser


def run_rehearse(_: argparse.Namespace, words: list[str]) -> int:
    """``rehearse``."""
    from finetrainers.config import find_file

    options, rest = rehearse_parser().parse_known_args(words)
    if not rest:
        rehearse_parser().print_help()
        return USER_ERROR
    file, overrides = find_file(rest)
    if file is None:
        raise ConfigError(f"rehearse: no configuration file is among {' '.join(rest)!r}; give CONFIG as well")
    from finetrainers.cli.imports import quiet_libraries

    with uncollected():
        quiet_libraries()
        from finetrainers.training.rehearse.run import Rehearsing, rehearse

    how = Rehearsing(options.processes, _bytes(options.disk), not options.checks_only, _say)
    findings = rehearse(file, overrides, how)
    print(json.dumps(findings.report(), indent=1) if options.json else "\n".join(findings.lines()))
    return USER_ERROR if findings.errors else DONE


def _bytes(text: str | None) -> int | None:
    from finetrainers.config.memory import read_size

    if text is None:
        return None
    try:
        return int(str(read_size(text)))
    except ValueError as error:
        raise ConfigError(f"--disk: {error}") from None


def _say(what: str) -> None:
    print(f"rehearse: {what}", file=sys.stderr, flush=True)
