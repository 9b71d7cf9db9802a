"""The image and the examples for rented machines, Slurm and Kubernetes: their structure, and what the scripts do.

The image is not built here: there is no Docker engine on the machines that test.
"""

import os
import re
import shlex
import signal
import subprocess
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetrainers.cli.commands import build_parser
from finetrainers.cli.launch import launch_parser
from finetrainers.config.reference import keys

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "examples/deploy"
PAGES = sorted((ROOT / "docs/deploy").glob("*.md"))
SCRIPTS = sorted(DEPLOY.glob("*.sh"))
MANIFESTS = sorted(DEPLOY.glob("*.yaml"))
RUN_VOLUMES = ("/cache", "/data", "/runs")


def instructions() -> list[tuple[str, str]]:
    """Each instruction of the Dockerfile with its arguments, continued lines joined."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    return [(word, " ".join(rest.split())) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def arguments(name: str) -> list[str]:
    return [rest for word, rest in instructions() if word == name]


def test_the_image_runs_the_command_as_somebody_without_rights() -> None:
    names = [name for name, _ in instructions()]
    assert names.index("USER") > max(index for index, name in enumerate(names) if name == "RUN")
    assert arguments("USER") == ["trainer"]
    assert arguments("ENTRYPOINT") == ['["finetrainers"]']  # without a shell between, which would keep signals to itself
    assert arguments("STOPSIGNAL") == ["SIGTERM"]
    (base,) = arguments("FROM")
    assert re.fullmatch(r"nvidia/cuda:\$\{CUDA\}-runtime-ubuntu\d+\.\d+", base)


def test_the_image_keeps_caches_and_runs_on_volumes_of_its_user() -> None:
    assert arguments("VOLUME") == ['["/cache", "/data", "/runs"]']
    assert any("--owner=trainer" in run and all(volume in run for volume in RUN_VOLUMES) for run in arguments("RUN"))
    (environment,) = arguments("ENV")
    variables = dict(re.findall(r"(\w+)=(\S+)", environment))
    assert {name for name, value in variables.items() if value.startswith("/cache/")} == {
        "HF_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR",
    }  # fmt: skip


def test_the_image_has_all_extras_and_installs_tested_versions() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    chosen = next(rest for rest in arguments("ARG") if rest.startswith("EXTRAS=")).removeprefix("EXTRAS=").split(",")
    assert set(chosen) == set(extras) - {"dev", "docs"}
    (install,) = (run for run in arguments("RUN") if "pip install" in run)
    assert "--constraint constraints.txt" in install
    for run in arguments("RUN"):
        assert ("apt-get install" in run) == ("rm -rf /var/lib/apt/lists/*" in run)


def test_what_is_copied_is_there_and_nothing_else_reaches_the_image() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = [rule[1:] for rule in rules if rule.startswith("!")]
    copied = [word for rest in arguments("COPY") for word in rest.split()[:-1]]
    assert sorted(copied) == sorted(allowed)
    for name in copied:
        assert (ROOT / name).exists()
    readme = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["readme"]
    assert readme in copied  # the build reads it


def containers(tree: Any) -> list[dict[str, Any]]:
    """Containers of a manifest, wherever they stand."""
    if isinstance(tree, dict):
        return [*tree.get("containers", []), *(found for inner in tree.values() for found in containers(inner))]
    return [found for inner in tree for found in containers(inner)] if isinstance(tree, list) else []


def documents(file: Path) -> list[Any]:
    return list(yaml.safe_load_all(file.read_text()))


def claims(tree: Any) -> set[str]:
    if isinstance(tree, dict):
        own = {tree["persistentVolumeClaim"]["claimName"]} if "persistentVolumeClaim" in tree else set()
        return own.union(*(claims(inner) for inner in tree.values()))
    return set().union(*(claims(inner) for inner in tree)) if isinstance(tree, list) else set()


def test_manifests_mount_volumes_that_are_claimed() -> None:
    claimed = {document["metadata"]["name"] for document in documents(DEPLOY / "volumes.yaml")}
    (user,) = (rest.partition("=")[2] for rest in arguments("ARG") if rest.startswith("USER_ID"))
    for file in MANIFESTS:
        tree = documents(file)
        assert claims(tree) <= claimed
        for container in containers(tree):
            assert ":latest" not in container["image"]
            assert {mount["mountPath"] for mount in container["volumeMounts"]} >= {*RUN_VOLUMES, "/dev/shm"}
        for pod in (document["spec"]["template"]["spec"] for document in tree if document["kind"] == "Job"):
            assert pod["restartPolicy"] == "Never"  # what podFailurePolicy needs
            assert pod["securityContext"]["runAsUser"] == int(user)
            assert pod["terminationGracePeriodSeconds"] > 600
            assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == {v["name"] for v in pod["volumes"]}


def test_jobs_go_on_after_status_3_and_one_pod_stops_at_status_2() -> None:
    """Of several pods, status 2 may also say that another one did not come in time."""
    for name, expected in (("job.yaml", {2: "FailJob", 3: "Ignore"}), ("indexed-job.yaml", {3: "Ignore"})):
        job = documents(DEPLOY / name)[-1]
        rules = job["spec"]["podFailurePolicy"]["rules"]
        codes = [rule for rule in rules if "onExitCodes" in rule]
        assert {rule["onExitCodes"]["values"][0]: rule["action"] for rule in codes} == expected
        assert {rule["onExitCodes"]["containerName"] for rule in codes} == {"train"}


def test_pods_of_an_indexed_job_meet_at_the_first() -> None:
    service, job = documents(DEPLOY / "indexed-job.yaml")
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert pod["subdomain"] == service["metadata"]["name"]
    words = pod["containers"][0]["args"]
    options = dict(zip(words, words[1:], strict=False))
    assert options["--master-addr"] == f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert int(options["--nnodes"]) == spec["completions"] == spec["parallelism"]
    assert options["--node-rank"] == "$(NODE_RANK)"
    assert int(options["--gpus"]) == pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]


def command_lines() -> list[Any]:
    """Each finetrainers command of the pages, scripts and manifests."""
    found = [
        pytest.param(["finetrainers", *map(str, container["args"])], id=f"{file.name}-{index}")
        for file in MANIFESTS
        for index, container in enumerate(containers(documents(file)))
    ]
    for file in (*PAGES, *SCRIPTS):
        text = file.read_text().replace("\\\n", " ")
        for index, line in enumerate(
            re.findall(r"(?:^|\s|/bin/|\")finetrainers\"? ((?:launch|train|encode) [^\n`|&;#')]*)", text)
        ):
            if any(word in line for word in ("CONFIG", ".yaml", "$config", '"$@"')):
                found.append(pytest.param(["finetrainers", *shlex.split(line)], id=f"{file.name}-{index}"))
    return found


@pytest.mark.parametrize("words", command_lines())
def test_commands_use_options_that_there_are(words: list[str]) -> None:
    """A command of ours, options that its parser knows, and keys of the configuration."""
    own = words[2 : words.index("--")] if "--" in words else words[2:]
    if words[1] == "launch":
        own = [re.sub(r"^\$\{?\w+\}?$", "1", word) for word in own]
        _, rest = launch_parser().parse_known_args(own)
    else:
        build_parser().parse_args([words[1]])
        rest = own
    assert not [word for word in rest if word.startswith("--")]
    names = {re.sub(r"\.N\b", ".0", key.name) for key in keys()}
    for word in rest:
        if re.match(r"[a-z_.0-9]+=", word):
            assert word.partition("=")[0] in names
    if "--" in words:
        from torch.distributed.run import parse_args

        more = [re.sub(r"^\$\(?\w+\)?$", "1", word) for word in words[words.index("--") + 1 :]]
        assert parse_args([*more, "script.py"]).training_script == "script.py"


def test_there_are_commands_to_check() -> None:
    names = {str(parameter.id).rpartition("-")[0] for parameter in command_lines()}
    assert names >= {"job.yaml", "indexed-job.yaml", "rented.sh", "slurm-nodes.sh"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_are_bash(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert script.read_text().startswith("#!/bin/bash\n# ")


def program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{text}\n")
    (folder / name).chmod(0o755)


def rented(tmp_path: Path, run: str) -> subprocess.Popen[str]:
    """The script for a rented machine of two GPUs, with a program in the place of ours."""
    program(tmp_path / "bin", "nvidia-smi", "echo GPU 0; echo GPU 1")
    program(tmp_path / "volume/environment/bin", "finetrainers", f'echo "run: $@"\n{run}')
    (tmp_path / "volume/environment/complete").touch()
    environment = {
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "VOLUME": str(tmp_path / "volume"),
        "WHEN_DONE": "echo the rent ends",
    }
    command = ["bash", str(DEPLOY / "rented.sh"), "config.yaml", "train.steps=5"]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE)


@pytest.mark.parametrize("status, ends", [(0, True), (1, False), (2, True), (3, False)])
def test_a_rent_ends_where_going_on_would_not_help(status: int, ends: bool, tmp_path: Path) -> None:
    process = rented(tmp_path, f"exit {status}")
    said, _ = process.communicate(timeout=30)
    assert process.returncode == status
    assert "run: launch --gpus 2 --max-restarts 3 config.yaml train.steps=5" in said
    assert ("the rent ends" in said) == ends


def test_a_machine_that_is_taken_back_waits_for_the_run_to_save(tmp_path: Path) -> None:
    """SIGTERM to the script reaches the run, whose status is that of the script."""
    ready = tmp_path / "ready"
    process = rented(tmp_path, f"trap 'sleep 0.3; echo saved; exit 3' TERM\ntouch {ready}\nwhile :; do sleep 0.05; done")
    deadline = time.monotonic() + 20
    while not ready.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 3
    assert said.index("saved\n") < said.index("give the same command again")


@pytest.mark.parametrize("status, left, requeues", [(0, 60, False), (3, 60, True), (3, 7200, False), (1, 60, False)])
def test_the_script_of_a_task_for_each_node(status: int, left: int, requeues: bool, tmp_path: Path) -> None:
    """Each node starts its processes, all meet at the first; what has saved for want of time goes back into the queue."""
    nodes = "".join(f'SLURM_NODEID={node} "$@" & tasks[{node}]=$!\n' for node in (0, 1))
    step = 'status=0\nfor task in 0 1; do wait "${tasks[task]}" || status=$?; done\nexit $status'
    program(tmp_path, "srun", f"while [[ $1 == --* ]]; do shift; done\n{nodes}{step}")
    program(tmp_path, "scontrol", '[ "$1" = show ] && printf "host7\\nhost8\\n" || echo "scontrol $@"')
    program(tmp_path, "finetrainers", f'echo "$@"; exit {status}')
    job = {
        "SLURM_JOB_ID": "41234", "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "host[7-8]", "SLURM_GPUS_ON_NODE": "4",
        "SLURM_JOB_END_TIME": str(int(time.time()) + left), "PATH": f"{tmp_path}:{os.environ['PATH']}",
    }  # fmt: skip
    command = ["bash", str(DEPLOY / "slurm-nodes.sh"), "crush.yaml", "train.steps=5"]
    done = subprocess.run(command, env={**os.environ, **job}, text=True, capture_output=True, check=False)
    assert done.returncode == status, done.stderr
    expected = (
        "launch --gpus 4 crush.yaml train.steps=5 -- --nnodes 2 --node-rank {} --master-addr host7 --master-port 21234"
    )
    lines = set(done.stdout.splitlines())
    assert {expected.format(node) for node in (0, 1)} <= lines
    assert ("scontrol requeue 41234" in lines) == requeues


def test_pages_name_files_that_there_are() -> None:
    assert len(PAGES) == 4
    for page in PAGES:
        for name in re.findall(r"examples/[\w./-]+\.(?:sh|yaml)", page.read_text()):
            assert (ROOT / name).is_file(), name
    assert all(any(file.name in page.read_text() for page in PAGES) for file in (*SCRIPTS, *MANIFESTS))
