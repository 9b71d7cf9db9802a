"""The composition root: builds a run from a configuration. The only file that knows every part."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from finetrainers.batch import Batch
from finetrainers.config import Config
from finetrainers.data.cache.leases import Lease
from finetrainers.data.catalog.left_out import JOURNAL
from finetrainers.data.catalog.occupancy import about_empty, occupancy
from finetrainers.distributed.launch import refuse_further_processes
from finetrainers.distributed.world import pick_device
from finetrainers.encoding.encoder import free_memory
from finetrainers.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    Interrupted,
    MissingItemError,
    StoppedAtOnceError,
    StorageError,
)
from finetrainers.files.steps import step_directory
from finetrainers.files.storage import storage_errors
from finetrainers.memory.out_of_memory import Doing, out_of_memory_explained
from finetrainers.models import open_model
from finetrainers.optim.optimizers import check_optimizer
from finetrainers.optim.schedules import learning_rate, set_learning_rate
from finetrainers.training.build import build_batches, build_steps, build_trainer, build_validator
from finetrainers.training.card import write_card
from finetrainers.training.checkpoint import Checkpoints
from finetrainers.training.checks import check_start
from finetrainers.training.directory import run_directory
from finetrainers.training.export import export_facts, export_weights
from finetrainers.training.hub import check_hub, push
from finetrainers.training.objective import build_objective
from finetrainers.training.paths import absolute, places
from finetrainers.training.prepare import Prepared, encode_again, encode_steps, prepare
from finetrainers.training.report import read_events, write_report
from finetrainers.training.signals import StopSignals
from finetrainers.training.track import StepLog, Tracker, build_tracker, check_trackers
from finetrainers.training.trainer import Metrics, Trainer
from finetrainers.training.validate import MISSES_IN_A_ROW, Validator
from finetrainers.tuning import Tuning, build_tuning


@dataclass(frozen=True, slots=True)
class Result:
    """What a finished run left."""

    output_dir: Path
    weights: Path
    """Folder that diffusers loads."""
    steps: int
    report: dict[str, Any]
    """Contents of report.json."""


def train(config: Config) -> Result:
    """Begin a run, or continue the one in ``config.output_dir``, to its end.

    Raises:
        ConfigError: If the configuration, a bucket, a prompt or the model is impossible.
        DataError: Naming all bad samples.
        NonFiniteError: If a loss or a gradient is not finite.
        CheckpointError: If a checkpoint cannot be written, or the one that is asked for is not there.
        StorageError: If the operating system refuses to read or write a file.
        Interrupted: If SIGTERM, SIGUSR1, SIGHUP or Ctrl-C came; the state is saved.
        StoppedAtOnceError: If Ctrl-C came a second time.
    """
    refuse_further_processes()
    config = absolute(config)
    signals = StopSignals(kept="there is no checkpoint yet")
    with storage_errors(places(config)), _session(config, signals) as tracker, closing(Lease(config.cache.path)) as lease:
        return _Run(config, tracker, signals, lease).train()


def encode(config: Config) -> None:
    """Fill the cache with all that a training run will read, as far as ``cache.max_gb`` allows.

    Raises:
        ConfigError: As ``train`` does.
        DataError: Naming all bad samples.
    """
    refuse_further_processes()
    config = absolute(config)
    signals = StopSignals(kept="the cache keeps what is done")
    with storage_errors(places(config)), _session(config, signals) as tracker, closing(Lease(config.cache.path)) as lease:
        run = _Run(config, tracker, signals, lease)
        with run.stage("encoding"):
            run.encode(run.prepare(), 0)
        tracker.emit("end", status="done", step=0)


@contextmanager
def _session(config: Config, signals: StopSignals) -> Iterator[Tracker]:
    """Hold the run directory, listen for signals, and record how the run ends."""
    check_optimizer(config.optimizer, config.schedule)
    check_trackers(config.track)
    with run_directory(config), signals.installed(), ExitStack() as stack:
        tracker = build_tracker(config)
        stack.callback(tracker.close)
        try:
            with storage_errors(places(config)):  # here, so that events.jsonl has the message too
                yield tracker
        except (Interrupted, KeyboardInterrupt) as stop:
            with suppress(OSError, StorageError):  # a full disk must not hide what it was that ended the run
                tracker.emit("end", status="interrupted", message=str(stop) or "stopped by Ctrl-C")
            raise
        except Exception as error:
            with suppress(OSError, StorageError):
                tracker.emit("error", message=str(error), kind=type(error).__name__)
            raise


class _Run:
    """One call of ``train`` or ``encode``."""

    def __init__(self, config: Config, tracker: Tracker, signals: StopSignals, lease: Lease) -> None:
        self.config = config
        self.tracker = tracker
        self.signals = signals
        self.lease = lease
        self.device = pick_device(config.train.device)
        self.checkpoints = Checkpoints(config.output_dir / "checkpoints", keep=config.checkpoint.keep)
        self.seconds: dict[str, float] = {}
        self.last_saved = 0
        """Step whose checkpoint was last written, or tried to be."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage; stages of one name add up."""
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        self.tracker.emit("stage", stage=name, seconds=seconds)

    def progress(self, stage: str, done: int, total: int) -> None:
        """Report the progress of a stage, and stop here if a signal has come: the cache keeps what is done."""
        self.tracker.emit("progress", stage=stage, done=done, total=total)
        self.signals.raise_if_received(stage)

    def warn(self, message: str) -> None:
        """Say what a user should know of."""
        self.tracker.emit("warning", message=message)

    def memory(self, doing: Doing) -> AbstractContextManager[None]:
        """Explain an error of full memory in what is done in its context."""
        return out_of_memory_explained(self.config, self.device, doing)

    def encode(self, prepared: Prepared, start: int, *, again: bool = False) -> tuple[Prepared, int]:
        """Encode what the steps from ``start`` will read; see ``encode_steps``, and ``encode_again`` for what was lost."""
        with self.memory("encoding"):
            return (encode_again if again else encode_steps)(prepared, self.config, start)

    def prepare(self) -> Prepared:
        """Plan the run."""
        with self.stage("planning"):
            self.model = open_model(self.config.model)
            self.objective = build_objective(self.config, self.model)
            return prepare(self.config, self.model, self.device, progress=self.progress, warn=self.warn, lease=self.lease)

    def train(self) -> Result:
        """Plan, encode, build, and train window by window."""
        config = self.config
        repo = check_hub(config) if config.push_to_hub else None
        checkpoints = self.checkpoints
        resumed = checkpoints.find(config.checkpoint.resume)
        if resumed is not None and config.checkpoint.resume != "latest":
            checkpoints.set_aside(resumed)
        start = resumed or 0
        if resumed is None:
            check_start(config)
        else:
            self._kept(resumed)
        if start > config.train.steps:
            raise ConfigError(f"train.steps: {config.train.steps} is less than the {start} steps that this run has taken")
        prepared = self.prepare()
        with self.stage("encoding"):
            prepared, stop = self.encode(prepared, start)
        self._announce(prepared, resumed)
        with self.stage("loading"):
            # A checkpoint holds all that trains: what the run began from may be gone.
            fresh = {} if resumed is None else {"start_from": None}
            tuning = build_tuning(config.tuning.model_copy(update=fresh))
            with self.memory("loading"):
                trainer = build_trainer(config, self.model, objective=self.objective, tuning=tuning, device=self.device)
            if resumed is not None:
                checkpoints.restore(trainer, resumed)
                rate = learning_rate(config.optimizer, config.schedule, step=resumed, steps=config.train.steps)
                set_learning_rate(trainer.schedule, rate)
        if config.conditioning.takes_control and trainer.step < stop:
            self._verify_control(trainer, prepared)
        validator = build_validator(config, prepared, emit=self.tracker.emit, interrupt=self._stop_validating)
        trainer.after_step = self._after_step(checkpoints, validator, tuning)
        try:
            self._validate(validator, trainer)
            self._watch_first_step(trainer)
            prepared = self._train_windows(trainer, prepared, stop)
        except BaseException as error:
            if not isinstance(error, StoppedAtOnceError) and trainer.step != self.last_saved:
                self._rescue(checkpoints, trainer, tuning, error)
            raise
        return self._finish(trainer, prepared, tuning, repo)

    def _verify_control(self, trainer: Trainer, prepared: Prepared) -> None:
        """Look whether the control reaches its columns, by the sample that is trained on next."""
        sample = build_steps(prepared, self.objective).sample(trainer.step, 0).to(self.device)
        parts = self.model.denoisers.split(trainer.denoiser)
        trainer.conditioning.verify(list(parts.values()), self.model.adapter, trainer.predict, sample)

    def _train_windows(self, trainer: Trainer, prepared: Prepared, stop: int) -> Prepared:
        """Train as far as the cache reaches, and encode on, until all steps are taken."""
        misses: list[int] = []
        while True:
            self.prepared = before = prepared
            device, objective = self.device, self.objective
            steps = {"start": trainer.step, "stop": stop}
            try:
                with closing(build_batches(self.config, prepared, objective=objective, device=device, **steps)) as batches:
                    self._run(trainer, batches, stop)
            except MissingItemError as miss:
                misses.append(trainer.step)
                if misses[-MISSES_IN_A_ROW:] == MISSES_IN_A_ROW * [trainer.step]:
                    raise DataError(str(miss)) from miss
                self._tell_of_miss(miss, trainer.step)
                prepared, stop = self.encode(prepared, trainer.step, again=True)
            else:
                if stop == self.config.train.steps:
                    return prepared
                prepared, stop = self.encode(prepared, stop)
            self._tell_of_replaced(before, prepared, range(trainer.step, stop))

    def _tell_of_miss(self, miss: MissingItemError, step: int) -> None:
        message = f"items of the cache are encoded again, and the run goes on with the same samples: {miss}"
        self.tracker.emit("warning", message=message, step=step)

    def _tell_of_replaced(self, before: Prepared, prepared: Prepared, steps: range) -> None:
        """Warn of what turned out bad only now that its window is encoded."""
        new = {item.path for item in set(prepared.left_out) - set(before.left_out)}
        if new:
            count = prepared.plan.choices.num_replaced(prepared.order, steps)
            message = (
                f"{len(new)} media could not be decoded or encoded: others of their bucket stand in for {count} samples of "
                f"the steps {steps.start + 1} to {steps.stop}; {JOURNAL} and report.json name them"
            )
            self.tracker.emit("warning", message=message, step=steps.start)

    def _run(self, trainer: Trainer, batches: Iterator[Batch], stop: int) -> None:
        with self.memory("training"):
            trainer.run(batches, stop=stop)

    def _validate(self, validator: Validator, trainer: Trainer, _: Metrics | None = None) -> None:
        with self.memory("validating"):
            validator(trainer)

    def _stop_validating(self) -> None:
        self.signals.raise_if_received("validating")

    def _rescue(self, checkpoints: Checkpoints, trainer: Trainer, tuning: Tuning, error: BaseException) -> None:
        """Save the steps since the last checkpoint, whatever ended the run, and then the weights as far as that can be done.

        Raises:
            CheckpointError: If a signal asked for it and it cannot be done. Another error stays the one that is raised.
        """
        step, messages = trainer.step, []
        try:
            if not trainer.is_whole:
                raise CheckpointError("an update was cut off in the middle")
            trainer.optimizer.zero_grad(set_to_none=True)
            free_memory()  # of which there may be none left
            self._save(checkpoints, trainer)
            messages.append(f"the checkpoint of step {step} is saved: the same command goes on from there")
            export_weights(trainer, self.config, self.model, tuning)
        except Exception as failure:
            if isinstance(error, Interrupted) and not messages:
                raise
            what = "weights" if messages else "state"
            messages.append(f"the {what} of step {step} cannot be saved ({failure}); {self.signals.kept}")
        with suppress(Exception):  # to tell it must not hide the error, which is raised next
            for message in messages[isinstance(error, Interrupted) :]:  # the signal's own message says the first
                self.tracker.emit("warning", message=message, step=step)

    def _kept(self, step: int) -> None:
        """Remember that a step's checkpoint is whole."""
        self.last_saved, self.signals.kept = step, f"the checkpoint of step {step} is kept"

    def _save(self, checkpoints: Checkpoints, trainer: Trainer, *, weights: Path | None = None) -> None:
        self.last_saved = trainer.step
        directory = checkpoints.save(trainer, weights=weights)
        self._kept(trainer.step)
        self.tracker.emit("checkpoint", step=trainer.step, directory=str(directory))

    def _media_at(self, position: int) -> str:
        """Name the file that a sample position shows."""
        step, row = divmod(position, self.config.train.batch_size)
        return self.prepared.plan.step(self.prepared.order, step)[row].target.path

    def _announce(self, prepared: Prepared, resumed: int | None) -> None:
        order, catalog = prepared.order, prepared.plan.catalog
        held_out = None if prepared.held_out_plan is None else prepared.held_out_plan.catalog
        last = max(0, self.config.train.steps - 1)
        fingerprint = prepared.plan.fingerprint()
        before = read_events(self.config.output_dir, {"run"})
        if resumed is not None and before and before[-1]["data"] != fingerprint:
            message = "the data changed since the run was last started (files, or a signal): it goes on with the new ones"
            self.tracker.emit("warning", message=message)
        if resumed is not None and before:
            self._announce_schedule(resumed, before[-1]["steps"])
        self.tracker.emit(
            "run",
            output_dir=str(self.config.output_dir),
            family=self.model.adapter.name,
            task=self.model.task,
            resumed_from=resumed,
            steps=self.config.train.steps,
            batch_size=self.config.train.batch_size,
            num_samples=prepared.plan.num_samples,
            num_held_out=len(prepared.held_out),
            num_bad=len(prepared.problems),
            data=fingerprint,
            epochs=order.epoch_of(last) + 1,
            device=str(self.device),
            buckets=occupancy(catalog, held_out, [job.bucket for job in prepared.held_out]),
        )
        empty = about_empty(catalog, "data")
        if self.config.validation.data and held_out is not None:
            empty += about_empty(held_out, "validation.data")
        for message in empty:
            self.tracker.emit("warning", message=message)
        for data in catalog.sets:
            if data.unlisted:
                self.tracker.emit(
                    "warning",
                    message=f"{data.config.path}: {data.unlisted} media files are not listed and are not used",
                )
        for bucket in order.starved(self.config.train.steps):
            self.tracker.emit(
                "warning",
                message=f"bucket {list(catalog.buckets[bucket])} has too few samples to fill a batch of "
                f"{self.config.train.batch_size} within {self.config.train.steps} steps: none of them will be trained on. "
                "Use a smaller batch_size, more steps, or fewer buckets",
            )

    def _announce_schedule(self, step: int, before: int) -> None:
        """Say what another number of steps makes of the schedule, and that a finished run has nothing to do."""
        config, now = self.config, self.config.train.steps
        if step == now:
            self.warn(f"finished at step {step}: nothing is left to train; raise train.steps to go on")
        elif now != before and config.schedule.name != "constant":
            rate, old = (learning_rate(config.optimizer, config.schedule, step=step, steps=n) for n in (now, before))
            self.warn(
                f"train.steps changed from {before} to {now}, and schedule.name: {config.schedule.name} is "
                f"{'stretched' if now > before else 'shortened'} to it: step {step + 1} has the learning rate {rate:.4g}, "
                f"and would have had {old:.4g}"
            )

    def _watch_first_step(self, trainer: Trainer) -> None:
        """Time the first step of this start, data included, as a stage."""
        start, first = time.perf_counter(), trainer.step + 1

        def watch(trainer: Trainer, _: Metrics) -> None:
            if trainer.step == first:
                self.seconds["first step"] = time.perf_counter() - start
                self.tracker.emit("stage", stage="first step", seconds=self.seconds["first step"])

        trainer.after_step = (watch, *trainer.after_step)

    def _after_step(self, checkpoints: Checkpoints, validator: Validator, tuning: Tuning) -> tuple[Any, ...]:
        config = self.config

        def save(trainer: Trainer, _: Metrics) -> None:
            is_due = trainer.step % config.checkpoint.every == 0 or trainer.step == config.train.steps
            if is_due:
                # First: where there is a checkpoint, they are there.
                self._save(checkpoints, trainer, weights=export_weights(trainer, config, self.model, tuning))
            self.signals.raise_if_received(f"training, after step {trainer.step}")

        log = StepLog(
            self.tracker,
            every=config.track.every,
            stops=config.train.non_finite == "stop",
            describe=self._media_at,
        )
        return (log, save, partial(self._validate, validator))

    def _finish(self, trainer: Trainer, prepared: Prepared, tuning: Tuning, repo: str | None) -> Result:
        config = self.config
        weights = step_directory(config.output_dir / "weights", trainer.step)
        if not self.checkpoints.vouches_for(weights, trainer.step):  # as it does for all but a run of 0 steps
            export_weights(trainer, config, self.model, tuning)
        samples = config.output_dir / "validation" / f"step-{trainer.step:06d}"
        report = self._report(trainer, prepared)
        facts = {
            **report,
            "samples": sorted(f.name for f in samples.glob("*") if f.suffix in {".png", ".mp4"}),
        }
        exported = export_facts(trainer, self.model)
        write_card(weights, config=config, model=self.model, tuning=tuning, exported=exported, facts=facts, repo=repo)
        write_report(config.output_dir, report)
        if repo is not None:
            report["pushed_to"] = push(
                repo, weights, samples=samples if facts["samples"] else None, private=config.hub_private
            )
            write_report(config.output_dir, report)
        self.tracker.emit("end", status="done", step=trainer.step, weights=str(weights))
        return Result(config.output_dir, weights, trainer.step, report)

    def _report(self, trainer: Trainer, prepared: Prepared) -> dict[str, Any]:
        events = read_events(self.config.output_dir, {"run", "step", "validation"})
        begun = [number for number, e in enumerate(events) if e["event"] == "run" and e["resumed_from"] is None]
        events = events[begun[-1] if begun else 0 :]  # what was before is of a run that was given up
        losses = {e["step"]: e["loss"] for e in events if e["event"] == "step"}
        held_out = {e["step"]: e["held_out_loss"] for e in events if e["event"] == "validation" and "held_out_loss" in e}
        return {
            "version": 1,
            "steps": trainer.step,
            "skipped_steps": trainer.num_skipped,
            "num_samples": prepared.plan.num_samples,
            "bad_samples": [asdict(problem) for problem in prepared.problems],
            "first_loss": losses.get(min(losses, default=0)),
            "last_loss": losses.get(max(losses, default=0)),
            "held_out_losses": sorted(held_out.items()),
            "seconds": self.seconds,
        }
