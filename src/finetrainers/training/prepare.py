"""All that is known before the first step, without any weights: checks, data and order."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cache, partial

import torch

from finetrainers.conditioning import Conditioning, build_conditioning, build_given_frames
from finetrainers.config import CacheConfig, Config
from finetrainers.config.of_set import set_keys
from finetrainers.data.cache.leases import Lease
from finetrainers.data.cache.memory import AnyCache, MemoryCache
from finetrainers.data.cache.store import CONTENTS, GB, MEMO_FILE, Cache
from finetrainers.data.catalog.build import Common
from finetrainers.data.catalog.catalog import Catalog, build_catalog
from finetrainers.data.catalog.left_out import JOURNAL, LeftOut, read_journal
from finetrainers.data.catalog.memo import Memo
from finetrainers.data.catalog.probe import make_look
from finetrainers.data.catalog.snapshot import Snapshots
from finetrainers.data.media.remote import keep_copies
from finetrainers.data.media.remote_disk import FOLDER
from finetrainers.data.order.order import Order
from finetrainers.data.order.plan import Plan
from finetrainers.data.streams import Stream, streams_of
from finetrainers.distributed.world import World, alone
from finetrainers.encoding.encoder import Encoder, StageProgress
from finetrainers.errors import ConfigError
from finetrainers.files.marks import tag_cache
from finetrainers.memory.residency import Residency
from finetrainers.memory.shard_encoders import Sharers, sharers_of
from finetrainers.models import Model, Request
from finetrainers.training.book import make_book
from finetrainers.training.chapters import Chapters
from finetrainers.training.checks.settings import Trying, check_settings
from finetrainers.training.objective import build_objective
from finetrainers.training.prepared import Prepared
from finetrainers.training.windows import encodes_again


def prepare(
    config: Config,
    model: Model,
    device: torch.device,
    *,
    progress: StageProgress,
    warn: Callable[[str], None],
    lease: Lease | None = None,
    world: World | None = None,
    interrupt: Callable[[str], None] = lambda _: None,
    start: int = 0,
    trying: Trying = nullcontext,
    is_run: bool = False,
) -> Prepared:
    """Check everything that can be known before weights are loaded, and plan the run, which goes on after ``start`` steps.

    Args:
        config: Of the run.
        model: Of the run.
        device: Of this process.
        progress: Called with what is looked at.
        warn: Called with what a user should know of.
        lease: Of this process on the cache.
        world: All processes of the run.
        interrupt: Called where the run may be stopped.
        start: Optimizer steps that are taken.
        trying: Around each check of settings, with its name: it may take an error, so that the data are looked at, too.
        is_run: Whether it is the run itself, which writes where its chapters begin; others only read it.

    Raises:
        ConfigError: If a bucket, a prompt or the cache's size is impossible.
        DataError: Naming all bad samples.
    """
    world = alone(device) if world is None else world
    objective = build_objective(config, model)
    conditioning, given_frames = build_conditioning(config.conditioning), build_given_frames(config, model)
    streams = streams_of(conditioning, objective)
    size, requests = check_settings(config, model, streams, world=world, device=device, trying=trying)
    keeps, shares = _used_again(config, model, requests), _shares(config, world)
    residency = Residency(model, device, keeps=keeps, experts=config.memory, shares=shares)
    items, memo = _open_cache(config.cache)
    lease = None if items.is_own else lease  # nobody else removes what is in memory
    encoder = Encoder(model, items, memo, config.cache, residency, progress, warn, lease, world, interrupt)
    catalog, held_out, chapters = _catalogs(config, encoder, conditioning, streams, is_run=is_run)
    plan = _plan(config, encoder, catalog, streams)
    left_out = world.first(lambda: read_journal(config.output_dir / JOURNAL))
    plan, order = _ordered(config, plan, chapters, left_out, start)
    prepared = Prepared(
        model=model,
        conditioning=conditioning,
        given_frames=given_frames,
        objective=objective,
        encoder=encoder,
        plan=plan,
        order=order,
        held_out_plan=None if held_out is None else replace(plan, catalog=held_out),
        max_held_out=config.validation.max_items,
        requests=requests,
        size=size,
        num_items=config.validation.items,
        chapters=chapters,
    )
    prepared = prepared.without(left_out)
    _check_held_out(config, prepared)
    return prepared


def _open_cache(config: CacheConfig) -> tuple[AnyCache, Memo]:
    """Open what holds encoded items, and what is known of files."""
    tag_cache(config.path, CONTENTS)
    keep_copies(config.path / FOLDER, int(config.remote_gb * GB))
    items = MemoryCache() if config.encode == "on_the_fly" else Cache(config.path)
    return items, Memo(config.path / MEMO_FILE)


def _ordered(
    config: Config, plan: Plan, chapters: Chapters | None, left_out: tuple[LeftOut, ...], start: int
) -> tuple[Plan, Order]:
    """Say in which order samples come: of all, or of the chapter that the run is in after ``start`` steps."""
    if chapters is None:
        return plan, Order(config.seed, config.train.batch_size, plan.catalog.groups())
    step = min(start, max(0, config.train.steps - 1))
    chapter = chapters.at(step, lambda own: replace(plan, catalog=own).leaving_out(left_out).choices)
    return replace(plan, catalog=chapter.catalog), chapter.order


def _check_held_out(config: Config, prepared: Prepared) -> None:
    """Refuse what follows from a held-out loss where nothing can be measured.

    Raises:
        ConfigError: Naming the key.
    """
    wanted = {
        "validation.patience": config.validation.patience is not None,
        "checkpoint.keep_best": config.checkpoint.keep_best,
    }
    for key in [key for key, is_given in wanted.items() if is_given and not prepared.held_out]:
        raise ConfigError(
            f"{key}: it needs a held-out loss, and no sample of validation.data can be used: check its path, buckets and "
            f"captions, or remove {key}"
        )


def _plan(config: Config, encoder: Encoder, catalog: Catalog, streams: Sequence[Stream]) -> Plan:
    """Say what each step needs of the cache."""
    latents_encoder, text_encoder = encoder.identities()
    return Plan(
        catalog,
        config.seed,
        latents_encoder,
        text_encoder,
        encoder.model.text_sees_image,
        streams=tuple(streams),
        takes_image=encoder.model.takes_image,
        frame_step=encoder.model.adapter.grid.vae_frame_step,
    )


def _catalogs(
    config: Config, encoder: Encoder, conditioning: Conditioning, streams: Sequence[Stream], *, is_run: bool
) -> tuple[Catalog, Catalog | None, Chapters | None]:
    """Look at what is trained on, and at what is held out: no content is on both sides.

    Of data sets that are read shard by shard, nothing is looked at but where their shards are: their chapters are.
    """
    adapter = encoder.model.adapter

    def probed(done: int, total: int) -> None:
        encoder.progress("probe media", done, total)

    common = Common(
        streams=streams,
        # The index is 0 unless conditioning.frames is index.
        min_frames={name: 1 + own.index * adapter.grid.vae_frame_step for name, own in conditioning.frames.items()},
        native_fps=adapter.training.native_fps,
        frame_step=adapter.grid.vae_frame_step,
        warn=encoder.warn,
    )
    memo, workers = encoder.memo, config.cache.workers
    snapshots = Snapshots(config.cache.path, encoder.warn)
    build = partial(build_catalog, memo=memo, workers=workers, progress=probed, snapshots=snapshots, **common)
    keys = [key for key, data in zip(set_keys(config.data), config.data, strict=True) if not data.stream]
    catalog = build([data for data in config.data if not data.stream], keys=keys)
    if config.validation.held_out:
        catalog, part = catalog.split(config.validation.held_out)
        catalog.check_apart(part)
        return catalog, part, None
    keys = set_keys(config.validation.data, "validation.data")
    held_out = build(config.validation.data, keys=keys) if config.validation.data else None
    if held_out is not None:
        catalog, left_out = catalog.apart_from(held_out)
        for message in left_out:
            encoder.warn(message)
        catalog.check_apart(held_out)
    if not any(data.stream for data in config.data):
        return catalog, held_out, None
    look = partial(make_look, memo, workers=workers, progress=probed)
    book = make_book(config, catalog, held_out, common, look=look)
    world = encoder.world
    return catalog, held_out, Chapters(book, config.output_dir, writes=is_run and world.is_first, world=world)


def _shares(config: Config, world: World) -> Callable[[], Sharers] | None:
    """Choose the processes that hold text encoders together, if they do."""
    return cache(partial(sharers_of, world)) if config.memory.shard_text_encoders else None


def _used_again(config: Config, model: Model, requests: Sequence[Request]) -> tuple[str, ...]:
    """Components that are loaded once and on the host between uses: validations generate, windows and chapters encode."""
    drawing = ("vae", *model.image_components, *model.denoisers.frozen) if requests else ()
    encoding = ("vae", *model.image_components, *model.text_components) if encodes_again(config) else ()
    return (*drawing, *encoding)
