"""All that comes before the first step: checks, data, order, and the encoding of what the cache lacks."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from finetrainers.config import Config
from finetrainers.data.buckets import resolve_buckets
from finetrainers.data.cache import Cache
from finetrainers.data.catalog import Catalog, build_catalog
from finetrainers.data.memo import Memo
from finetrainers.data.order import Order
from finetrainers.data.plan import Joined, Plan, SampleJob
from finetrainers.data.sources import Problem
from finetrainers.encoding import Encoder, StageProgress
from finetrainers.errors import ConfigError
from finetrainers.models import Model, Request
from finetrainers.models.base import Settings
from finetrainers.objective import Diffusion, FlowMatching, NoiseLevels, ResolutionShift
from finetrainers.prompts import read_prompts
from finetrainers.validate import captions_to_encode

FROM_FRAMES = ("image-to-video", "first-last-frame-to-video")
"""Tasks that are given frames of a clip and make the others: a single image has no others."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run whose data are known."""

    model: Model
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
        texts = [self.plan.text_job(caption).key for caption in captions_to_encode(self.requests, self.model)]
        return texts + [key for job in self.held_out for key in (job.text.key, job.latents.key)]


def prepare(
    config: Config, model: Model, device: torch.device, *, progress: StageProgress, warn: Callable[[str], None]
) -> Prepared:
    """Check everything that can be known before weights are loaded, and plan the run.

    Raises:
        ConfigError: If a bucket, a prompt or the cache's size is impossible.
        DataError: Naming all bad samples.
    """
    check_buckets(config, model)
    check_computation(config, model)
    requests = _requests(config, model)
    cache, memo = Cache(config.cache.path), Memo(config.cache.path / "memo.sqlite")

    def looked(done: int, total: int) -> None:
        progress("look at media", done, total)

    catalog = build_catalog(config.data, memo, workers=config.cache.workers, progress=looked)
    encoder = Encoder(
        model=model,
        cache=cache,
        memo=memo,
        config=config.cache,
        device=device,
        progress=progress,
        warn=warn,
        has_tiling=config.memory.vae_tiling,
        has_slicing=config.memory.vae_slicing,
    )
    latents_encoder, text_encoder = encoder.identities()
    held_out: Catalog | None = None
    if config.validation.held_out:
        catalog, held_out = catalog.split(config.validation.held_out)
    elif config.validation.data:
        held_out = build_catalog(config.validation.data, memo, workers=config.cache.workers, progress=looked)
    plan = Plan(catalog, config.seed, latents_encoder, text_encoder)
    held_out_plan = None if held_out is None else replace(plan, catalog=held_out)
    problems = tuple(p for c in (catalog, held_out) if c is not None for data in c.sets for p in data.problems)
    return Prepared(
        model=model,
        encoder=encoder,
        plan=plan,
        order=Order(config.seed, config.train.batch_size, catalog.groups()),
        held_out_plan=held_out_plan,
        held_out=() if held_out_plan is None else tuple(held_out_plan.held_out(config.validation.max_items)),
        requests=requests,
        problems=tuple(sorted(set(problems), key=lambda problem: problem.path)),
    )


def encode_steps(prepared: Prepared, config: Config, start: int) -> tuple[Prepared, int]:
    """Encode what the steps from ``start`` will read, as far as the cache may grow.

    Returns:
        The run without the samples that turned out bad, and the step before which everything is there.

    Raises:
        DataError: Naming all media that could not be decoded, if they are not to be skipped.
    """
    while True:
        plan, order, encoder = prepared.plan, prepared.order, prepared.encoder
        texts = [plan.text_job(caption) for caption in captions_to_encode(prepared.requests, prepared.model)]
        held_out, problems = list(prepared.held_out), []
        if config.cache.max_gb is not None:  # what validation needs comes first: the window is what is left beside it
            problems = encoder.fill([job.latents for job in held_out], [*texts, *(job.text for job in held_out)])
        stop = encoder.window(plan, order, range(start, config.train.steps), pinned=prepared.pinned)
        jobs = plan.distinct(order, start, stop)
        encoder.make_room(jobs, pinned=prepared.pinned)
        latents = Joined(jobs.latents(), [job.latents for job in held_out])
        problems += encoder.fill(latents, Joined(texts, jobs.texts(), [job.text for job in held_out]))
        encoder.make_room(jobs, pinned=prepared.pinned)
        if not problems:
            return prepared, stop
        prepared = _without(prepared, config, problems)


