"""What a run that took its last step leaves: a model card, a report, and on request all of it on the Hub."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetrainers.events import BadItem, DataShare, EndEvent, ItemTable
from finetrainers.events.record import made, own_fields
from finetrainers.events.report import RunReport, RunSummary
from finetrainers.files.steps import step_directory
from finetrainers.runs.folder import RunFolder
from finetrainers.runs.outputs import samples_of
from finetrainers.runs.summary import summary_of
from finetrainers.training.cards.cards import Cards
from finetrainers.training.export import export_facts
from finetrainers.training.hub import push
from finetrainers.training.prepared import Prepared
from finetrainers.training.report import write_report
from finetrainers.training.session import Session
from finetrainers.training.trainer import Trainer
from finetrainers.training.validation.outcomes import Outcomes


@dataclass(frozen=True, slots=True)
class Result:
    """What a finished run left."""

    output_dir: Path
    weights: Path
    """Folder that diffusers loads."""
    steps: int
    report: dict[str, Any]
    """Contents of report.json."""


def finish(
    session: Session,
    trainer: Trainer,
    prepared: Prepared,
    *,
    outcomes: Outcomes,
    cards: Cards,
    weights: Path,
    repo: str | None,
) -> Result:
    """Write card and report beside weights that are exported, and push them to a repository, if there is one."""
    config = session.config
    report = report_of(session, trainer, prepared, outcomes)
    cards.write(trainer.step, export_facts(trainer, config, prepared.model), repo=repo)
    cards.tell(session.warn)
    write_report(config.output_dir, report)
    if repo is not None:
        report = replace(report, pushed_to=push(repo, weights, private=config.hub_private))
        write_report(config.output_dir, report)
    best, samples = outcomes.best_weights(), step_directory(config.output_dir / "validation", trainer.step)
    session.emit(
        EndEvent(
            status="done",
            step=trainer.step,
            weights=str(weights),
            reason=outcomes.reason(trainer),
            samples=str(samples) if samples_of(config.output_dir, trainer.step, samples) else None,
            first_held_out_loss=outcomes.losses.get(0),
            best_step=outcomes.best,
            best_held_out_loss=None if outcomes.best is None else outcomes.losses[outcomes.best],
            best_weights=None if best is None else str(best),
        )
    )
    return Result(config.output_dir, weights, trainer.step, report.tree())


def report_of(session: Session, trainer: Trainer, prepared: Prepared, outcomes: Outcomes) -> RunReport:
    """Tell what the run was and did, by its events and by what its own process knows."""
    run = RunFolder(session.config.output_dir)
    run.update()
    losses = run.columns.column("loss").tolist()
    measured = [event for event in run.of_kind("validation") if event["step"] <= trainer.step]
    held_out = {event["step"]: float(event["held_out_loss"]) for event in measured if "held_out_loss" in event}
    tables = [event["items"] for event in measured if "items" in event]
    known = summary_of(run)
    return RunReport(
        **{own.name: getattr(known, own.name) for own in own_fields(RunSummary)},
        version=1,
        steps=trainer.step,
        skipped_steps=trainer.update.num_skipped,
        stopped_by=outcomes.reason(trainer),
        num_samples=prepared.plan.num_samples,
        mix=[DataShare(**own) for own in prepared.mixture(trainer.step)],
        bad_samples=[BadItem(path=problem.path, reason=problem.reason) for problem in prepared.problems],
        first_loss=losses[0] if losses else None,
        last_loss=losses[-1] if losses else None,
        held_out_losses=sorted(held_out.items()),
        best_step=outcomes.best,
        items=made(ItemTable, tables[-1]) if tables else None,
        seconds=session.seconds,
    )
