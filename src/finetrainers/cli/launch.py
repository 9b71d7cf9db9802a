"""``finetrainers launch``: starts several processes of ``train`` or ``encode`` by torchrun, and ends as they do."""

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from finetrainers.cli.imports import uncollected
from finetrainers.cli.options import count, count_or_none
from finetrainers.cli.status import DONE, INTERNAL_ERROR, INTERRUPTED, STOPPED_AT_ONCE, USER_ERROR
from finetrainers.distributed.ending import PROCESS, SAID_BY_EACH, STATUS_FOLDER, statuses
from finetrainers.errors import ConfigError

COMMANDS = ("train", "encode")
SHUTDOWN_SECONDS = 600
"""For processes that were asked to stop to save."""
HEARD = "SIGTERM,SIGHUP,SIGQUIT,SIGUSR1"
"""Signals that torchrun passes on to the processes; Ctrl-C we do, and SIGUSR2, to save, is for one of these themselves."""
APART = ("--local-ranks-filter", "--redirects", "--tee", "-r", "-t")
"""Options of torchrun that take some processes' output elsewhere than others'."""
MORE = "--"
"""Before what torchrun is given as well."""


def add_launch(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command; its options are read where overrides have been told apart from them."""
    launch = commands.add_parser("launch", help="train or encode on several devices, with torchrun", add_help=False)
    launch.set_defaults(run=run_launch)


def launch_parser() -> argparse.ArgumentParser:
    """Options of the command; whatever else is given is CONFIG and its overrides."""
    parser = argparse.ArgumentParser(
        "finetrainers launch",
        usage="finetrainers launch (--gpus N | --cpu N) [--max-restarts K] [train | encode] CONFIG [section.key=value ...] "
        "[-- torchrun's options]",
        description="Start one process for each device with torchrun, and exit with the status of the run. One device needs "
        "no launcher. With several hosts, run it on each, and pass what torchrun needs: "
        "-- --nnodes 2 --node-rank 0 --master-addr HOST.",
        allow_abbrev=False,
    )
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--gpus", type=count, metavar="N", help="processes on this host, each with a GPU")
    kind.add_argument("--cpu", type=count, metavar="N", help="processes on this host, on the CPU: to try a configuration")
    parser.add_argument(
        "--max-restarts",
        type=count_or_none,
        default=0,
        metavar="K",
        help="starts after a process died or crashed (default 0)",
    )
    return parser


def run_launch(_: argparse.Namespace, words: list[str]) -> int:
    """``launch``."""
    own, more = (words[: words.index(MORE)], words[words.index(MORE) + 1 :]) if MORE in words else (words, [])
    options, rest = launch_parser().parse_known_args(own)
    command, rest = (rest[0], rest[1:]) if rest[:1] and rest[0] in COMMANDS else ("train", rest)
    _check(options, rest)
    if options.cpu is not None:
        rest = [*rest, "train.device=cpu"]
    with tempfile.TemporaryDirectory(prefix="finetrainers-") as folder:
        os.environ[STATUS_FOLDER] = folder
        if any(word.replace("_", "-").startswith(APART) for word in more):
            os.environ[SAID_BY_EACH] = "1"
        arguments = [*_torchrun_options(options, more), "-m", "finetrainers", command, *rest]
        return _run(arguments, Path(folder))


def _check(options: argparse.Namespace, rest: Sequence[str]) -> None:
    """Fail once, before processes are started, where all of them would.

    Raises:
        ConfigError: If the configuration is wrong, or if there are not as many GPUs.
    """
    from finetrainers.config import find_file, load_config

    file, overrides = find_file(list(rest))
    if file is None:
        raise ConfigError(f"launch: no configuration file is among {' '.join(rest)!r}; give CONFIG as well")
    load_config(file, overrides)
    if options.gpus is not None:
        import torch

        there = torch.cuda.device_count()
        if options.gpus > there:
            raise ConfigError(
                f"launch: --gpus is {options.gpus}, and this host has {there}; give at most as many, or --cpu N"
            )


def _torchrun_options(options: argparse.Namespace, more: Sequence[str]) -> list[str]:
    processes = options.gpus if options.cpu is None else options.cpu
    names = {word.partition("=")[0].replace("_", "-") for word in more}
    where = [] if {"--nnodes", "--rdzv-endpoint", "--master-addr"} & names else ["--standalone"]
    limit = [] if "--shutdown-timeout" in names else ["--shutdown-timeout", str(SHUTDOWN_SECONDS)]
    heard = [] if "--signals-to-handle" in names else ["--signals-to-handle", HEARD]
    return [*where, *limit, *heard, "--nproc-per-node", str(processes), "--max-restarts", str(options.max_restarts), *more]


def _run(arguments: Sequence[str], folder: Path) -> int:
    """Let torchrun start the processes in this one's place, and say how they ended."""
    import logging

    with uncollected():
        from torch.distributed import DistError
        from torch.distributed.elastic.multiprocessing import SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.elastic.rendezvous.api import RendezvousError
        from torch.distributed.run import parse_args, run

        from finetrainers.cli.ctrl_c import CtrlC

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // _processes(arguments))))
    signal.signal(signal.SIGUSR2, lambda *_: None)  # not ignored, which the processes would inherit
    for name in [*logging.root.manager.loggerDict]:  # each has a level of its own
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # the processes say themselves what failed
    ctrl_c = CtrlC(folder)
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, ctrl_c)
    try:
        run(parse_args(list(arguments)))
    except ChildFailedError as error:
        codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
        return _status(folder, codes)
    except SignalException as stop:
        if ctrl_c.has_killed:
            return STOPPED_AT_ONCE
        found = statuses(folder, _last_attempt(folder))
        if not found:  # else the processes have said so
            print(f"finetrainers: launch: stopped by {signal.Signals(stop.sigval).name}", file=sys.stderr, flush=True)
        return max(found, default=INTERRUPTED)
    except (DistError, RendezvousError) as error:
        return _not_met(folder, error)
    except SystemExit as refused:
        return USER_ERROR if refused.code else DONE
    return DONE


def _not_met(folder: Path, error: Exception) -> int:
    """Say that torchruns of several hosts, or one that is alone, found no place to meet, or lost it.

    Raises:
        ConfigError: If no process of this host has begun: the port may be taken, or the first host another one.
    """
    why = (str(error).splitlines() or [type(error).__name__])[0]
    if not any(folder.glob(f"{PROCESS}*")):
        raise ConfigError(
            f"launch: torchrun cannot meet ({why}); see that --master-port or the port of --rdzv-endpoint is free on the "
            "first host, and that all hosts reach it there"
        ) from None
    print(f"finetrainers: launch: torchrun has lost the first host ({why})", file=sys.stderr, flush=True)
    return INTERNAL_ERROR


def _processes(arguments: Sequence[str]) -> int:
    return int(arguments[list(arguments).index("--nproc-per-node") + 1])


def _last_attempt(folder: Path) -> int:
    return max((int(file.name.partition("-")[0]) for file in folder.glob("*-*")), default=0)


def _status(folder: Path, codes: Mapping[int, int]) -> int:
    """Exit status of the run, from those that its processes left and those that torchrun saw."""
    for rank, code in codes.items():
        if code < 0:
            name = signal.Signals(-code).name
            print(f"finetrainers: launch: rank {rank} was ended by {name}", file=sys.stderr, flush=True)
    if any(code < 0 and -code != signal.SIGTERM for code in codes.values()):
        return INTERNAL_ERROR
    found = [status for status in statuses(folder, _last_attempt(folder)) if status]
    return found[0] if found and len(set(found)) == 1 else INTERNAL_ERROR
