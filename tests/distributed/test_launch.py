"""What launchers say of a process, and what is said where their variables do not fit each other."""

import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest
import ranks
from runs import config_of, flux_tree
from torch.distributed import DistNetworkError

from finetrainers.cli.launch import _not_met
from finetrainers.cli.status import INTERNAL_ERROR, USER_ERROR
from finetrainers.config import dump_config
from finetrainers.distributed.ending import PROCESS
from finetrainers.distributed.hosts import expand_hosts, expand_tasks
from finetrainers.distributed.launch import JOB_PORTS, Launch, read_launch, refuse_further_processes
from finetrainers.errors import ConfigError

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "gpu7",
    "MASTER_PORT": "4000",
    "TORCHELASTIC_RESTART_COUNT": "2",
}
PODS = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "job-master-0", "MASTER_PORT": "23456", "PET_NPROC_PER_NODE": "auto"}
SRUN = {
    "SLURM_JOB_ID": "41230017",
    "SLURM_STEP_ID": "0",
    "SLURM_NTASKS": "7",
    "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_STEP_TASKS_PER_NODE": "2(x3),1",
    "SLURM_STEP_NODELIST": "node[08-10,12]",
    "SLURM_PROCID": "3",
    "SLURM_NODEID": "1",
    "SLURM_LOCALID": "1",
}
ONE_HOST = {**SRUN, "SLURM_STEP_TASKS_PER_NODE": "7", "SLURM_STEP_NODELIST": "node08", "SLURM_NODEID": "0"}
MPIRUN = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}


