"""The check of a run: all that ``train`` would refuse before it loads weights, found at once, and what the run would be."""

import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from finetrainers.config import Config, load_config
from finetrainers.config.user_code import user_code_errors
from finetrainers.distributed.launch import refuse_further_processes
from finetrainers.distributed.layout import Layout
from finetrainers.distributed.world import pick_device
from finetrainers.encoding.encoder import StageProgress
from finetrainers.errors import FinetrainersError
from finetrainers.events import RunOutline
from finetrainers.files.storage import storage_errors
from finetrainers.models import Model
from finetrainers.training.check.disk import check_disk
from finetrainers.training.check.findings import Findings
from finetrainers.training.check.hub_files import check_hub_files
from finetrainers.training.check.parts import (
    check_around,
    checked_model,
    layout_of,
    settled_of,
    with_cache_in,
    without_auto,
    world_of,
)
from finetrainers.training.checks.parts import check_steps_left
from finetrainers.training.checks.relocated import last_start, refuse_other_contents
from finetrainers.training.checks.same_run import changed_settings, code_before
from finetrainers.training.console.announce import about_changed_data, about_data, about_schedule
from finetrainers.training.console.outline import outline_of
from finetrainers.training.epochs import about_epochs, with_steps_of
from finetrainers.training.fit.choice import budget_bytes
from finetrainers.training.inspect.look import lenient
from finetrainers.training.paths import absolute, places
from finetrainers.training.prepare import prepare
from finetrainers.training.prepared import Prepared
from finetrainers.training.user_code import about_changed

CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Checking:
    """How a run is checked."""

    processes: int | None = None
    """Processes that the run will have; by default as many as ``parallel`` asks for."""
    free: int | None = None
    """Bytes that are free on the disk; by default those of this machine's disks."""
    progress: StageProgress = lambda *_: None
    """Called with (stage, items done, items in all)."""


@dataclass(slots=True)
class Checked:
    """What was found."""

    findings: Findings = field(default_factory=Findings)
    outline: RunOutline | None = None
    """What the run would be; None if it cannot be planned."""
    settled: Sequence[str] = ()
    """What was left to the model, and what it became."""
    asks_held_out: bool = False
    """Whether a held-out loss is asked for."""
    num_bad_held_out: int = 0
    """Items of ``validation.data`` that cannot be used."""
    changed: Sequence[str] = ()
    """Settings that differ from those that the run was last started with, where it goes on."""


def check(file: str | Path, overrides: Sequence[str] = (), how: Checking = Checking()) -> Checked:
    """Check the run of a configuration file on this machine; nothing of the user's is written, and nothing is left."""
    refuse_further_processes()
    checked, config = Checked(), None
    with checked.findings.part("configuration"):
        config = absolute(load_config(file, overrides))
    if config is not None:
        with tempfile.TemporaryDirectory(prefix="finetrainers-check-") as folder, storage_errors(places(config)):
            _check(config, how, checked, Path(folder))
    return checked


def _check(config: Config, how: Checking, checked: Checked, folder: Path) -> None:
    findings, device = checked.findings, CPU
    settled = settled_of(config, findings)
    if settled is None:
        findings.leave_out("folders, data, prompts and room on the disk: fix what is left to the model first")
        return
    for note in settled.notes:
        findings.warn(note)
    checked.settled = settled.lines() if settled.values else []
    config = settled.config
    layout = layout_of(config, how.processes, findings) or Layout()
    with findings.part("device"):
        device = pick_device(config.train.device)
    with findings.part("memory"):
        if "auto" in (config.memory.preset, config.memory.resident_blocks):
            budget_bytes(config)
    config, resumed = check_around(config, findings)
    model = checked_model(config, findings, is_resumed=resumed is not None)
    if model is None:
        findings.leave_out("data, prompts and room on the disk: fix the model first")
        return
    check_hub_files(model, findings)
    planned, prepared = with_cache_in(without_auto(config), folder), None
    plan = partial(prepare, model=model, device=device, progress=how.progress, warn=findings.warn)
    plan = partial(plan, world=world_of(layout, device), start=resumed or 0, trying=findings.part)
    with findings.part("data") as part:
        prepared = plan(planned)
    if part.errors:
        with suppress(FinetrainersError), user_code_errors():  # of which all is told
            prepared = plan(lenient(planned))
    if prepared is not None:
        _check_planned(config, prepared, how, checked, (device, layout.size, resumed))


def _check_planned(
    asked: Config, prepared: Prepared, how: Checking, checked: Checked, start: tuple[torch.device, int, int | None]
) -> None:
    """Check what a planned run makes known: its steps, its contents and its size."""
    findings, config, (device, processes, resumed) = checked.findings, asked, start
    with findings.part("steps"):
        config = with_steps_of(asked, prepared)
    if resumed is not None:
        _check_resumed(config, prepared, checked, resumed)
    with findings.part("disk") as part:
        check_disk(config, prepared, part, free=how.free)
    checked.outline = outline_of(
        config, prepared, device=device, processes=processes, resumed=resumed, settled=checked.settled
    )
    checked.asks_held_out = config.validation.has_held_out
    if config.validation.data and prepared.held_out_plan is not None:
        bad = {problem for data in prepared.held_out_plan.catalog.sets for problem in data.problems}
        checked.num_bad_held_out = len(bad.difference(*(data.problems for data in prepared.plan.catalog.sets)))
    for message in (about_epochs(asked, config), *about_data(config, prepared)):
        if message is not None:
            findings.warn(message)


def _check_resumed(config: Config, prepared: Prepared, checked: Checked, resumed: int) -> None:
    """Compare a run that goes on with what it was."""
    findings = checked.findings
    with findings.part("steps"):
        check_steps_left(config, resumed)
    file = config.output_dir / "config.yaml"
    if not file.is_file():
        return
    if _is_local(prepared.model):  # those of the Hub would be downloaded
        with findings.part("contents"):
            refuse_other_contents(config, prepared)
    with findings.part("settings"):
        before = load_config(file)
        checked.changed = changed_settings(before, config)
        for message in about_schedule(config, resumed, before.train.steps):
            findings.warn(message)
    with findings.part("what has changed since"):
        for message in about_changed(config, code_before(config)):
            findings.warn(message)
        start = last_start(config)
        if start and not findings.errors:  # else some items are left out
            for message in about_changed_data(start, prepared):
                findings.warn(message)


def _is_local(model: Model) -> bool:
    return all(model.pretrained.place(name).is_local for name in model.denoisers.trained)
