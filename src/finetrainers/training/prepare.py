"""All that comes before the first step: checks, data, order, and the encoding of what the cache lacks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from finetrainers.conditioning import Conditioning, build_conditioning
from finetrainers.config import Config
from finetrainers.data.cache.leases import Lease
from finetrainers.data.cache.store import CONTENTS, MEMO_FILE, Cache, Kind
from finetrainers.data.catalog.buckets import resolve_buckets
from finetrainers.data.catalog.catalog import Catalog, build_catalog, raise_if_any
from finetrainers.data.catalog.left_out import JOURNAL, LeftOut, read_journal, write_journal
from finetrainers.data.catalog.memo import Memo
from finetrainers.data.order.jobs import Failure, SampleJob
from finetrainers.data.order.lazy import Joined
from finetrainers.data.order.order import Order
from finetrainers.data.order.plan import Plan
from finetrainers.data.sources.items import Problem
from finetrainers.data.streams import streams_of
from finetrainers.encoding.budget import Budget
from finetrainers.encoding.encoder import Encoder, StageProgress
from finetrainers.files.marks import tag_cache
from finetrainers.models import Model, Request
from finetrainers.sampling.prompts import read_prompts
from finetrainers.training.checks import check_buckets, check_computation, check_conditioning, check_streams, check_tuning
from finetrainers.training.validate import texts_to_encode


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run whose data are known."""

    model: Model
    conditioning: Conditioning
    encoder: Encoder
    plan: Plan
    order: Order
    held_out_plan: Plan | None
    held_out: tuple[SampleJob, ...]
    requests: tuple[Request, ...]
    problems: tuple[Problem, ...]
    """Bad samples that were left out."""
    left_out: tuple[LeftOut, ...] = ()
    """What turned out bad only when it was decoded or encoded, in this start of the run or in earlier ones."""

    @property
    def pinned(self) -> list[str]:
        """Keys of the items that validation reads again and again."""
        texts = [job.key for job in texts_to_encode(self.requests, self.model, self.plan)]
        return texts + [key for job in self.held_out for key in job.keys]


def prepare(
    config: Config,
    model: Model,
    device: torch.device,
    *,
    progress: StageProgress,
    warn: Callable[[str], None],
    lease: Lease | None = None,
) -> Prepared:
    """Check everything that can be known before weights are loaded, and plan the run.

    Raises:
        ConfigError: If a bucket, a prompt or the cache's size is impossible.
        DataError: Naming all bad samples.
    """
    check_buckets(config, model)
    check_conditioning(config, model)
    check_computation(config, model)
    check_tuning(config, model)
    requests = _requests(config, model)
    conditioning = build_conditioning(config.conditioning)
    check_streams(config, streams_of(conditioning))
    tag_cache(config.cache.path, CONTENTS)
    memo = Memo(config.cache.path / MEMO_FILE)
    catalog, held_out = _catalogs(config, model, conditioning, memo, progress=progress, warn=warn)
    encoder = Encoder(
        model=model,
        cache=Cache(config.cache.path),
        memo=memo,
        config=config.cache,
        device=device,
        progress=progress,
        warn=warn,
        has_tiling=config.memory.vae_tiling,
        has_slicing=config.memory.vae_slicing,
        lease=lease,
    )
    latents_encoder, text_encoder = encoder.identities()
    plan = Plan(
        catalog,
        config.seed,
        latents_encoder,
        text_encoder,
        model.text_sees_image,
        streams=streams_of(conditioning),
        frame_step=model.adapter.grid.vae_frame_step,
    )
    held_out_plan = None if held_out is None else replace(plan, catalog=held_out)
    problems = tuple(p for c in (catalog, held_out) if c is not None for data in c.sets for p in data.problems)
    prepared = Prepared(
        model=model,
        conditioning=conditioning,
        encoder=encoder,
        plan=plan,
        order=Order(config.seed, config.train.batch_size, catalog.groups()),
        held_out_plan=held_out_plan,
        held_out=() if held_out_plan is None else tuple(held_out_plan.held_out(config.validation.max_items)),
        requests=requests,
        problems=tuple(sorted(set(problems), key=lambda problem: problem.path)),
    )
    return _leaving_out(prepared, config, read_journal(config.output_dir / JOURNAL))


def _catalogs(
    config: Config,
    model: Model,
    conditioning: Conditioning,
    memo: Memo,
    *,
    progress: StageProgress,
    warn: Callable[[str], None],
) -> tuple[Catalog, Catalog | None]:
    """Look at what is trained on, and at what is held out: no content is on both sides."""

    def looked(done: int, total: int) -> None:
        progress("look at media", done, total)

    frame_step = model.adapter.grid.vae_frame_step
    build = partial(
        build_catalog,
        memo=memo,
        workers=config.cache.workers,
        progress=looked,
        streams=streams_of(conditioning),
        # The index is 0 unless conditioning.frames is index.
        min_frames=dict.fromkeys((s.name for s in conditioning.streams), 1 + conditioning.shown.index * frame_step),
        native_fps=model.adapter.native_fps,
        warn=warn,
    )
    catalog = build(config.data)
    if config.validation.held_out:
        catalog, held_out = catalog.split(config.validation.held_out)
    elif config.validation.data:
        held_out = build(config.validation.data)
        catalog, left_out = catalog.apart_from(held_out)
        for message in left_out:
            warn(message)
    else:
        return catalog, None
    catalog.check_apart(held_out)
    return catalog, held_out


