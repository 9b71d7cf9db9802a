"""All that comes before the first step: checks, data, order, and the encoding of what the cache lacks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from finetrainers.budget import Budget
from finetrainers.checks import check_buckets, check_computation, check_conditioning, check_tuning
from finetrainers.conditioning import Conditioning, build_conditioning
from finetrainers.config import Config
from finetrainers.data.buckets import resolve_buckets
from finetrainers.data.cache import Cache
from finetrainers.data.catalog import Catalog, build_catalog
from finetrainers.data.jobs import SampleJob
from finetrainers.data.lazy import Joined
from finetrainers.data.memo import Memo
from finetrainers.data.order import Order
from finetrainers.data.plan import Plan
from finetrainers.data.sources import Problem
from finetrainers.encoding import Encoder, StageProgress
from finetrainers.models import Model, Request
from finetrainers.prompts import read_prompts
from finetrainers.validate import texts_to_encode


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

    @property
    def pinned(self) -> list[str]:
        """Keys of the items that validation reads again and again."""
        texts = [job.key for job in texts_to_encode(self.requests, self.model, self.plan)]
        return texts + [key for job in self.held_out for key in job.keys]


def prepare(
    config: Config, model: Model, device: torch.device, *, progress: StageProgress, warn: Callable[[str], None]
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
    memo = Memo(config.cache.path / "memo.sqlite")
    catalog, held_out = _catalogs(config, model, conditioning, memo, progress)
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
    )
    latents_encoder, text_encoder = encoder.identities()
    plan = Plan(
        catalog,
        config.seed,
        latents_encoder,
        text_encoder,
        model.text_sees_image,
        signal=conditioning.signal,
        frame_step=model.adapter.grid.vae_frame_step,
    )
    held_out_plan = None if held_out is None else replace(plan, catalog=held_out)
    problems = tuple(p for c in (catalog, held_out) if c is not None for data in c.sets for p in data.problems)
    return Prepared(
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


def _catalogs(
    config: Config, model: Model, conditioning: Conditioning, memo: Memo, progress: StageProgress
) -> tuple[Catalog, Catalog | None]:
    """Look at what is trained on, and at what is held out."""

    def looked(done: int, total: int) -> None:
        progress("look at media", done, total)

    build = partial(
        build_catalog,
        memo=memo,
        workers=config.cache.workers,
        progress=looked,
        has_controls=config.conditioning.has_files,
        # The index is 0 unless conditioning.frames is index.
        min_control_frames=1 + conditioning.shown.index * model.adapter.grid.vae_frame_step,
    )
    catalog = build(config.data)
    if config.validation.held_out:
        return catalog.split(config.validation.held_out)
    return catalog, build(config.validation.data) if config.validation.data else None


def encode_steps(prepared: Prepared, config: Config, start: int) -> tuple[Prepared, int]:
    """Encode what the steps from ``start`` will read, as far as the cache may grow.

    Returns:
        The run without the samples that turned out bad, and the step before which everything is there.

    Raises:
        DataError: Naming all media that could not be decoded, if they are not to be skipped.
    """
    budget = Budget(prepared.encoder)
    while True:
        plan, order, encoder = prepared.plan, prepared.order, prepared.encoder
        texts = texts_to_encode(prepared.requests, prepared.model, plan)
        held_out, problems = list(prepared.held_out), []
        held_out_media = [item for job in held_out for item in job.media]
        if config.cache.max_gb is not None:  # what validation needs comes first: the window is what is left beside it
            problems = encoder.fill(held_out_media, [*texts, *(job.text for job in held_out)])
        stop = budget.window(plan, order, range(start, config.train.steps), pinned=prepared.pinned)
        jobs = plan.distinct(order, start, stop)
        budget.make_room(jobs, pinned=prepared.pinned)
        latents = Joined(jobs.latents(), held_out_media)
        problems += encoder.fill(latents, Joined(texts, jobs.texts(), [job.text for job in held_out]))
        budget.make_room(jobs, pinned=prepared.pinned)
        if not problems:
            return prepared, stop
        prepared = _without(prepared, config, problems)


def _requests(config: Config, model: Model) -> tuple[Request, ...]:
    if config.validation.prompts is None:
        return ()
    first = resolve_buckets(config.data[0].buckets)[0]
    takes_control = config.conditioning.takes_control
    return tuple(read_prompts(config.validation.prompts, model, size=first, takes_control=takes_control))


def _without(prepared: Prepared, config: Config, problems: Sequence[Problem]) -> Prepared:
    memo = prepared.encoder.memo
    catalog = prepared.plan.catalog.without(problems, memo)
    plan = replace(prepared.plan, catalog=catalog)
    held_out_plan = prepared.held_out_plan
    held_out: tuple[SampleJob, ...] = ()
    if held_out_plan is not None:
        held_out_plan = replace(held_out_plan, catalog=held_out_plan.catalog.without(problems, memo))
        held_out = tuple(held_out_plan.held_out(config.validation.max_items))
    return replace(
        prepared,
        plan=plan,
        order=Order(config.seed, config.train.batch_size, catalog.groups()),
        held_out_plan=held_out_plan,
        held_out=held_out,
        problems=tuple(sorted({*prepared.problems, *problems}, key=lambda problem: problem.path)),
    )
