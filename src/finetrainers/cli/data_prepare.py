"""``finetrainers data prepare``: makes a set that can be trained on of raw media."""

import argparse
import sys

from finetrainers.cli.status import DONE, USER_ERROR
from finetrainers.errors import ConfigError


def add_prepare(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the action; what follows it is CONFIG and its overrides."""
    action = actions.add_parser("prepare", help="make a data set from raw media", add_help=False)
    action.set_defaults(run=run_prepare)


def run_prepare(_: argparse.Namespace, words: list[str]) -> int:
    """``data prepare``."""
    from finetrainers.config import find_file
    from finetrainers.config.curate import PrepareConfig
    from finetrainers.config.load import load_section

    wants_help = "-h" in words or "--help" in words
    if wants_help or not words:
        from finetrainers.cli.help import config_help

        print(config_help("data prepare", PrepareConfig))
        return DONE if wants_help else USER_ERROR
    file, overrides = find_file(words, PrepareConfig)
    if file is None:
        raise ConfigError(f"data prepare: no configuration file is among {' '.join(words)!r}; give CONFIG as well")
    config = load_section(file, overrides, PrepareConfig)
    if any("model" in type(step).model_fields for step in config.steps):
        from finetrainers.cli.imports import quiet_libraries

        quiet_libraries()
    from finetrainers.data.curate.prepare import prepare
    from finetrainers.data.curate.report import summary
    from finetrainers.training.signals import StopSignals

    with StopSignals(kept="what is journalled is kept", at_once="preparing the data").installed():
        totals = prepare(config, lambda message: print(message, file=sys.stderr, flush=True))
    print("\n".join([*summary(config, totals), f"{config.output.path}"]))
    return DONE if totals.kept else USER_ERROR
