"""The rehearsal of a run: checks at its real size, and its twin from the first item to weights that diffusers loads."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetrainers.config import Config, load_config
from finetrainers.config.model import ComponentConfig
from finetrainers.distributed.launch import refuse_further_processes
from finetrainers.distributed.layout import Layout
from finetrainers.files.storage import storage_errors
from finetrainers.models import Model, open_model
from finetrainers.training.check.findings import Findings
from finetrainers.training.check.parts import layout_of, settled_of
from finetrainers.training.epochs import with_steps_of
from finetrainers.training.paths import absolute, places
from finetrainers.training.prepared import Prepared
from finetrainers.training.rehearse.real import check_real
from finetrainers.training.rehearse.stages import Twin, run_stages
from finetrainers.training.rehearse.twin import FIRST_STEPS, twin_tree, write_prompts
from finetrainers.training.rehearse.twin_model import write_twin


@dataclass(frozen=True, slots=True)
class Rehearsing:
    """How a run is rehearsed."""

    processes: int | None = None
    """Processes that the real run will have; by default as many as ``parallel`` asks for."""
    free: int | None = None
    """Bytes that are free on the disk of the machine of the real run; by default those of this one's disks."""
    with_twin: bool = True
    """Whether the twin runs, after the checks."""
    say: Callable[[str], None] = lambda _: None
    """Called with what is done next."""


def rehearse(file: str | Path, overrides: Sequence[str] = (), how: Rehearsing = Rehearsing()) -> Findings:
    """Rehearse the run of a configuration file; nothing of the user's is written, and nothing is left behind."""
    refuse_further_processes()
    findings = Findings()
    config: Config | None = None
    with findings.part("configuration"):
        loaded = load_config(file, overrides)
        config = absolute(loaded)
    if config is not None:
        with tempfile.TemporaryDirectory(prefix="finetrainers-rehearse-") as directory, storage_errors(places(config)):
            _rehearse(config, how, findings, Path(directory))
    return findings


def _rehearse(config: Config, how: Rehearsing, findings: Findings, directory: Path) -> None:
    settled = settled_of(config, findings)
    if settled is None:
        findings.leave_out("all other checks and the twin: fix what is left to the model first")
        return
    config = settled.config
    how.say("checks at the real size")
    layout = layout_of(config, how.processes, findings)
    prepared = check_real(config, layout or Layout(), findings, cache=directory / "cache", free=how.free)
    if findings.errors or prepared is None or layout is None:
        findings.leave_out("the twin: fix the errors first")
    elif not how.with_twin:
        findings.leave_out("the twin: only checks were asked for")
    else:
        how.say("the twin")
        _run_twin(with_steps_of(config, prepared), prepared, layout, findings, directory)


def _run_twin(config: Config, prepared: Prepared, layout: Layout, findings: Findings, directory: Path) -> None:
    model: Model | None = None
    with findings.part("twin: its model"):
        folder = write_twin(prepared.model, directory / "model")
        own = {name: ComponentConfig(dtype=part.dtype) for name, part in config.model.components.items() if part.dtype}
        update = {"path": str(folder), "revision": None, "components": own}
        model = open_model(config.model.model_copy(update=update))
    if model is None:
        return
    with findings.part("twin: its configuration"):
        tree = twin_tree(config, model, (directory / "run", directory / "cache"), leave_out=findings.leave_out)
        if prepared.requests:
            prompts = directory / "prompts.json"
            write_prompts(prepared.requests, model, prompts)
            tree["validation"]["prompts"] = str(prompts)
        twin = Twin(config, tree, model, layout, prepared.requests, directory)
        twin.at(FIRST_STEPS, 0)
    if not findings.errors:
        run_stages(twin, findings)
