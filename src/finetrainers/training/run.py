"""The composition root: builds a run from a configuration. The only file that knows every part."""

import time
from collections.abc import Sequence
from contextlib import closing
from functools import partial

from finetrainers.config import Config
from finetrainers.config.user_code import each_file_once, user_code_errors
from finetrainers.distributed.context import share_tokens
from finetrainers.distributed.layout import check_batch
from finetrainers.distributed.parallelize import begin_anew
from finetrainers.distributed.world import join
from finetrainers.errors import ConfigError, MissingItemError, StoppedAtOnceError
from finetrainers.events import EndEvent
from finetrainers.models import open_model
from finetrainers.optim.schedules import learning_rate, set_learning_rate
from finetrainers.training.attention import settle_attention
from finetrainers.training.auto import Settled, settle
from finetrainers.training.build import build_batches, build_steps, build_trainer
from finetrainers.training.callbacks import Callback, Callbacks, load_callbacks
from finetrainers.training.checkpoint.checkpoints import Checkpoints
from finetrainers.training.checks.alike import check_alike, check_same_data, check_same_weights, check_shared
from finetrainers.training.checks.files import check_files
from finetrainers.training.checks.parts import check_start, check_steps_left, without_start
from finetrainers.training.checks.relocated import check_contents
from finetrainers.training.checks.sharing import check_sharing
from finetrainers.training.console.announce import announce, announce_miss, announce_replaced
from finetrainers.training.epochs import about_epochs, with_counted_steps
from finetrainers.training.finish import Result as Result, finish
from finetrainers.training.fit.choice import as_recorded, fit
from finetrainers.training.following import Following
from finetrainers.training.hub import check_hub
from finetrainers.training.prepare import prepare
from finetrainers.training.prepared import Prepared
from finetrainers.training.record import record_start
from finetrainers.training.session import Session, open_session
from finetrainers.training.track.track import StepLog, loaded_event
from finetrainers.training.trainer import AfterStep, Metrics, Trainer
from finetrainers.training.windows import Misses, encode_again, encode_steps, mend
from finetrainers.tuning import Tuning, build_tuning


@user_code_errors()
@each_file_once()
def train(config: Config, *, callbacks: Sequence[Callback] = ()) -> Result:
    """Begin a run, or continue the one in ``config.output_dir``, to its end.

    Args:
        config: Of the run.
        callbacks: Called in their order while it trains, behind those that the configuration names. A run that goes on does
            not ask whether they are the same.

    Raises:
        ConfigError: If the configuration, a bucket, a prompt or the model is impossible.
        DataError: Naming all bad samples.
        NonFiniteError: If a loss or a gradient is not finite.
        CheckpointError: If a checkpoint cannot be written, or the one that is asked for is not there.
        StorageError: If the operating system refuses to read or write a file.
        Interrupted: If SIGTERM, SIGHUP or Ctrl-C came; the state is saved.
        StoppedAtOnceError: If Ctrl-C came a second time.
    """
    own = Callbacks([*(own() for own in load_callbacks(config)), *callbacks])
    with join(config.parallel, config.train.device) as world:
        differing = check_alike(world, config)
        check_batch(world.layout, batch_size=config.train.batch_size, micro_batch_size=config.train.micro_batch_size)
        settled = world.first(lambda: settle(config))
        counted = world.first(lambda: with_counted_steps(settled.config))
        fitted = world.first(lambda: fit(counted, layout=world.layout))
        check_sharing(fitted.config, world.layout)
        with open_session(fitted.config, world, kept="there is no checkpoint yet") as session:
            _say(session, differing, about_epochs(config, session.config))
            return _Run(session, settled, fitted.lines(), own).train()


@user_code_errors()
@each_file_once()
def encode(config: Config) -> None:
    """Fill the cache with all that a training run will read, as far as ``cache.max_gb`` allows.

    Raises:
        ConfigError: As ``train`` does, or if the cache is in memory.
        DataError: Naming all bad samples.
    """
    if config.cache.encode == "on_the_fly":
        raise ConfigError(
            "cache.encode: on_the_fly keeps encoded items only in the memory of the run that trains on them, so that "
            "finetrainers encode would leave nothing; start finetrainers train, or set cache.encode: ahead"
        )
    with join(config.parallel, config.train.device) as world:
        differing = check_alike(world, config)
        settled = world.first(lambda: settle(config))
        counted = as_recorded(world.first(lambda: with_counted_steps(settled.config)))
        with open_session(counted, world, kept="the cache keeps what is done") as session:
            _say(session, differing, about_epochs(config, session.config))
            _Run(session, settled).encode_all()


