"""Alarms: what one who watches a run would stop it for, told as a warning with a ``kind`` when it begins.

A situation is told of once; it has to be over before it is told of again. What a run knew before it was interrupted is read
from its events and from the folders of its validations. The first process alone watches.
"""

import math
import statistics
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from finetrainers.config import Config
from finetrainers.events import WarningEvent
from finetrainers.events.kinds import AlarmKind
from finetrainers.files.steps import step_folders
from finetrainers.training.alarm_rules import (
    FLAT_STEPS,
    SEEN_EPOCHS,
    ZERO_STEPS,
    Figures,
    Norms,
    is_flat,
    is_rising,
    never_learnt,
)
from finetrainers.training.prepared import Prepared
from finetrainers.training.report import read_events
from finetrainers.training.session import Session
from finetrainers.training.trainer import Metrics, Trainer
from finetrainers.training.validation.item_losses import ITEMS, read_facts

MAX_NAMED = 5
"""Items that a message names."""
ALL = ""
"""What a situation is about that is of the whole run."""


class Alarms:
    """After each step: looks at the norm of the gradient, and after a validation at what it measured."""

    def __init__(self, session: Session, prepared: Prepared) -> None:
        self._session, self._config, self._order = session, session.config, prepared.order
        self._norms = Norms()
        self._figures: dict[int, Figures] = {}
        """By the step of the validation."""
        self._losses: list[float] = []
        """Training losses since the last validation."""
        self._training: dict[int, float] = {}
        """Mean training loss of the steps before a validation."""
        self._told: dict[AlarmKind, set[str]] = {}
        """What has been told of, and is not over."""
        self._is_flat = False
        """Whether the last validation found the losses of the first."""
        self._is_recalling = False

    def __call__(self, trainer: Trainer, metrics: Metrics | None = None) -> None:
        """Watch; without metrics, recall what was before this start."""
        if not self._session.world.is_first:
            return
        step = trainer.step
        if metrics is None:
            self._recall(step)
        elif metrics.is_finite and metrics.step == step:
            self._losses.append(metrics.loss)
            self._look_at_norm(metrics.grad_norm, step)
            if self._config.validation.is_due(step, last=self._config.train.steps):
                self._figures |= read_figures(self._config, step, known=self._figures)
                self._look_at_figures(step)

    def _look_at_norm(self, norm: float, step: int, *, steps: int = 1) -> None:
        was_zero, jump = self._is_zero, self._norms.add(norm, steps=steps)
        if jump is not None:
            message = f"the gradient norm jumps: {jump}. Lower optimizer.lr, or check the data"
            self._emit(WarningEvent(message=message, step=step, kind="grad_norm_jump"))
        if self._is_zero:
            self._tell_flat(f"the gradient was zero in {ZERO_STEPS} steps in a row", step)
        elif was_zero and not self._is_flat:
            self._begun("loss_flat", ())

    @property
    def _is_zero(self) -> bool:
        return self._norms.num_zero >= ZERO_STEPS

    def _look_at_figures(self, step: int) -> None:
        """Compare what the validations so far have measured."""
        if self._losses:
            self._training[step], self._losses = statistics.fmean(self._losses), []
        if step not in self._figures or len(self._figures) < 2:
            return
        figures = [self._figures[own] for own in sorted(self._figures)]
        is_due = step >= self._config.schedule.warmup_steps + FLAT_STEPS
        self._is_flat = is_due and is_flat(figures[0], figures[-1])
        if self._is_flat:
            self._tell_flat("the loss at fixed noise is what it was at first", step)
        elif not self._is_zero:
            self._begun("loss_flat", ())
        has_seen = len(figures) > 2 and self._order.epoch_of(step - 1) >= SEEN_EPOCHS
        self._tell_items(self._begun("item_not_learnt", never_learnt(figures[0], figures[-2:]) if has_seen else ()), step)
        rising = [name for name in figures[-1].held_out if self._is_rising(name)]
        for name in self._begun("held_out_rises", rising):
            self._tell_rise(name, step)

    def _is_rising(self, name: str) -> bool:
        curve = self._curve(name)
        return is_rising(list(curve.values()), [self._training.get(step, float("nan")) for step in curve])

    def _curve(self, name: str) -> dict[int, float]:
        """Held-out loss of a data set by step, in order."""
        found = {step: self._figures[step].held_out for step in sorted(self._figures)}
        return {step: held_out[name] for step, held_out in found.items() if name in held_out}

    def _tell_flat(self, what: str, step: int) -> None:
        if self._begun("loss_flat", [ALL]):
            rate = self._config.optimizer.lr_value
            message = f"the run does not learn: {what}. Raise optimizer.lr ({rate:g}), or check tuning.targets and the data"
            self._emit(WarningEvent(message=message, step=step, kind="loss_flat"))

    def _tell_items(self, paths: list[str], step: int) -> None:
        if paths:
            more = f" and {len(paths) - MAX_NAMED} more" if len(paths) > MAX_NAMED else ""
            message = (
                f"{len(paths)} of the measured items are as hard as at first, while others were learned: check them and at "
                f"their captions: {', '.join(paths[:MAX_NAMED])}{more}"
            )
            self._emit(WarningEvent(message=message, step=step, kind="item_not_learnt", about=paths))

    def _tell_rise(self, name: str, step: int) -> None:
        curve = self._curve(name)
        lowest = min(curve, key=lambda own: curve[own])
        message = (
            f"the held-out loss{f' of {name}' if name else ''} was {curve[lowest]:.5f} at step {lowest} and is "
            f"{curve[step]:.5f}, while the training loss falls: the run is overfitting. Stop it and take the weights of "
            "that step (checkpoint.keep_best keeps them), or give it more data"
        )
        about = [name] if name else None
        self._emit(WarningEvent(message=message, step=step, kind="held_out_rises", about=about))

    def _begun(self, kind: AlarmKind, about: Iterable[str]) -> list[str]:
        """Note what a kind is about now; return what it was not about before."""
        now = list(dict.fromkeys(about))
        before, self._told[kind] = self._told.get(kind, set()), set(now)
        return [name for name in now if name not in before]

    def _emit(self, event: WarningEvent) -> None:
        if not self._is_recalling:
            self._session.emit(event)

    def _recall(self, last: int) -> None:
        """Go through what was before this start, up to a step; of that step, look at a validation made since."""
        figures, since = read_figures(self._config, last), self._events(last)
        steps = {event["step"]: event for event in since if event["event"] == "step"}  # of one taken twice, the later
        told = [event for event in since if event["event"] == "warning" and "kind" in event]
        self._is_recalling, before = True, 0
        for step in sorted({*steps, *figures, *(event["step"] for event in told)}):
            known = dict(self._told)
            if step in steps:
                self._recall_step(steps[step], since=before)
                before = step
            if step in figures and step < last:
                self._figures[step] = figures[step]
                self._look_at_figures(step)
            # What is over has been found anew; what was told of, the events say.
            self._told = {kind: now & known.get(kind, set()) for kind, now in self._told.items()}
            for event in told:
                if event["step"] == step:
                    self._told.setdefault(event["kind"], set()).update(event.get("about", [ALL]))
        self._is_recalling = False
        if last in figures:
            self._figures[last] = figures[last]
            self._look_at_figures(last)

    def _recall_step(self, event: dict[str, Any], *, since: int) -> None:
        """Take a step that was logged, for all since the one that was logged before it."""
        loss, norm, step = float(event["loss"]), float(event["grad_norm"]), event["step"]
        if math.isfinite(loss) and math.isfinite(norm):  # else it was skipped
            self._losses.append(loss)
            self._look_at_norm(norm, step, steps=step - since if self._norms.num_zero else 1)

    def _events(self, last: int) -> list[dict[str, Any]]:
        """Read the steps and the warnings of a run up to a step, since it was begun."""
        events = read_events(self._config.output_dir, {"run", "step", "warning"}) if last else []
        begun = [number for number, e in enumerate(events) if e["event"] == "run" and e["resumed_from"] is None]
        since = events[begun[-1] if begun else 0 :]
        return [event for event in since if event.get("step") is not None and event["step"] <= last]


def read_figures(config: Config, step: int, *, known: Collection[int] = ()) -> dict[int, Figures]:
    """Read what validations up to a step have measured, as far as it is not known."""
    folders = step_folders(config.output_dir / "validation")
    found = {own: _figures(folder) for own, folder in folders.items() if own <= step and own not in known}
    return {own: figures for own, figures in found.items() if figures.held_out or figures.items}


def _figures(folder: Path) -> Figures:
    facts = read_facts(folder)
    sets = {own["path"]: float(own["loss"]) for own in facts.get("held_out_sets", ())}
    whole = {"": float(facts["held_out_loss"])} if "held_out_loss" in facts else {}
    return Figures(sets or whole, {own["key"]: (own["path"], float(own["loss"])) for own in facts.get(ITEMS, ())})
