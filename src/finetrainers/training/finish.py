"""What a run that took its last step leaves: a model card, a report, and on request all of it on the Hub."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from finetrainers.events import EndEvent
from finetrainers.files.steps import step_directory
from finetrainers.runs.outputs import samples_of
from finetrainers.training.cards import Cards
from finetrainers.training.export import export_facts
from finetrainers.training.hub import push
from finetrainers.training.outcomes import Outcomes
from finetrainers.training.prepared import Prepared
from finetrainers.training.report import read_events, write_report
from finetrainers.training.session import Session
from finetrainers.training.trainer import Trainer


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
    report = _report(session, trainer, prepared, outcomes=outcomes)
    cards.write(trainer.step, export_facts(trainer, config, prepared.model), repo=repo)
    cards.tell(session.warn)
    write_report(config.output_dir, report)
    if repo is not None:
        report["pushed_to"] = push(repo, weights, private=config.hub_private)
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
    return Result(config.output_dir, weights, trainer.step, report)


def _report(session: Session, trainer: Trainer, prepared: Prepared, *, outcomes: Outcomes) -> dict[str, Any]:
    events = read_events(session.config.output_dir, {"run", "step", "validation"})
    begun = [number for number, e in enumerate(events) if e["event"] == "run" and e["resumed_from"] is None]
    events = events[begun[-1] if begun else 0 :]  # what was before is of a run that was given up
    losses = {e["step"]: e["loss"] for e in events if e["event"] == "step"}
    held_out = {e["step"]: e["held_out_loss"] for e in events if e["event"] == "validation" and "held_out_loss" in e}
    tables = [e["items"] for e in events if e["event"] == "validation" and "items" in e and e["step"] <= trainer.step]
    return {
        "version": 1,
        "steps": trainer.step,
        "skipped_steps": trainer.update.num_skipped,
        "num_samples": prepared.plan.num_samples,
        "mix": prepared.mixture(trainer.step),
        "bad_samples": [asdict(problem) for problem in prepared.problems],
        "first_loss": losses.get(min(losses, default=0)),
        "last_loss": losses.get(max(losses, default=0)),
        "held_out_losses": sorted((step, loss) for step, loss in held_out.items() if step <= trainer.step),
        "stopped_by": outcomes.reason(trainer),
        "best_step": outcomes.best,
        "items": tables[-1] if tables else None,
        "seconds": session.seconds,
    }
