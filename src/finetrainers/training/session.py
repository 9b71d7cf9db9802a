"""What the parts of one call of ``train`` or ``encode`` share: where they tell, what stops them, and how long they took."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress

from finetrainers.config import Config
from finetrainers.config.user_code import user_code_errors
from finetrainers.data.cache.leases import Lease
from finetrainers.distributed.world import World
from finetrainers.errors import Interrupted
from finetrainers.events import EndEvent, ErrorEvent, Event, ProgressEvent, StageEvent, WarningEvent
from finetrainers.files.marks import SAVE_FILE as SAVE_FILE
from finetrainers.files.storage import storage_errors
from finetrainers.memory.out_of_memory import Doing, out_of_memory_explained
from finetrainers.memory.precision import matmul_precision
from finetrainers.optim.optimizers import check_optimizer
from finetrainers.training.directory import run_directory
from finetrainers.training.paths import absolute, places
from finetrainers.training.report_page import ReportPage
from finetrainers.training.signals import StopSignals
from finetrainers.training.track.track import Sinks, begin_trackers, build_tracker, check_trackers, log_tracker
from finetrainers.training.trainer import Asked
from finetrainers.training.user_code import check_user_code


class Session:
    """One process of a run; the first of them holds the run's directory."""

    def __init__(self, config: Config, world: World, tracker: Sinks, signals: StopSignals, lease: Lease) -> None:
        self.config = config
        self.world = world
        self.tracker = tracker
        self.signals = signals
        self.lease = lease
        self.device = world.device
        self.seconds: dict[str, float] = {}
        """Of each stage."""
        self.is_writing: Callable[[], bool] = lambda: False
        """Whether this process is still writing a checkpoint."""
        self.is_answering = False
        """Whether the checkpoint that the file asks for is staged."""
        self.page: ReportPage | None = None
        """Of the first process, where it is asked for."""

    def emit(self, event: Event) -> None:
        """Write one event."""
        self.tracker.emit(event)

    def warn(self, message: str, *, step: int | None = None) -> None:
        """Say what a user should know of."""
        self.emit(WarningEvent(message=message, step=step))

    def tell_seconds(self, stage: str, seconds: float) -> None:
        """Record how long a stage took; stages of one name add up."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        self.emit(StageEvent(stage=stage, seconds=seconds))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage."""
        start = time.perf_counter()
        yield
        self.tell_seconds(name, time.perf_counter() - start)

    def progress(self, stage: str, done: int, total: int) -> None:
        """Report the progress of a stage, and stop here if a signal has come: the cache keeps what is done."""
        self.emit(ProgressEvent(stage=stage, done=done, total=total))
        self.signals.raise_if_received(stage)

    def asked(self) -> Asked:
        """Say what this process is asked for; of the file in the run directory the first one tells."""
        has_file = self.world.is_first and not self.is_answering and (self.config.output_dir / SAVE_FILE).is_file()
        return Asked(self.signals.received is not None, self.signals.is_asked_to_save or has_file, self.is_writing())

    def memory(self, doing: Doing) -> AbstractContextManager[None]:
        """Explain an error of full memory in what is done in its context."""
        return out_of_memory_explained(self.config, self.device, doing)


@contextmanager
def open_session(config: Config, world: World, *, kept: str) -> Iterator[Session]:
    """Hold the run directory, listen for signals, and record how the run ends.

    Args:
        config: Of the run, with paths as the user gave them.
        world: All processes of the run: the first holds its directory, and they begin together or not at all.
        kept: What is kept where the run is stopped at once, as a sentence.
    """
    config = absolute(config)
    signals = StopSignals(kept=kept, tell=world.watch.ask_all_to_stop)
    world.watch.asked_to_stop = signals.receive_from_another
    with ExitStack() as stack:
        stack.enter_context(storage_errors(places(config)))
        stack.enter_context(user_code_errors())  # inside of those: a connection that fails there is no file of ours
        check_optimizer(config.optimizer, config.schedule)
        check_trackers(config.track)
        check_user_code(config)
        world.first(lambda: stack.enter_context(run_directory(config, attempt=world.launch.attempt)))
        stack.enter_context(signals.installed())
        stack.enter_context(matmul_precision(config.train.matmul_precision))
        tracker = build_tracker(config) if world.is_first else log_tracker(config.output_dir / "logs" / f"{world.name}.log")
        stack.push(lambda _, error, __: tracker.close(error))
        page = ReportPage(config) if world.is_first and config.track.report else None
        if page is not None:
            stack.enter_context(page)
        with _recorded_end(config, tracker), world.watch.telling(), closing(Lease(config.cache.path)) as lease:
            if world.is_first:
                begin_trackers(tracker, config)
            session = Session(config, world, tracker, signals, lease)
            if page is not None:
                session.page, page.warn = page, session.warn
            yield session


@contextmanager
def _recorded_end(config: Config, tracker: Sinks) -> Iterator[None]:
    """Write the event of a run that does not end as it should."""
    try:
        with storage_errors(places(config)), user_code_errors():  # here, so that events.jsonl has the message too
            yield
    except (Interrupted, KeyboardInterrupt) as stop:
        with suppress(Exception):  # a full disk, or a tracker that fails, must not hide what it was that ended the run
            tracker.emit(EndEvent(status="interrupted", message=str(stop) or "stopped by Ctrl-C"))
        raise
    except Exception as error:
        with suppress(Exception):
            tracker.emit(ErrorEvent(message=str(error), kind=type(error).__name__))
        raise