def encode_steps(prepared: Prepared, config: Config, start: int) -> tuple[Prepared, int]:
    """Encode what the steps from ``start`` will read, as far as the cache may grow.

    Returns:
        The run with others in the place of the samples that turned out bad, and the step before which everything is there.

    Raises:
        DataError: Naming all media that could not be decoded, if they are not to be skipped.
    """
    budget = Budget(prepared.encoder)
    if prepared.encoder.lease is not None:
        prepared.encoder.lease.renew()  # before anything is marked as used
    while True:
        plan, order, encoder = prepared.plan, prepared.order, prepared.encoder
        texts = texts_to_encode(prepared.requests, prepared.model, plan)
        held_out, failures = list(prepared.held_out), []
        held_out_media = [item for job in held_out for item in job.media.values()]
        if config.cache.max_gb is not None:  # what validation needs comes first: the window is what is left beside it
            failures = encoder.fill(held_out_media, [*texts, *(job.text for job in held_out)])
        stop = budget.window(plan, order, range(start, config.train.steps), pinned=prepared.pinned)
        jobs = plan.distinct(order, start, stop)
        budget.make_room(jobs, pinned=prepared.pinned)
        latents = Joined(jobs.latents(), held_out_media)
        failures += encoder.fill(latents, Joined(texts, jobs.texts(), [job.text for job in held_out]))
        if not failures:
            budget.check(jobs, pinned=prepared.pinned)
            return prepared, stop
        prepared = _leave_out(prepared, config, failures, since=start)


def encode_again(prepared: Prepared, config: Config, step: int) -> tuple[Prepared, int]:
    """Encode as ``encode_steps`` does what the cache has lost from ``step`` on; the items of that step may be damaged."""
    for job in prepared.plan.step(prepared.order, step):
        for kind, key in job.items:
            prepared.encoder.cache.remove_damaged(kind, key)
    return encode_steps(prepared, config, step)


def encode_for_validation(prepared: Prepared, *, has_failed: bool = False) -> None:
    """Encode what the cache has lost of what validation reads; if reading it has failed, what is damaged as well.

    Raises:
        DataError: Naming all held-out media that cannot be decoded any more.
    """
    encoder, held_out = prepared.encoder, prepared.held_out
    texts = texts_to_encode(prepared.requests, prepared.model, prepared.plan)
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
        raise_if_any([Problem(failure.job.path, failure.reason) for failure in failures])


def _requests(config: Config, model: Model) -> tuple[Request, ...]:
    if config.validation.prompts is None:
        return ()
    first = resolve_buckets(config.data[0].buckets)[0]
    takes_control = config.conditioning.takes_control
    return tuple(read_prompts(config.validation.prompts, model, size=first, takes_control=takes_control))


def _leave_out(prepared: Prepared, config: Config, failures: Sequence[Failure], *, since: int) -> Prepared:
    """Let other samples stand in, from a step on, for those that need what cannot be made; note it in the run's journal.

    Raises:
        DataError: Naming all bad samples of the data sets that are not to skip them.
    """
    new = {f.job.key: LeftOut(f.job.key, f.job.digest, f.job.path, f.reason, since) for f in failures}
    plans = [plan for plan in (prepared.plan, prepared.held_out_plan) if plan is not None]
    found = [pair for plan in plans for pair in plan.problems(list(new.values()))]
    raise_if_any(list(dict.fromkeys(problem for data, problem in found if data.config.on_error == "fail")))
    left_out = {item.key: item for item in prepared.left_out} | new
    write_journal(config.output_dir / JOURNAL, list(left_out.values()))
    return _leaving_out(prepared, config, tuple(left_out.values()))


def _leaving_out(prepared: Prepared, config: Config, left_out: tuple[LeftOut, ...]) -> Prepared:
    """Return the run without these items; what it holds out is measured without them."""
    plan, held_out_plan = prepared.plan.leaving_out(left_out), prepared.held_out_plan
    held_out: tuple[SampleJob, ...] = ()
    if held_out_plan is not None:
        held_out_plan = held_out_plan.leaving_out(left_out)
        held_out = tuple(held_out_plan.held_out(config.validation.max_items))
    plans = [each for each in (plan, held_out_plan) if each is not None]
    known = {problem.path for problem in prepared.problems}
    new = {problem for each in plans for _, problem in each.problems(left_out) if problem.path not in known}
    return replace(
        prepared,
        plan=plan,
        held_out_plan=held_out_plan,
        held_out=held_out,
        left_out=left_out,
        problems=tuple(sorted({*prepared.problems, *new}, key=lambda problem: problem.path)),
    )
