"""Runs of several processes that are stopped, killed and started again."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest
import ranks
from launching import NAMESPACES, TORCHRUN, ForkedLaunch
from runs import Tree, config_of, curve, events_of, flux_tree, merged, write_pictures

from finetrainers import train
from finetrainers.cli.status import INTERRUPTED, USER_ERROR
from finetrainers.config import dump_config
from finetrainers.training.checkpoint.checkpoints import Checkpoints

SECONDS = 300.0
"""In which what takes seconds has happened, also where others use the machine."""
SECONDS_TO_END = 15.0
"""In which all processes have ended after one of them was killed."""
MOST_STEPS = 200
FIELDS = ("step", "loss", "grad_norm", "lr")


@pytest.fixture(scope="module")
def base(tiny_flux: Path, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A long run, whose encoded items are already there."""
    root = tmp_path_factory.mktemp("survive")
    tree = flux_tree(tiny_flux, write_pictures(root / "data", 6), root, train={"batch_size": 4, "micro_batch_size": 2})
    train(config_of(merged(tree, {"train": {"steps": 1}})))
    return merged(tree, {"train": {"steps": 3000}, "checkpoint": {"every": 1000}})


@pytest.fixture(scope="module")
def whole(base: Tree, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two processes that nobody kills, of as many steps as any of the others has."""
    folder = tmp_path_factory.mktemp("whole")
    tree = merged(base, {"train": {"steps": MOST_STEPS}, "checkpoint": {"every": MOST_STEPS}})
    assert ranks.results(ranks.command, 2, "train", write(tree, folder), folder=folder / "ranks") == [0, 0]
    return folder / "run"


def check_curve(run: Path, whole: Path, *, steps: int) -> None:
    """To the last bit: both are of the same layout."""
    found = curve(run, *FIELDS)
    assert len(found) == steps
    assert found == curve(whole, *FIELDS)[:steps]


def write(tree: Tree, tmp_path: Path) -> str:
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config_of(merged(tree, {"output_dir": str(tmp_path / "run")}))))
    return str(file)


def has_steps(run: Path, number: int) -> bool:
    file = run / "events.jsonl"
    return file.exists() and file.read_text().count('"event": "step"') >= number


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_signals_to_one_process_are_for_all(base: Tree, tmp_path: Path) -> None:
    """SIGUSR2 saves and goes on, SIGTERM saves and stops: both processes end with status 3, and a checkpoint has it all."""
    run = tmp_path / "run"
    started = ranks.start(ranks.command, 2, "train", write(base, tmp_path), folder=tmp_path / "ranks")
    until(lambda: has_steps(run, 3))
    os.kill(started.processes[1].pid or 0, signal.SIGUSR2)
    checkpoints = Checkpoints(run / "checkpoints", keep=5)
    until(lambda: bool(checkpoints.steps()))
    (saved,) = checkpoints.steps()
    until(lambda: has_steps(run, saved + 1))
    os.kill(started.processes[1].pid or 0, signal.SIGTERM)
    ended = started.wait(SECONDS)
    assert [each.result for each in ended] == [INTERRUPTED] * 2
    last = checkpoints.find("latest")
    assert last is not None
    assert last > saved
    for each in ended:
        said = each.said.splitlines()[-1]
        assert re.fullmatch(rf"finetrainers: stopped by .*SIGTERM.* while training, after step {last}; .*", said)
        assert "Traceback" not in each.said
    assert events_of(run)[-1]["status"] == "interrupted"


def encode_slowly(file: str) -> int:
    from finetrainers.encoding import shares

    decode_slowly()
    shares.SECONDS_BETWEEN_REPORTS = 0.0
    return ranks.command("encode", file)


def test_a_signal_while_one_process_encodes_and_the_other_waits(base: Tree, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    tree = merged(base, {"cache": {"path": str(cache)}, "data": [{**base["data"][0], "path": str(tmp_path / "data")}]})
    write_pictures(tmp_path / "data", 60)
    started = ranks.start(encode_slowly, 2, write(tree, tmp_path), folder=tmp_path / "ranks")
    until(lambda: bool(list(cache.glob("latents/*/*.safetensors"))))
    os.kill(started.processes[1].pid or 0, signal.SIGTERM)
    ended = started.wait(SECONDS)
    assert [each.result for each in ended] == [INTERRUPTED] * 2
    assert len(list(cache.glob("latents/*/*.safetensors"))) < 60


def test_what_only_the_first_sees_is_said_by_all(base: Tree, tmp_path: Path) -> None:
    """A folder that no run made, and one that is in use; a batch that does not spread; all before anything is loaded."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run/holiday.txt").touch()
    file = write(base, tmp_path)
    for number, (words, said) in enumerate(
        {
            (): "output_dir: .* is a folder that no run made",
            ("train.batch_size=5", "train.micro_batch_size=1"): "train.batch_size: 5 ",
        }.items()
    ):
        ended = ranks.start(ranks.command, 2, "train", file, *words, folder=tmp_path / f"ranks-{number}").wait(SECONDS)
        for each in ended:
            assert each.result == USER_ERROR
            (line,) = [line for line in each.said.splitlines() if line.startswith("finetrainers: ")]
            assert re.match(f"finetrainers: {said}", line)
            assert "Traceback" not in each.said


