"""``finetrainers plan``: what a run takes, from its configuration alone."""

import argparse
import json
import sys
from pathlib import Path

from finetrainers.cli.imports import uncollected
from finetrainers.cli.options import check_target, count
from finetrainers.cli.status import DONE, USER_ERROR
from finetrainers.errors import ConfigError

STDOUT = "-"


def add_plan(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command; its options are read where overrides have been told apart from them."""
    plan = commands.add_parser(
        "plan", help="predict the memory and time of a run, without a GPU and without weights", add_help=False
    )
    plan.set_defaults(run=run_plan)


def plan_parser() -> argparse.ArgumentParser:
    """Options of the command; whatever else is given is CONFIG and its overrides."""
    parser = argparse.ArgumentParser(
        "finetrainers plan",
        usage="finetrainers plan CONFIG [section.key=value | --section.key value ...] [options]",
        description="Predict the memory, time, cost, disk space and communication of a run from config files alone. With "
        "--gpu, propose the fastest settings that fit. Keys are those of finetrainers train --help.",
        allow_abbrev=False,
    )
    parser.add_argument("--gpu", metavar="NAME|SIZE", help="kind of GPU (h100, rtx4090 ...), or its memory (24GB)")
    parser.add_argument("--gpus", type=count, metavar="N", help="number of GPUs; by default what parallel asks for")
    parser.add_argument("--price", type=_price, metavar="P", help="price of one GPU per hour")
    parser.add_argument("--items", type=count, metavar="N", help="number of items, if the data is not on this machine")
    parser.add_argument("--measured", type=Path, metavar="FILE", help="figures of finetrainers bench --json on your machine")
    parser.add_argument("--json", metavar="FILE", help="write the plan there; - prints it in place of the table")
    return parser


def _price(text: str) -> float:
    try:
        price = float(text)
    except ValueError:
        price = -1.0
    if not 0 <= price < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a price; give a number such as 2.5, of any currency")
    return price


def run_plan(_: argparse.Namespace, words: list[str]) -> int:
    """``plan``."""
    from finetrainers.config import find_file, load_config

    options, rest = plan_parser().parse_known_args(words)
    if not rest:
        plan_parser().print_help()
        return USER_ERROR
    file, overrides = find_file(rest)
    if options.json not in (None, STDOUT):
        check_target("--json", Path(options.json))
    if file is None:
        raise ConfigError(f"plan: no configuration file is among {' '.join(rest)!r}; give CONFIG as well")
    config = load_config(file, overrides)
    from finetrainers.training.plan.gpus import find_gpu

    gpu = None if options.gpu is None else find_gpu(options.gpu)
    with uncollected():
        from finetrainers.cli.imports import quiet_libraries

        quiet_libraries()
        from finetrainers.training.plan.run import Asked, plan
        from finetrainers.training.plan.table import plan_table

    asked = Asked(gpu, options.gpus, options.price, options.items, options.measured, _say)
    planned = plan(config, asked)
    text = json.dumps(planned.model_dump(mode="json"), indent=1)
    print(text if options.json == STDOUT else plan_table(planned))
    if options.json not in (None, STDOUT):
        Path(options.json).write_text(f"{text}\n", encoding="utf-8")
    return DONE if planned.fits is not False else USER_ERROR


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
