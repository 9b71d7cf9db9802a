"""``finetrainers data``: looks at the data of a run before it is begun, and prepares raw media."""

import argparse
import json
from contextlib import closing
from pathlib import Path

from finetrainers.cli.data_prepare import add_prepare
from finetrainers.cli.imports import uncollected
from finetrainers.cli.options import check_target, count_or_none
from finetrainers.cli.status import DONE, USER_ERROR
from finetrainers.errors import ConfigError


def add_data(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command with its actions; their options are read where overrides have been told apart from them."""
    data = commands.add_parser("data", help="inspect the data of a run, or prepare raw media")
    actions = data.add_subparsers(dest="action", required=True, metavar="ACTION")
    action = actions.add_parser("inspect", help="show what a run would train on, and what is wrong with it", add_help=False)
    action.set_defaults(run=run_inspect)
    add_prepare(actions)


def inspect_parser() -> argparse.ArgumentParser:
    """Options of the action; whatever else is given is CONFIG and its overrides."""
    parser = argparse.ArgumentParser(
        "finetrainers data inspect",
        usage="finetrainers data inspect CONFIG [section.key=value | --section.key value ...] [options]",
        description="Plan the run of CONFIG, look at its data, and tell what would be trained on. Nothing is encoded. The "
        "exit status is 0 if training would run, and 2 if not. Keys are those of finetrainers train --help.",
        allow_abbrev=False,
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the report as an HTML page with images")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--decode", action="store_true", help="decode everything that would be encoded")
    parser.add_argument(
        "--sample", type=count_or_none, default=1000, metavar="N", help="media whose pixels are examined (1000)"
    )
    return parser


def run_inspect(_: argparse.Namespace, words: list[str]) -> int:
    """``data inspect``."""
    from finetrainers.config import find_file, load_config

    options, rest = inspect_parser().parse_known_args(words)
    if not rest:
        inspect_parser().print_help()
        return USER_ERROR
    file, overrides = find_file(rest)
    if file is None:
        raise ConfigError(f"data inspect: no configuration file is among {' '.join(rest)!r}; give CONFIG as well")
    if options.output is not None and options.output.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--output: {options.output} is no .html; name the file of the page")
    if options.output is not None:
        check_target("--output", options.output)
    config = load_config(file, overrides)
    with uncollected():
        from finetrainers.cli.imports import quiet_libraries

        quiet_libraries()
        from finetrainers.files.whole import write_whole
        from finetrainers.training.console.bar import Stages
        from finetrainers.training.inspect.look import Inspecting, inspect
        from finetrainers.training.inspect.page import as_page
        from finetrainers.training.inspect.text import as_text

    with closing(Stages()) as stages:
        found = inspect(config, Inspecting(options.sample, options.decode, stages.show))
    if options.output is not None:
        write_whole(options.output, as_page(found.report, found.prepared))
    print(json.dumps(found.report, indent=1) if options.json else as_text(found.report))
    return DONE if found.report["would_train"] else USER_ERROR