def break_a_step(file: str) -> int:
    from finetrainers.training.trainer import Trainer

    taken = Trainer.micro_losses

    def broken(trainer: Trainer, batch: object) -> object:
        if trainer.step == 2 and os.environ["RANK"] == "1":
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
        return taken(trainer, batch)  # type: ignore[arg-type]

    Trainer.micro_losses = broken  # type: ignore[method-assign, assignment]
    return ranks.command("train", file)


def test_a_bug_in_a_step_of_one_process_ends_all_with_it(base: Tree, tmp_path: Path) -> None:
    ended = ranks.start(break_a_step, 2, write(base, tmp_path), folder=tmp_path / "ranks").wait(SECONDS)
    assert ended[1].said.splitlines()[-1] == "RuntimeError: mat1 and mat2 shapes cannot be multiplied"
    said = "another process failed: rank 1: RuntimeError: mat1 and mat2 shapes cannot be multiplied"
    assert ended[0].result == 1
    assert f"finetrainers: {said}" in ended[0].said.splitlines()
    assert "Traceback" not in ended[0].said
    assert events_of(tmp_path / "run")[-1]["message"] == said
    assert "mat1 and mat2" in (tmp_path / "run/logs/rank-1.log").read_text()


# -- by the launchers themselves --------------------------------------------------------------------------------------


def environment(**more: str) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("FINETRAINERS_")}
    return {**own, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **more}


class Launched:
    """A launcher with its processes, and what they say."""

    begun: ClassVar[list["Launched"]] = []
    """Which the test ends, however it does."""

    def __init__(self, *words: str, folder: Path, **more: str) -> None:
        self.log = folder / "said.txt"
        with self.log.open("w") as said:
            own = environment(RUN_OF=str(folder), **more)
            self.process = subprocess.Popen(words, stdout=said, stderr=said, env=own, cwd=folder)
        self.begun.append(self)

    def wait(self) -> int:
        return self.process.wait(900)

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def workers(self, rank: str = "RANK") -> list[int]:
        """Processes of the run, by rank."""
        found = dict(self.places(rank))
        return [found[rank] for rank in sorted(found)]

    def places(self, rank: str = "RANK") -> Iterator[tuple[int, int]]:
        """Ranks and processes of the run, those that are about to end included."""
        for folder in sorted(Path("/proc").glob("[0-9]*")):
            try:
                variables = dict(item.partition("=")[::2] for item in (folder / "environ").read_text().split("\0"))
            except (OSError, ValueError):  # it is gone
                continue
            if variables.get("RUN_OF") == str(self.log.parent) and rank in variables:
                yield int(variables[rank]), int(folder.name)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """A test that fails leaves no process behind."""
    yield
    while Launched.begun:
        launched = Launched.begun.pop()
        is_over = launched.process.poll() is not None
        others = {*launched.workers(), *launched.workers("SLURM_LOCALID")} - {launched.process.pid}
        for number in others if is_over else {launched.process.pid, *others}:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        launched.wait()
    while ForkedLaunch.begun:
        ForkedLaunch.begun.pop().kill()


