"""``python -m finetrainers.cli.job FOLDER``: does what a job of the queue says, and writes down how it ended."""

import fcntl
import os
import signal
import sys
import traceback
from pathlib import Path

from finetrainers.cli.entry import main
from finetrainers.cli.status import INTERNAL_ERROR, USER_ERROR
from finetrainers.ui.job import ALL_DEVICES, HELD, PROCESS, Job, read_job
from finetrainers.ui.process import this_process


def run_job(folder: Path) -> int:
    """Run the command of a job; return the exit status. A job that another process does already is left to it."""
    signal.signal(signal.SIGUSR2, lambda *_: None)  # "save now", before there is anything to save
    with (folder / HELD).open("a") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return INTERNAL_ERROR
        this_process().save(folder / PROCESS)
        job, status = read_job(folder), INTERNAL_ERROR
        try:
            status = _run(job)
        except Exception:  # noqa: BLE001 - whatever it is, it ends in the log, and the status says so
            traceback.print_exc()
        finally:
            job.end(status)
        return status


def _run(job: Job) -> int:
    if not job.cwd.is_dir():
        print(f"finetrainers: the folder that this was asked for in is gone: {job.cwd}", file=sys.stderr)
        return USER_ERROR
    os.chdir(job.cwd)
    is_wide = job.used_device == ALL_DEVICES
    return main([*(("launch", "--gpus", str(_num_gpus())) if is_wide else ()), *job.words])


def _num_gpus() -> int:
    import torch

    return torch.cuda.device_count()


if __name__ == "__main__":
    raise SystemExit(run_job(Path(sys.argv[1])))
