"""A process that imports what a run needs once, and becomes several processes of one as often as it is told to.

It reads orders from standard input, one JSON object a line, and answers each with the exit status of every process.
"""

import importlib
import json
import os
import socket
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from finetrainers.distributed.ending import Program
from finetrainers.errors import DONE, INTERNAL_ERROR, FinetrainersError, OtherProcessError

Order = Mapping[str, Any]  # as stages.Workers writes it


def main() -> None:
    """Do what standard input says, until it ends."""
    import finetrainers.training.run  # noqa: F401  # before the first order, which takes seconds

    for line in sys.stdin:
        order = json.loads(line)
        for module in order["modules"]:
            importlib.import_module(module)
        os.write(sys.stdout.fileno(), f"{json.dumps(run_processes(order))}\n".encode())


def run_processes(order: Order) -> list[int]:
    """Become ``order["count"]`` processes of one run, and wait for them; their exit statuses by rank."""
    port, children = _free_port(), []
    for rank in range(order["count"]):
        child = os.fork()
        if child == 0:
            _be(order, rank, port)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _be(order: Order, rank: int, port: int) -> NoReturn:
    """Be one of the processes: what it says goes into a file of its own."""
    status, size = INTERNAL_ERROR, str(order["count"])
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": size, "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": size}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    log = (Path(order["logs"]) / f"rank-{rank}.log").open("w", encoding="utf-8")
    for stream in (1, 2):
        os.dup2(log.fileno(), stream)
    Program.is_ours = True
    try:
        status = _run(order)
    except OtherProcessError as error:
        status = error.status
    except FinetrainersError as error:
        print(f"finetrainers: {error}", file=log)  # what the process has to say
        status = error.status
    except BaseException:  # noqa: BLE001  # as a process of its own would
        traceback.print_exc(file=log)
    finally:
        log.flush()
        os._exit(status)


def _run(order: Order) -> int:
    from finetrainers.config import load_config
    from finetrainers.training.run import encode, train

    (encode if order["command"] == "encode" else train)(load_config(order["file"]))
    return DONE


if __name__ == "__main__":
    main()