PYTHON = (sys.executable, "-m")


@pytest.mark.distributed
def test_a_killed_process_is_brought_back_by_the_launcher(base: Tree, whole: Path, tmp_path: Path) -> None:
    tree = merged(base, {"train": {"steps": 60}, "checkpoint": {"every": 10}})
    words = ("--cpu", "2", "--max-restarts", "1", "train", write(tree, tmp_path))
    launched = ForkedLaunch(*words, folder=tmp_path / "launched")
    checkpoints = Checkpoints(tmp_path / "run/checkpoints", keep=5)
    until(lambda: bool(checkpoints.steps()))  # it is written beside training: after steps that follow it
    os.kill(launched.worker(1), signal.SIGKILL)
    assert launched.wait() == 0, launched.said
    assert "another process failed: rank 1: is gone (" in launched.said
    assert "Traceback" not in launched.said
    assert (tmp_path / "run/logs/rank-1.log").is_file(), launched.said
    starts = [event["resumed_from"] for event in events_of(tmp_path / "run") if event["event"] == "run"]
    assert len(starts) == 2
    assert starts[0] is None
    assert starts[1] in range(10, 60, 10)
    check_curve(tmp_path / "run", whole, steps=60)


def decode_slowly() -> None:
    from finetrainers.encoding import encoder as encoding

    taken = encoding.encode_pixels

    def slow(*rest: object, **options: object) -> object:
        time.sleep(0.2)
        return taken(*rest, **options)  # type: ignore[arg-type]

    encoding.encode_pixels = slow  # type: ignore[assignment]


@pytest.mark.distributed
def test_encoding_goes_on_where_a_killed_process_left_it(base: Tree, tmp_path: Path) -> None:
    """The launcher starts all again: what was encoded is not encoded again, and nothing is left out."""
    count, cache = 20, tmp_path / "cache"
    data = [{**base["data"][0], "path": str(write_pictures(tmp_path / "data", count))}]
    tree = merged(base, {"cache": {"path": str(cache)}, "data": data, "train": {"steps": 20}})
    words = ("--cpu", "2", "--max-restarts", "1", "encode", write(tree, tmp_path))

    def written() -> dict[str, int]:  # a file that is written again is another one; its time tells when it was last read
        found = [*cache.glob("latents/*/*.safetensors"), *cache.glob("text/*/*.safetensors")]
        return {str(file): file.stat().st_ino for file in found}

    launched = ForkedLaunch(*words, folder=tmp_path / "launched", change=decode_slowly)
    until(lambda: len(list(cache.glob("latents/*/*.safetensors"))) >= 3)
    os.kill(launched.worker(1), signal.SIGKILL)
    before = written()
    assert len(before) < 2 * count, "all was encoded before it was killed"
    assert launched.wait() == 0, launched.said
    assert "another process failed: rank 1: is gone (" in launched.said
    after = written()
    assert len(after) == 2 * count
    assert before.items() <= after.items()


def has_starts(run: Path, number: int) -> bool:
    file = run / "events.jsonl"
    return file.exists() and file.read_text().count('"event": "run"') >= number


