"""The queue: one run at a time per device, on the disk, for several servers, with what becomes of each run."""

import asyncio
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from finetrainers.distributed.started import start_time
from finetrainers.errors import ConfigError
from finetrainers.ui.job import Job, environment_of
from finetrainers.ui.list_pages import keep_starting
from finetrainers.ui.process import Process, this_process
from finetrainers.ui.queue import Queue
from finetrainers.ui.site import Site

WRONG = "train: {stepz: 3}"
"""A configuration with which training ends at once, before anything is imported."""


def test_a_process_sees_its_devices_and_no_others() -> None:
    seen = [environment_of(devices)["CUDA_VISIBLE_DEVICES"] for devices in (["cuda:1"], ["cuda:0", "cuda:3"], ["cpu"])]
    assert seen == ["1", "0,3", ""]


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return Queue(tmp_path / "state", ["cpu"])


def wait_for(job: Job, *states: str, queue: Queue, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while job.state not in states:
        assert time.monotonic() < until, (job.state, job.output.read_text())
        queue.start_due()
        time.sleep(0.05)


def pretend_running(job: Job, device: str) -> None:
    """Let a job look as if this process did it."""
    this_process().save(job.folder / "process.json")
    (job.folder / "device").write_text(device)


def test_a_job_is_done_by_a_process_of_its_own_session_whose_end_is_on_the_disk(queue: Queue, tmp_path: Path) -> None:
    job = queue.add(tmp_path / "run", WRONG)
    queue.start_due()
    process = job.process
    assert process is not None
    assert process.is_alive
    assert os.getsid(process.pid) == process.pid
    wait_for(job, "failed", queue=queue)
    assert job.status == 2
    assert "train.stepz: there is no such key; did you mean 'steps'?" in job.output.read_text()
    assert not (tmp_path / "run").exists()
    assert Queue(tmp_path / "state", ["cpu"]).jobs() == [job]  # a server that comes later knows as much


def test_a_device_takes_one_run_at_a_time_in_their_order(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "state", ["cuda:0", "cuda:1"])
    first, second, third = (queue.add(tmp_path / name, WRONG) for name in ("a", "b", "c"))
    pretend_running(first, "cuda:0")
    queue.start_due()
    assert (second.used_device, third.state) == ("cuda:1", "queued")
    wait_for(second, "failed", queue=queue)
    queue.start_due()
    assert third.used_device == "cuda:1"
    wait_for(third, "failed", queue=queue)


def test_all_devices_are_waited_for_by_who_needs_all(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "state", ["cuda:0", "cuda:1"])
    first, wide, later = (
        queue.add(tmp_path / name, WRONG, device=d) for name, d in (("a", "cuda:1"), ("b", "all"), ("c", None))
    )
    pretend_running(first, "cuda:1")
    queue.start_due()
    assert (wide.state, later.state) == ("queued", "queued")  # else it would never come to it
    with pytest.raises(ConfigError, match="no 'cuda:7' here; known: cuda:0, cuda:1, all"):
        queue.add(tmp_path / "d", WRONG, device="cuda:7")


def test_two_servers_start_a_job_once(tmp_path: Path) -> None:
    servers = [Queue(tmp_path / "state", ["cpu"]) for _ in range(4)]
    job = servers[0].add(tmp_path / "run", WRONG)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda server: server.start_due(), servers))
    assert sum(len(server._children) for server in servers) == 1
    for server in servers:
        wait_for(job, "failed", queue=server)
    assert job.output.read_text().count("stepz") == 1