def _say(session: Session, *warnings: str | None) -> None:
    """Say how many steps the epochs are that were asked for, and the like."""
    for said in filter(None, warnings):
        session.warn(said)


class _Run:
    """One call of ``train`` or ``encode``."""

    def __init__(
        self, session: Session, settled: Settled, fitting: Sequence[str] = (), callbacks: Callbacks | None = None
    ) -> None:
        """Take what was left to the model, how techniques were chosen, if they were, and the caller's callbacks."""
        self.session, self.config, self.settled, self.fitting = session, session.config, settled, fitting
        self.callbacks = Callbacks(()) if callbacks is None else callbacks

    def prepare(self, start: int = 0, *, files: Config | None = None) -> Prepared:
        """Plan the run, which goes on after ``start`` steps; with ``files``, look at those of the weights that it loads."""
        session = self.session
        with session.stage("planning"), session.world.lead():  # which remembers what the others look at, too
            self.model = open_model(self.config.model, self.config.memory)
            prepared = prepare(
                self.config,
                self.model,
                session.device,
                progress=session.progress,
                warn=session.warn,
                lease=session.lease,
                world=session.world,
                interrupt=session.signals.raise_if_received,
                start=start,
                is_run=True,
            )
            if files is not None:
                check_files(files, self.model, is_resumed=start > 0)
        check_same_data(session.world, prepared)
        self.objective, self.residency = prepared.objective, prepared.encoder.residency
        return prepared

    def encode(self, prepared: Prepared, start: int, *, again: bool = False) -> tuple[Prepared, int]:
        """Encode what the steps from ``start`` will read; see ``encode_steps``, and ``encode_again`` for what was lost."""
        with self.session.memory("encoding"):
            return (encode_again if again else encode_steps)(prepared, self.config, start)

    def encode_all(self) -> None:
        """Encode what the run will read, as far as the cache may hold it."""
        for note in self.settled.notes:
            self.session.warn(note)
        with self.session.stage("encoding"):
            self.encode(self.prepare(), 0)
        self.session.emit(EndEvent(status="done", step=0))

    def _mended(self, prepared: Prepared, steps: range) -> tuple[Prepared, int]:
        """Encode what was lost of what the steps read; other processes of the run may have lost nothing, and wait."""
        if self.session.world.is_alone:
            return self.encode(prepared, steps.start, again=True)
        with self.session.memory("encoding"), self.session.signals.put_off():
            mend(prepared, steps)
        return prepared, steps.stop

    def train(self) -> Result:
        """Plan, encode, build, and train window by window."""
        config, session = self.config, self.session
        world = session.world
        check_shared(world, config.output_dir)
        repo = world.first(lambda: check_hub(config)) if config.push_to_hub else None
        folder, keep = config.output_dir / "checkpoints", config.checkpoint.keep
        checkpoints = Checkpoints(folder, keep=keep, world=world, warn=session.warn)
        resumed = world.first(lambda: self._find_start(checkpoints))
        prepared = self.prepare(resumed or 0, files=config if resumed is None else without_start(config))
        if resumed is not None:
            start = prepared
            world.first(lambda: check_contents(session, start))
        with session.stage("encoding"):
            prepared, stop = self.encode(prepared, resumed or 0)
        world.first(lambda: announce(session, prepared, resumed=resumed, settled=self.settled, fitting=self.fitting))
        world.first(lambda: record_start(session, prepared, resumed=resumed))
        check_same_weights(world, self.model)
        # A checkpoint holds all that trains: what the run began from may be gone.
        tuning = build_tuning((config if resumed is None else without_start(config)).tuning)
        # Before anything is loaded, while the device is empty: trials have processes of their own on it.
        steps = range(resumed or 0, stop)
        self.attention = world.first(lambda: settle_attention(session, prepared, steps, is_resumed=resumed is not None))
        with session.stage("loading"), world.together():
            trainer = self._load(checkpoints, tuning, resumed)
        session.emit(loaded_event(trainer))
        if config.control is not None and trainer.step < stop:
            self._verify_control(trainer, prepared)
        following = Following(session, prepared, checkpoints, model=self.model, tuning=tuning, resumed=resumed)
        trainer.after_step = following.after_step(self._step_log(), self.callbacks)
        try:
            following.before(trainer)
            self.callbacks.before(trainer)
            self._watch_first_step(trainer)
            prepared = self._train_windows(trainer, prepared, stop)
            self.callbacks.after(trainer)
        except BaseException as error:
            if not isinstance(error, StoppedAtOnceError):
                following.saver.rescue(trainer, error)
            raise
        weights = following.saver.finished_weights(trainer)
        done = prepared
        cards, outcomes = following.cards, following.outcomes
        return world.first(
            lambda: finish(session, trainer, done, outcomes=outcomes, cards=cards, weights=weights, repo=repo)
        )

    def _find_start(self, checkpoints: Checkpoints) -> int | None:
        """Find the step from which a run goes on, if there is one, and set aside what came after it.

        Raises:
            ConfigError: If the run is further already, or if what it is to begin from is not there.
        """
        config = self.config
        resumed = checkpoints.find(config.checkpoint.resume)
        if resumed is None:
            check_start(config)
            return None
        self.session.signals.kept = f"the checkpoint of step {resumed} is kept"
        if config.checkpoint.resume != "latest":
            checkpoints.set_aside(resumed)
        check_steps_left(config, resumed)
        return resumed

    def _load(self, checkpoints: Checkpoints, tuning: Tuning, resumed: int | None) -> Trainer:
        """Load what trains, as the model's authors left it or as a checkpoint has it."""
        config, world = self.config.model_copy(update={"attention": self.attention}), self.session.world
        with self.session.memory("loading"):
            trainer = build_trainer(
                config, self.model, objective=self.objective, tuning=tuning, device=world.device, world=world
            )
        trainer.asked = self.session.asked
        self.residency.adopt(self.model.denoisers.split(trainer.denoiser))
        self.residency.share = partial(
            share_tokens,
            plan=self.model.adapter.context_plan(),
            blocks=self.model.adapter.blocks,
            world=world,
            kind=config.parallel.context_kind,
        )
        if resumed is not None:
            checkpoints.restore(trainer, resumed)
            rate = learning_rate(config.optimizer, config.schedule, step=resumed, steps=config.train.steps)
            set_learning_rate(trainer.update.schedule, rate)
        return trainer

    def _verify_control(self, trainer: Trainer, prepared: Prepared) -> None:
        """Look whether the control reaches its columns, by a sample that this process is trained on next."""
        row = self.session.world.rows(self.config.train.batch_size).start
        sample = build_steps(prepared, self.objective).sample(trainer.step, row).to(self.session.device)
        parts = self.model.denoisers.split(trainer.denoiser)
        trainer.conditioning.verify(list(parts.values()), self.model.adapter, trainer.predict, sample)
        for part in parts.values():
            begin_anew(part)  # the forward pass goes no further than the layer that is looked at

    def _train_windows(self, trainer: Trainer, prepared: Prepared, stop: int) -> Prepared:
        """Train as far as the cache reaches, and encode on, until all steps are taken."""
        misses = Misses()
        while True:
            self.prepared = before = prepared
            try:
                self._train_window(trainer, prepared, stop)
            except MissingItemError as miss:
                misses.add(miss, trainer.step)
                announce_miss(self.session, miss, trainer.step)
                prepared, stop = self._mended(prepared, range(trainer.step, stop))
            else:
                if stop == self.config.train.steps or trainer.is_over:
                    return prepared
                prepared, stop = self.encode(prepared, stop)
            announce_replaced(self.session, before, prepared, range(trainer.step, stop))

    def _train_window(self, trainer: Trainer, prepared: Prepared, stop: int) -> None:
        world, objective = self.session.world, self.objective
        batches = build_batches(self.config, prepared, objective=objective, world=world, start=trainer.step, stop=stop)
        with closing(batches), self.session.memory("training"):
            trainer.run(batches, stop=stop)

    def _watch_first_step(self, trainer: Trainer) -> None:
        """Time the first step of this start, data included, as a stage."""
        start, first = time.perf_counter(), trainer.step + 1

        def watch(trainer: Trainer, _: Metrics) -> None:
            if trainer.step == first:
                self.session.tell_seconds("first step", time.perf_counter() - start)

        trainer.after_step = (watch, *trainer.after_step)

    def _step_log(self) -> AfterStep:
        stops = self.config.train.non_finite == "stop"
        return StepLog(self.session.tracker, every=self.config.track.every, stops=stops, describe=self._media_at)

    def _media_at(self, position: int) -> str:
        """Name the file that a sample position shows."""
        step, row = divmod(position, self.config.train.batch_size)
        return self.prepared.plan.step(self.prepared.order, step)[row].target.path