@pytest.mark.distributed
@pytest.mark.slow
def test_killed_at_ten_moments_it_ends_with_the_same_curve(base: Tree, whole: Path, tmp_path: Path) -> None:
    """Of either process, saves included: every second step is one. The launcher's own restart has a test of its own."""
    tree = merged(base, {"train": {"steps": MOST_STEPS}, "checkpoint": {"every": 2}, "track": {"every": 1}})
    chance, kills, file, run = random.Random(7), 10, write(tree, tmp_path), tmp_path / "run"
    for number in range(kills):
        both = ranks.start(ranks.command, 2, "train", file, folder=tmp_path / f"start {number}")
        until(partial(has_starts, run, number + 1))
        if number % 2:
            until(lambda: any(run.glob("checkpoints/.step-*.tmp")))  # in the middle of a save: a start removes old ones
        else:
            time.sleep(chance.uniform(0.0, 2.0))
        victim = chance.randrange(2)
        assert all(process.is_alive() for process in both.processes), "the run ended before it was killed"
        both.processes[victim].kill()
        ended = both.wait(SECONDS_TO_END)  # an error if one is still there
        assert ended[victim].status == -signal.SIGKILL
        assert f"another process failed: rank {victim}: is gone (" in ended[1 - victim].said
        assert "Traceback" not in ended[1 - victim].said
    assert ranks.results(ranks.command, 2, "train", file, folder=tmp_path / "last") == [0, 0]
    assert len([event for event in events_of(run) if event["event"] == "run"]) == kills + 1
    check_curve(run, whole, steps=MOST_STEPS)


