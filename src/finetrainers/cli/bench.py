"""``finetrainers bench``: times the steps of a run and measures their memory, without data."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from finetrainers.cli.imports import uncollected
from finetrainers.cli.options import check_target, count
from finetrainers.cli.status import DONE, USER_ERROR
from finetrainers.errors import ConfigError

STDOUT = "-"


def add_bench(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command; its options are read where overrides have been told apart from them."""
    bench = commands.add_parser("bench", help="measure the time and memory of training steps, without data", add_help=False)
    bench.set_defaults(run=run_bench)


def bench_parser() -> argparse.ArgumentParser:
    """Options of the command; whatever else is given is CONFIG and its overrides."""
    parser = argparse.ArgumentParser(
        "finetrainers bench",
        usage="finetrainers bench CONFIG [section.key=value | --section.key value ...] [options]",
        description="Run training steps at the buckets of CONFIG on random latents and prompts, and measure them. "
        "No data is read, and nothing is written into output_dir. Keys are those of finetrainers train --help.",
        allow_abbrev=False,
    )
    parser.add_argument("--steps", type=count, default=5, metavar="N", help="steps to measure (default 5)")
    parser.add_argument("--warmup", type=count, default=2, metavar="N", help="steps before them (default 2)")
    parser.add_argument("--random-weights", action="store_true", help="need only the model's config files, not its weights")
    parser.add_argument("--json", metavar="FILE", help="write the figures there; - prints them in place of the table")
    parser.add_argument(
        "--compare",
        metavar="FILE|SETS",
        help="run with several sets of overrides, each in a new process: default, names of built-in sets with commas "
        "between them, or a YAML file of - {name: NAME, set: [section.key=value]}",
    )
    return parser


def run_bench(_: argparse.Namespace, words: list[str]) -> int:
    """``bench``."""
    from finetrainers.config import find_file, load_config

    options, rest = bench_parser().parse_known_args(words)
    if not rest:
        bench_parser().print_help()
        return USER_ERROR
    file, overrides = find_file(rest)
    if file is None:
        raise ConfigError(f"bench: no configuration file is among {' '.join(rest)!r}; give CONFIG as well")
    if options.json not in (None, STDOUT):
        check_target("--json", Path(options.json))
    if options.compare is not None:
        return _compare(options, file, overrides)
    config = load_config(file, overrides)
    from finetrainers.cli.imports import quiet_libraries

    with uncollected():
        quiet_libraries()
        from finetrainers.training.bench.run import Measuring, bench
        from finetrainers.training.bench.table import result_table

    result = bench(config, Measuring(options.steps, options.warmup, options.random_weights, _say))
    _answer(options.json, result.model_dump(mode="json"), result_table(result))
    return DONE


def _compare(options: argparse.Namespace, file: str, overrides: Sequence[str]) -> int:
    from finetrainers.training.bench.compare import compare, read_sets
    from finetrainers.training.bench.table import comparison_table

    sets = read_sets(options.compare)
    flags = ["--steps", str(options.steps), "--warmup", str(options.warmup)]
    flags += ["--random-weights"] if options.random_weights else []
    comparison = compare(file, overrides, sets, options=flags, say=_say)
    _answer(options.json, comparison.model_dump(mode="json"), comparison_table(comparison))
    return DONE if any(own.result is not None for own in comparison.sets) else USER_ERROR


def _answer(file: str | None, tree: object, table: str) -> None:
    """Print the table; figures go into the file, or in the table's place."""
    text = json.dumps(tree, indent=1)
    if file == STDOUT:
        print(text)
        return
    print(table)
    if file is not None:
        Path(file).write_text(f"{text}\n", encoding="utf-8")


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
