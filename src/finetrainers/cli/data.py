"""``finetrainers data``: looks at the data of a run before it is begun, and prepares raw media."""

import argparse
import json
import sys
from pathlib import Path

from finetrainers.cli.data_prepare import add_prepare
from finetrainers.cli.status import DONE, USER_ERROR
from finetrainers.errors import ConfigError


def add_data(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command with its actions; their options are read where overrides have been told apart from them."""
    data = commands.add_parser("data", help="inspect the data of a run, or prepare raw media")
    actions = data.add_subparsers(dest="action", required=True, metavar="ACTION")
    action = actions.add_parser(
        "inspect", help="tell what the data of a run are, and whether it would train", add_help=False
    )
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
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the report as an HTML page with pictures")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--decode", action="store_true", help="decode all that would be encoded")
    parser.add_argument("--sample", type=_count, default=1000, metavar="N", help="media whose pixels are looked at (1000)")
    return parser


def _count(text: str) -> int:
    if int(text) < 0:
        raise ValueError(text)  # argparse names the option and the value
    return int(text)


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
    config = load_config(file, overrides)
    from finetrainers.cli.commands import quiet_libraries

    quiet_libraries()
    from finetrainers.files.whole import write_whole
    from finetrainers.training.inspect.look import Inspecting, inspect
    from finetrainers.training.inspect.page import as_page
    from finetrainers.training.inspect.text import as_text

    found = inspect(config, Inspecting(options.sample, options.decode, Bars().show))
    if options.output is not None:
        write_whole(options.output, as_page(found.report, found.prepared))
    print(json.dumps(found.report, indent=1) if options.json else as_text(found.report))
    return DONE if found.report["would_train"] else USER_ERROR


class Bars:
    """A progress bar for each stage, on stderr."""

    def __init__(self) -> None:
        from tqdm import tqdm

        self._make, self._stage = tqdm, ""

    def show(self, stage: str, done: int, total: int) -> None:
        """Tell how far a stage is."""
        if stage != self._stage:
            self._stage = stage
            self._bar = self._make(total=total, desc=stage, unit="item", mininterval=0.5, file=sys.stderr)
        self._bar.update(done - self._bar.n)
        if done >= total:
            self._bar.close()