@pytest.mark.distributed
@pytest.mark.parametrize("name", ["torchrun", "accelerate"])
def test_each_other_launcher_starts_a_run(name: str, base: Tree, tmp_path: Path) -> None:
    """Both by torchrun's agent; the second in interpreters of their own."""
    tree = merged(base, {"train": {"steps": 2}, "checkpoint": {"every": 2}})
    command = ("-m", "finetrainers", "train", write(tree, tmp_path))
    launched: Launched | ForkedLaunch
    if name == "torchrun":
        launched = ForkedLaunch(TORCHRUN, "--standalone", "--nproc-per-node", "2", *command, folder=tmp_path / "launched")
    else:
        launcher = (*PYTHON, "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1")
        more = ("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(ranks.free_port()))
        launched = Launched(*launcher, *more, *command, folder=tmp_path)
    assert launched.wait() == 0, launched.said
    assert len(curve(tmp_path / "run", "loss")) == 2
    assert (tmp_path / "run/logs/rank-1.log").is_file(), launched.said


@pytest.mark.distributed
def test_the_launcher_ends_with_the_status_of_the_run(base: Tree, tmp_path: Path) -> None:
    """A user's error is said once, by one process, and again by no restart; SIGTERM to the launcher lets all save."""
    file = write(base, tmp_path)
    words = ("--cpu", "2", "--max-restarts", "3", file)
    wrong = ForkedLaunch(*words, "train.batch_size=5", "train.micro_batch_size=1", folder=tmp_path / "wrong")
    assert wrong.wait() == USER_ERROR, wrong.said
    assert wrong.said.count("train.batch_size: 5 is not a multiple") == 1
    stopped = ForkedLaunch(*words, folder=tmp_path / "stopped")
    until(lambda: has_steps(tmp_path / "run", 3))
    os.kill(stopped.pid, signal.SIGTERM)
    assert stopped.wait() == INTERRUPTED, stopped.said
    assert Checkpoints(tmp_path / "run/checkpoints", keep=5).steps()


SLURM = Path(__file__).parents[2] / "examples/launch/slurm.sh"
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
for task in 0 1; do
    SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=2 SLURM_STEP_TASKS_PER_NODE=2 SLURM_STEP_NODELIST=$(hostname) SLURM_NODEID=0 \\
        SLURM_PROCID=$task SLURM_LOCALID=$task "$@" & tasks[task]=$!
done
status=0
for task in 0 1; do wait ${tasks[task]} || status=$?; done
exit $status
"""
"""What srun does for a step of two tasks on this host."""


def slurm(tmp_path: Path, python: str, *words: str, left: int) -> Launched:
    """The script that is handed to sbatch, with programs of ours in the place of Slurm's."""
    programs = {"srun": SRUN, "scontrol": 'echo "scontrol $@"', "python": python}
    (tmp_path / "bin").mkdir()
    for name, text in programs.items():
        (tmp_path / "bin" / name).write_text(text if text.startswith("#!") else f"#!/bin/bash\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_JOB_NODELIST": "localhost"}
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    until_then = str(int(time.time()) + left)
    return Launched("bash", str(SLURM), *words, folder=tmp_path, PATH=path, SLURM_JOB_END_TIME=until_then, **job)


@pytest.mark.parametrize("status, left, requeues", [(0, 60, False), (3, 60, True), (3, 7200, False), (1, 60, False)])
def test_the_script_for_slurm_requeues_what_has_saved_for_want_of_time(
    status: int, left: int, requeues: bool, tmp_path: Path
) -> None:
    job = slurm(tmp_path, f'echo "task $SLURM_PROCID: $@"; exit {status}', "crush.yaml", "train.steps=5", left=left)
    assert job.wait() == status
    lines = job.said.splitlines()
    assert {"task 0: -m finetrainers train crush.yaml train.steps=5"} <= set(lines)
    assert (f"scontrol requeue {os.getpid()}" in lines) == requeues


@pytest.mark.distributed
def test_the_script_for_slurm_starts_a_run(base: Tree, tmp_path: Path) -> None:
    """Stopped by SIGUSR1 to its tasks, as before the time is up, and started again."""
    tree = merged(base, {"checkpoint": {"every": 1000}})
    job = slurm(tmp_path, f'exec {sys.executable} "$@"', write(tree, tmp_path), left=60)
    until(lambda: has_steps(tmp_path / "run", 3))
    for number in job.workers("SLURM_LOCALID"):
        os.kill(number, signal.SIGUSR1)
    assert job.wait() == INTERRUPTED, job.said
    assert f"scontrol requeue {os.getpid()}" in job.said
    assert (tmp_path / "run/logs/rank-1.log").is_file()


HOSTS = """
set -e
ip link set lo up
unshare -n sleep 3600 & other=$!
trap 'kill $other' EXIT
sleep 1
ip link add v0 type veth peer name v1
ip link set v1 netns $other
ip addr add 10.77.0.1/24 dev v0 && ip link set v0 up
there="nsenter -t $other -n"
$there ip link set lo up
$there ip addr add 10.77.0.2/24 dev v1 && $there ip link set v1 up
echo $$ $other
cat
"""
"""Two hosts with a wire between them, and a process in each, until nobody writes any more."""
ISOLATED = ("unshare", "--map-root-user", "--net", "bash", "-c", HOSTS)


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """A process in each of two networks that a wire connects."""
    with subprocess.Popen(ISOLATED, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as own:
        assert own.stdin is not None
        assert own.stdout is not None
        assert own.stderr is not None
        found = own.stdout.readline().split()
        if len(found) != 2:
            pytest.skip(f"network namespaces cannot be made here: {own.stderr.read().strip()}")
        yield found
        own.stdin.close()


@pytest.mark.distributed
def test_two_hosts_meet_and_one_that_lost_its_process_comes_back(
    base: Tree, whole: Path, hosts: list[str], tmp_path: Path
) -> None:
    """Network namespaces: nothing that listens at the addresses of one is reached at 127.0.0.1 of the other."""
    tree = merged(base, {"train": {"steps": 40}, "checkpoint": {"every": 10}})
    words = ("--cpu", "1", "--max-restarts", "1", write(tree, tmp_path), "--", "--nnodes", "2", "--master-addr", "10.77.0.1")
    both = [
        ForkedLaunch(
            *words,
            *("--master-port", "29533", "--node-rank", str(number)),
            folder=tmp_path / f"host {number}",
            **{NAMESPACES: process, "GLOO_SOCKET_IFNAME": f"v{number}"},
        )
        for number, process in enumerate(hosts)
    ]
    until(lambda: has_steps(tmp_path / "run", 12))
    os.kill(both[1].worker(1), signal.SIGKILL)
    assert [each.wait() for each in both] == [0, 0], both[0].said + both[1].said
    assert "another process failed: rank 1: is gone (" in both[0].said
    check_curve(tmp_path / "run", whole, steps=40)