def test_two_servers_give_each_job_a_number_of_its_own(tmp_path: Path) -> None:
    servers = [Queue(tmp_path / "state", ["cpu"]) for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        jobs = list(pool.map(lambda n: servers[n % 4].add(tmp_path / f"run-{n}", WRONG), range(24)))
    assert sorted(job.number for job in jobs) == list(range(1, 25))
    assert {job.run.name for job in servers[0].jobs()} == {f"run-{n}" for n in range(24)}


def test_a_second_process_leaves_a_job_to_the_first(queue: Queue, tmp_path: Path) -> None:
    """As after a server was killed between the start of a process and the note of it."""
    job = queue.add(tmp_path / "run", WRONG)
    holder = subprocess.Popen(["flock", str(job.folder / "held"), "sleep", "60"], start_new_session=True)
    try:
        until = time.monotonic() + 10
        while subprocess.run(["flock", "-n", str(job.folder / "held"), "true"], check=False).returncode == 0:
            assert time.monotonic() < until
        command = [sys.executable, "-m", "finetrainers.cli.job", str(job.folder)]
        assert subprocess.run(command, check=False).returncode == 1
        assert (job.state, job.status) == ("queued", None)
    finally:
        os.killpg(holder.pid, signal.SIGKILL)
        holder.wait()


def test_a_run_is_in_the_queue_once(queue: Queue, tmp_path: Path) -> None:
    job = queue.add(tmp_path / "run", WRONG)
    with pytest.raises(ConfigError, match="is queued already, as number 1"):
        queue.add(tmp_path / "run", WRONG)
    assert queue.cancel(job)
    assert not queue.cancel(job)
    queue.start_due()
    assert job.state == "cancelled"
    assert queue.add(tmp_path / "run", WRONG).number == 2


def test_a_process_that_has_the_number_of_an_earlier_one_is_not_taken_for_it(queue: Queue, tmp_path: Path) -> None:
    job = queue.add(tmp_path / "run", WRONG)
    here = this_process()
    Process(here.pid, "another time", here.host).save(job.folder / "process.json")
    assert job.state == "killed"
    assert not job.stop()  # which would have hit this process


def test_a_process_of_another_host_is_known_by_its_lock(tmp_path: Path) -> None:
    """As after a container came up again under another name; it takes no device of this host."""
    queue = Queue(tmp_path / "state", ["cuda:0"])
    job, other = queue.add(tmp_path / "run", WRONG), queue.add(tmp_path / "other", WRONG)
    here = this_process()
    Process(here.pid, here.started, "another-host").save(job.folder / "process.json")
    (job.folder / "device").write_text("cuda:0")
    with (job.folder / "held").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert job.state == "running"
        assert not job.stop()
        queue.start_due()
        assert other.used_device == "cuda:0"
    assert job.state == "killed"
    wait_for(other, "failed", queue=queue)


def test_a_folder_that_is_no_job_is_left_out(queue: Queue, tmp_path: Path) -> None:
    """As a full disk may leave one."""
    jobs = tmp_path / "state" / "jobs"
    (jobs / "000009").mkdir()
    (jobs / "000007").mkdir()
    (jobs / "000007" / "job.json").write_text("{}")
    (jobs / "000008").write_text("")
    assert queue.jobs() == []
    assert queue.add(tmp_path / "run", WRONG).number == 10
    for number in (7, 8, 9):
        with pytest.raises(FileNotFoundError):
            queue.job(number)


def test_a_queue_that_fails_is_tried_again(capsys: pytest.CaptureFixture[str]) -> None:
    tries = 0

    def start_due() -> None:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise OSError(errno.ENOSPC, "No space left on device")

    async def start() -> None:
        site = cast("Site", SimpleNamespace(queue=SimpleNamespace(start_due=start_due)))
        with suppress(TimeoutError):
            await asyncio.wait_for(keep_starting(site, seconds=0.01), 0.3)

    asyncio.run(start())
    assert tries > 4
    assert capsys.readouterr().err.count("No space left on device") == 1


def test_a_process_that_ended_and_was_not_noticed_is_not_alive() -> None:
    child = subprocess.Popen(["true"])
    until = time.monotonic() + 10
    while start_time(child.pid) is not None:
        assert time.monotonic() < until
    child.wait()


def test_a_job_that_was_killed_is_known_to_be(queue: Queue, tmp_path: Path) -> None:
    job = queue.add(tmp_path / "run", "model: {path: x}")
    child = subprocess.Popen(["sleep", "60"])
    Process(child.pid, start_time(child.pid) or "", this_process().host).save(job.folder / "process.json")
    assert job.state == "running"
    child.kill()
    child.wait()
    assert job.state == "killed"
    assert job.status is None


def test_a_folder_that_is_gone_ends_a_job_with_the_reason(queue: Queue, tmp_path: Path) -> None:
    job = queue.add(tmp_path / "run", WRONG)
    tree = json.loads((job.folder / "job.json").read_text())
    (job.folder / "job.json").write_text(json.dumps({**tree, "cwd": str(tmp_path / "gone")}))
    other = Queue(tmp_path / "state", ["cpu"])
    wait_for(job, "failed", queue=other)
    assert job.status == 2
    assert "gone" in job.output.read_text()
