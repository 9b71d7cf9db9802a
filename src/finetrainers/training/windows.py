"""The encoding of what the next steps read: all of it, or as much as the cache may hold."""

from collections.abc import Sequence

from finetrainers.config import Config
from finetrainers.data.cache.store import Kind
from finetrainers.data.catalog.catalog import raise_if_any
from finetrainers.data.catalog.left_out import JOURNAL, LeftOut, write_journal
from finetrainers.data.order.jobs import Failure
from finetrainers.data.order.lazy import Joined
from finetrainers.data.sources.items import Problem
from finetrainers.encoding.budget import Budget
from finetrainers.errors import DataError, MissingItemError
from finetrainers.training.prepared import Prepared

MISSES_IN_A_ROW = 3
"""Times that the same items may be gone from the cache when they are read: then encoding them again is of no use."""


class Misses:
    """Counts at which steps items were gone from the cache when they were read."""

    def __init__(self) -> None:
        self._steps: list[int] = []

    def add(self, miss: MissingItemError, step: int) -> None:
        """Count one more.

        Raises:
            DataError: If it happens again and again at one step.
        """
        self._steps.append(step)
        if self._steps[-MISSES_IN_A_ROW:] == MISSES_IN_A_ROW * [step]:
            raise DataError(str(miss)) from miss


def encodes_again(config: Config) -> bool:
    """Whether a run may encode after it began to train: its encoders then wait on the host, and are loaded once."""
    return config.cache.max_gb is not None or any(data.stream for data in config.data)


def encode_steps(prepared: Prepared, config: Config, start: int) -> tuple[Prepared, int]:
    """Encode what the steps from ``start`` will read, as far as the cache may grow; all processes of the run do it together.

    Returns:
        The run with others in the place of the samples that turned out bad, and the step before which everything is there.

    Raises:
        DataError: Naming all media that could not be decoded, if they are not to be skipped.
    """
    budget, encoder = Budget(prepared.encoder), prepared.encoder
    with encoder.world.together():  # before any process marks anything as used, and before the first removes anything
        if encoder.lease is not None:
            encoder.lease.renew()
    if prepared.chapters is not None and start < config.train.steps:
        with encoder.world.lead():  # which remembers what the others look at, too
            prepared = prepared.at(start)
    while True:
        stop, failures = _encode_window(prepared, budget, range(start, prepared.stop(config.train.steps)))
        if not failures:
            return prepared, stop
        prepared = _leave_out(prepared, config, failures, since=start)


def _encode_window(prepared: Prepared, budget: Budget, steps: range) -> tuple[int, list[Failure]]:
    """Encode what as many of these steps will read as fit; return the step after them, and what cannot be made.

    What fits, and what goes to make room, the first process decides; where each has a cache of its own, each for itself.
    """
    plan, order, encoder = prepared.plan, prepared.order, prepared.encoder
    texts, pinned, owners = prepared.texts, prepared.pinned, encoder.by_owners
    rows = encoder.rows(order.batch_size)
    held_out, failures = list(prepared.measured), []
    held_out_media = [item for job in held_out for item in job.media.values()]
    if encoder.config.max_gb is not None:  # what validation needs comes first: the window is what is left beside it
        needed = [*texts, *(job.text for job in held_out)]
        if encoder.residency.shares_encoders:  # the first process cannot encode one alone, to see how large they are
            needed += [job.text for step in steps[:1] for job in plan.step(order, step)]
        failures = encoder.fill_together(held_out_media, needed)
    stop = min(owners(lambda: budget.window(plan, order, steps, pinned=pinned)))
    jobs = plan.distinct(order, steps.start, stop, rows)
    owners(lambda: budget.make_room(jobs, pinned=pinned).over)
    latents = Joined(jobs.latents(), held_out_media)
    failures += encoder.fill_together(latents, Joined(texts, jobs.texts(), [job.text for job in held_out]))
    if not failures:
        owners(lambda: budget.check(jobs, pinned=pinned))
    return stop, failures


def encode_again(prepared: Prepared, config: Config, step: int) -> tuple[Prepared, int]:
    """Encode as ``encode_steps`` does what the cache has lost from ``step`` on; the items of that step may be damaged."""
    _remove_damaged(prepared, step)
    return encode_steps(prepared, config, step)


def mend(prepared: Prepared, steps: range) -> None:
    """Encode what the cache has lost of what the steps read, in this process alone: the others of the run wait in a step.

    Raises:
        DataError: If something of it cannot be made any more: other samples could stand in only if all processes knew.
    """
    _remove_damaged(prepared, steps.start)
    rows = prepared.encoder.rows(prepared.order.batch_size)
    jobs = prepared.plan.distinct(prepared.order, steps.start, steps.stop, rows)
    failures = prepared.encoder.fill(jobs.latents(), jobs.texts())
    if failures:
        raise DataError(
            f"cache.path: {len(failures)} items are gone and cannot be made again; the first is of {failures[0].path} "
            f"({failures[0].reason}). Start the same command again: with data.N.on_error: skip it leaves them out"
        )


def _remove_damaged(prepared: Prepared, step: int) -> None:
    for job in prepared.plan.step(prepared.order, step):
        for kind, key in job.items:
            prepared.encoder.cache.remove_damaged(kind, key)


def encode_for_validation(prepared: Prepared, *, has_failed: bool = False) -> None:
    """Encode what the cache has lost of what validation reads; if reading it has failed, what is damaged as well.

    Raises:
        DataError: Naming all held-out media that cannot be decoded any more.
    """
    encoder, held_out = prepared.encoder, prepared.measured
    texts = prepared.texts
    items: set[tuple[Kind, str]] = {("text", job.key) for job in texts}
    items |= {item for job in held_out for item in job.items}
    for kind, key in items if has_failed else ():
        encoder.cache.remove_damaged(kind, key)
    num_missing = sum(not encoder.cache.has(kind, key) for kind, key in items)
    if num_missing:
        encoder.warn(f"cache.path: {num_missing} items of the validation are gone or damaged; they are encoded again")
        failures = encoder.fill(
            [item for job in held_out for item in job.media.values()], [*texts, *(job.text for job in held_out)]
        )
        raise_if_any([Problem(failure.path, failure.reason) for failure in failures])


def _leave_out(prepared: Prepared, config: Config, failures: Sequence[Failure], *, since: int) -> Prepared:
    """Let other samples stand in, from a step on, for those that need what cannot be made; note it in the run's journal.

    Raises:
        DataError: Naming all bad samples of the data sets that are not to skip them.
    """
    new = {f.key: LeftOut(f.key, f.digest, f.path, f.reason, since) for f in failures}
    found = [pair for plan in prepared.plans for pair in plan.problems(list(new.values()))]
    problems = list(dict.fromkeys(problem for data, problem in found if data.config.on_error == "fail"))
    prepared.encoder.world.first(lambda: raise_if_any(problems))  # an error of all, before which they save what they have
    left_out = {item.key: item for item in prepared.left_out} | new
    prepared.encoder.world.first(lambda: write_journal(config.output_dir / JOURNAL, list(left_out.values())))
    return prepared.without(tuple(left_out.values()))