@pytest.mark.parametrize(
    "environ, launch",
    [
        (TORCHRUN, Launch(5, 8, 1, 4, "gpu7", 4000, attempt=2)),
        (PODS, Launch(1, 2, 0, 1, "job-master-0", 23456)),
        (SRUN, Launch(3, 7, 1, 2, "node08", JOB_PORTS[41230017 % 10000])),
        (ONE_HOST, Launch(3, 7, 1, 7, "127.0.0.1", JOB_PORTS[41230017 % 10000])),
        ({**SRUN, "MASTER_ADDR": "ib8", "MASTER_PORT": "5000"}, Launch(3, 7, 1, 2, "ib8", 5000)),
        ({**SRUN, **TORCHRUN}, Launch(5, 8, 1, 4, "gpu7", 4000, attempt=2)),  # torchrun, once on each host by srun
        (MPIRUN, Launch(1, 2, 1, 2, "127.0.0.1", 29500)),
        ({"PMI_RANK": "0", "PMI_SIZE": "2", "MPI_LOCALNRANKS": "2"}, Launch(0, 2, 0, 2, "127.0.0.1", 29500)),
    ],
    ids=["torchrun", "kubernetes", "srun", "srun, one host", "srun, address given", "torchrun in srun", "mpirun", "mpich"],
)
def test_each_launcher_is_read(environ: dict[str, str], launch: Launch) -> None:
    assert read_launch(environ) == launch


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WORLD_SIZE": "1"},
        {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"},
        {"WORLD_SIZE": ""},
        {"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_JOB_NODELIST": "n[1-2]"},  # the shell of sbatch
        {"SLURM_NTASKS": "8"},  # of salloc
        {**SRUN, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},  # srun --pty
    ],
    ids=str,
)
def test_a_single_process_is_none_of_several(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert read_launch(os.environ) == Launch()
    refuse_further_processes()


def without(environ: dict[str, str], *names: str, **changes: str) -> dict[str, str]:
    return {name: value for name, value in {**environ, **changes}.items() if name not in names}


@pytest.mark.parametrize(
    "environ, said",
    [
        (without(TORCHRUN, "RANK"), "variable RANK is missing"),
        (without(TORCHRUN, RANK="eight"), "RANK is 'eight', and not a number"),
        (without(TORCHRUN, RANK="8"), "RANK is 8 and WORLD_SIZE is 8"),
        (without(TORCHRUN, LOCAL_RANK="4"), "LOCAL_RANK is 4 and LOCAL_WORLD_SIZE is 4"),
        (without(TORCHRUN, LOCAL_WORLD_SIZE="9"), "LOCAL_WORLD_SIZE is 9 and WORLD_SIZE is 8"),
        (without(PODS, "MASTER_ADDR"), "MASTER_ADDR does not say where"),
        (without(PODS, PET_NPROC_PER_NODE="8"), "the pod's command is torchrun -m finetrainers train CONFIG"),
        (without(SRUN, "SLURM_STEP_NODELIST"), "MASTER_ADDR does not say where"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "MASTER_ADDR|OMPI_COMM_WORLD_RANK is missing"),
        (without(MPIRUN, OMPI_COMM_WORLD_LOCAL_SIZE="1", OMPI_COMM_WORLD_LOCAL_RANK="0"), "MASTER_ADDR does not say where"),
        (without(TORCHRUN, MASTER_PORT="x"), "MASTER_PORT is 'x'"),
    ],
)
def test_variables_that_do_not_fit_are_named(environ: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=f"^parallel: .*(?:{said})") as error:
        read_launch(environ)
    assert "\n" not in str(error.value)


def test_jobs_that_follow_each_other_meet_at_ports_of_their_own() -> None:
    ports = {read_launch({**ONE_HOST, "SLURM_JOB_ID": str(700 + job)}).port for job in range(50)}
    assert len(ports) == 50


@pytest.mark.parametrize(
    "text, hosts",
    [
        ("node7", ["node7"]),
        ("node[01-03,07]", ["node01", "node02", "node03", "node07"]),
        ("node[09-11]", ["node09", "node10", "node11"]),
        ("a1,b[2,4-5],c", ["a1", "b2", "b4", "b5", "c"]),
        ("r[1-2]n[1-2].x", ["r1n1.x", "r1n2.x", "r2n1.x", "r2n2.x"]),
        ("", []),
    ],
)
def test_lists_of_hosts_are_written_out(text: str, hosts: list[Any]) -> None:
    assert expand_hosts(text) == hosts


def test_numbers_of_tasks_are_written_out() -> None:
    assert expand_tasks("4(x2),3") == [4, 4, 3]


def test_a_port_that_is_taken_is_named_by_the_launcher(tmp_path: Path) -> None:
    """Without a traceback of torchrun's, before any process begins."""
    (tmp_path / "config.yaml").write_text(dump_config(config_of(flux_tree(tmp_path, tmp_path, tmp_path))))
    with socket.create_server(("", 0)) as taken:
        port = str(taken.getsockname()[1])
        words = (
            "launch",
            "--cpu",
            "1",
            str(tmp_path / "config.yaml"),
            "--",
            "--master-addr",
            "127.0.0.1",
            "--master-port",
            port,
        )
        (ended,) = ranks.start(ranks.command, 1, *words, folder=tmp_path / "ranks", has_children=True).wait()
    assert ended.result == USER_ERROR
    (line,) = [line for line in ended.said.splitlines() if line.startswith("finetrainers: ")]
    assert re.match(rf"finetrainers: launch: torchrun cannot meet \(.*port: {port}.*\); see that --master-port ", line)
    assert "Traceback" not in ended.said


def test_a_first_host_that_is_lost_later_is_no_wrong_setting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Once processes have begun, it is what --max-restarts is for."""
    lost = DistNetworkError("Broken pipe\n0# of C++")
    with pytest.raises(ConfigError, match=r"launch: torchrun cannot meet \(Broken pipe\)"):
        _not_met(tmp_path, lost)
    (tmp_path / f"{PROCESS}17").touch()
    assert _not_met(tmp_path, lost) == INTERNAL_ERROR
    assert capsys.readouterr().err == "finetrainers: launch: torchrun has lost the first host (Broken pipe)\n"