def check_buckets(config: Config, model: Model) -> None:
    """Refuse buckets that the model cannot take.

    Raises:
        ConfigError: Naming the bucket and the nearest possible one.
    """
    for name, sets in (("data", config.data), ("validation.data", config.validation.data)):
        for index, data in enumerate(sets):
            for bucket in resolve_buckets(data.buckets):
                where, grid = f"{name}.{index}.buckets", model.adapter.grid
                nearest = grid.nearest(bucket)
                if bucket != nearest:
                    raise ConfigError(
                        f"{where}: {list(bucket)} is impossible for {model.adapter.name}; "
                        f"the nearest possible is {list(nearest)} (frames, height, width)"
                    )
                if model.task in FROM_FRAMES and grid.latent_shape(bucket)[1] == 1:
                    raise ConfigError(
                        f"{where}: {list(bucket)} has single images, which cannot serve the task {model.task}; "
                        f"set a bucket of {1 + grid.vae_frame_step} frames or more, or model.task"
                    )


def check_computation(config: Config, model: Model) -> None:
    """Refuse data types, prompt lengths and attention backends that could not train or draw.

    Raises:
        ConfigError: Naming the key and what to set instead.
    """
    denoiser = model.adapter.denoiser
    if model.pretrained.place(denoiser).dtype == torch.float16:
        raise ConfigError(
            f"model.dtype: the gradients of a float16 {denoiser} underflow; set bfloat16 or float32 "
            f"(or model.components.{denoiser}.dtype)"
        )
    largest = model.adapter.largest_sequence_length
    if largest is not None and model.max_length > largest:
        raise ConfigError(
            f"model.max_sequence_length: {model.max_length} is more than {largest}, the most that {model.adapter.name} takes"
        )
    check_attention("train", config.attention.train)
    check_attention("validate", config.attention.validation)


def check_attention(key: str, backend: str) -> None:
    """Refuse an attention backend that is unknown, or whose package is missing.

    Raises:
        ConfigError: Naming the key below ``attention``.
    """
    try:
        with attention(backend):
            pass
    except (ValueError, RuntimeError, ImportError) as error:
        raise ConfigError(f"attention.{key}: {backend!r} cannot be used: {str(error).splitlines()[0]}") from error


@contextmanager
def attention(backend: str) -> Iterator[None]:
    """Compute attention with one of diffusers' backends while the body runs."""
    if backend == "native":  # diffusers' default: nothing to switch
        yield
        return
    from diffusers.models.attention_dispatch import attention_backend

    with attention_backend(backend):
        yield


def build_objective(config: Config, model: Model) -> FlowMatching:
    """Turn the ``objective`` section into its implementation, with the family's defaults.

    Raises:
        ConfigError: If the family cannot do what is asked.
    """
    wanted, adapter = config.objective, model.adapter
    levels = adapter.noise_levels
    if wanted.noise_levels != "auto":
        levels = NoiseLevels(
            wanted.noise_levels, logit_mean=wanted.logit_mean, logit_std=wanted.logit_std, mode_scale=wanted.mode_scale
        )
    shift = adapter.shift if wanted.shift == "auto" else wanted.shift
    settings = model.pretrained.settings("scheduler")
    if shift == "scheduler":
        shift = "resolution" if settings.get("use_dynamic_shifting") else float(settings.get("shift", 1.0))
    probability = wanted.first_frame_probability
    if probability and adapter.first_frame_probability is None and not adapter.gives_first_frame(model.task):
        raise ConfigError(
            f"objective.first_frame_probability: {adapter.name} takes one noise level for all frames; remove it"
        )
    if probability is None:
        probability = 1.0 if adapter.gives_first_frame(model.task) else adapter.first_frame_probability or 0.0
    levels = replace(levels, shift=resolution_shift(settings) if shift == "resolution" else float(shift))
    if adapter.prediction == "v":
        if wanted.weighting != "none":
            raise ConfigError(f"objective.weighting: {adapter.name} is weighted by 1 / (1 - alpha_bar); remove it")
        alphas = model.pretrained.load("scheduler").alphas_cumprod
        return Diffusion(noise_levels=levels, alphas_cumprod=tuple(alphas.double().tolist()))
    return FlowMatching(
        noise_levels=levels,
        weighting=wanted.weighting,
        first_frame_probability=probability,
        given_frame_max_sigma=adapter.given_frame_max_sigma,
    )


def resolution_shift(settings: Settings) -> ResolutionShift:
    """Read the line of the resolution-dependent shift off a scheduler's config, as the pipelines do."""
    default = ResolutionShift()
    return ResolutionShift(
        base_tokens=settings.get("base_image_seq_len", default.base_tokens),
        base_mu=settings.get("base_shift", default.base_mu),
        max_tokens=settings.get("max_image_seq_len", default.max_tokens),
        max_mu=settings.get("max_shift", default.max_mu),
    )


def _requests(config: Config, model: Model) -> tuple[Request, ...]:
    if config.validation.prompts is None:
        return ()
    first = resolve_buckets(config.data[0].buckets)[0]
    return tuple(read_prompts(config.validation.prompts, model, size=first))


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
