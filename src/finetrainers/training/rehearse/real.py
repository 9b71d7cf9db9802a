"""What can be known of the real run at its real size, without weights and without writing anything of the user's."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch

from finetrainers.config import Config
from finetrainers.config.attention import AUTO, AttentionConfig
from finetrainers.data.order.jobs import Failure, LatentsJob
from finetrainers.distributed.layout import Layout
from finetrainers.encoding.decoding import clip_of
from finetrainers.errors import ConfigError, DataError
from finetrainers.events.words import plural
from finetrainers.memory.attention import check_attention
from finetrainers.models import Model
from finetrainers.training.check.disk import check_disk
from finetrainers.training.check.findings import Findings
from finetrainers.training.check.hub_files import check_hub_files
from finetrainers.training.check.parts import (
    check_around,
    checked_model,
    with_cache_in,
    without_auto,
    world_of,
)
from finetrainers.training.checks.context import check_context
from finetrainers.training.checks.parts import check_masks
from finetrainers.training.console.announce import about_data
from finetrainers.training.epochs import with_steps_of
from finetrainers.training.inspect.captions import about_captions
from finetrainers.training.prepare import prepare
from finetrainers.training.prepared import Prepared

DECODE_SECONDS = 15.0
"""For decoding media at their real size: what is not reached is only probed."""
NAMED = 5
"""Bad media that are named."""


def check_real(config: Config, layout: Layout, findings: Findings, *, cache: Path, free: int | None) -> Prepared | None:
    """Make all checks at the real size; return the planned run, or None if it cannot be planned."""
    config, resumed = check_around(config, findings)
    config = without_auto(config)
    model = checked_model(config, findings, is_resumed=resumed is not None)
    if model is None:
        return None
    check_hub_files(model, findings)
    prepared = _plan(config, model, (layout, resumed or 0), findings, cache=cache)
    if prepared is None:
        return None
    with findings.part("media") as part:
        part.notes.append(_decode(prepared))
    with findings.part("captions") as part:
        _look_at_captions(prepared, findings)
    with findings.part("disk") as part:
        check_disk(with_steps_of(config, prepared), prepared, part, free=free)
    return prepared


def device_of(config: Config) -> torch.device:
    """Device that the run will be on: a GPU, unless it says otherwise. Nothing is put on it."""
    name = config.train.device
    return torch.device("cuda" if name == "auto" or name.startswith("cuda") else name)


def _plan(config: Config, model: Model, at: tuple[Layout, int], findings: Findings, *, cache: Path) -> Prepared | None:
    """Plan the run of so many processes, which goes on after some steps."""
    device, (layout, start) = device_of(config), at
    with findings.part("settings"):
        config = _with_attention_of_here(config, model, findings)
    with findings.part("data and prompts") as part:
        check_context(config, model, context=layout.context, device=device)
        world = world_of(layout, device)
        plan = partial(prepare, model=model, device=device, progress=lambda *_: None, warn=findings.warn)
        prepared = plan(with_cache_in(config, cache), world=world, start=start)
        part.notes.append(f"{plural(prepared.plan.num_samples, 'sample')}, {plural(len(prepared.requests), 'prompt')}")
        for message in about_data(config, prepared):
            findings.warn(message)
        return prepared
    return None


def _with_attention_of_here(config: Config, model: Model, findings: Findings) -> Config:
    """Leave out backends of attention whose kernels only a machine with a GPU has, once what can be known of them is.

    Raises:
        ConfigError: If there is no such backend, or if it cannot be beside the rest.
    """
    is_dispatched, own = model.adapter.dispatches_attention, {}
    for key, backend in (("train", config.attention.train), ("validate", config.attention.validation)):
        try:
            check_attention(key, backend, is_dispatched=is_dispatched)  # type: ignore[arg-type]  # one of the two
        except ConfigError as error:
            if not isinstance(error.__cause__, RuntimeError | ImportError):
                raise
            findings.leave_out(f"attention.{key}: {backend}, whose kernels are not here ({error.__cause__})".split("\n")[0])
            own[key] = AUTO
    check_masks(config, model.adapter)
    if not own:
        return config
    kept = {"train": config.attention.train, "validate": config.attention.validation} | own
    return config.model_copy(update={"attention": AttentionConfig(**kept)})


def _decode(prepared: Prepared) -> str:
    """Decode media as encoding will, as many as there is time for, and say how many.

    Raises:
        DataError: Naming those that cannot be decoded.
    """
    bad: dict[str, Failure] = {}
    strict = {
        data.path
        for data in (data.config for plan in prepared.plans for data in plan.catalog.sets)
        if data.on_error == "fail"
    }
    stop, count = time.perf_counter() + DECODE_SECONDS, 0
    workers = max(1, prepared.encoder.config.workers)
    with ThreadPoolExecutor(workers) as pool:
        jobs = _spread(prepared)
        while some := [job for _, job in zip(range(4 * workers), jobs, strict=False)]:
            for job, clip in zip(some, pool.map(clip_of, some), strict=True):
                count += 1
                if isinstance(clip, Failure):
                    bad.setdefault(job.path, clip)
            if time.perf_counter() > stop:
                break
    if bad and strict:
        named = "\n".join(f"{failure.path}: {failure.reason}" for failure in list(bad.values())[:NAMED])
        more = f"\nand {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        raise DataError(
            f"data: {len(bad)} media cannot be decoded; fix or remove them, or set on_error: skip:\n{named}{more}"
        )
    total = sum(plan.catalog.num_samples for plan in prepared.plans)
    return f"{count} media decoded, of {total} samples" if count else "nothing to decode"


def _spread(prepared: Prepared) -> Iterator[LatentsJob]:
    """Yield what encoding decodes of the first view of each sample: every 16th sample first, and so on, each once."""
    for plan in prepared.plans:
        samples = plan.catalog.num_samples
        for begin in range(min(16, samples)):
            for sample in range(begin, samples, 16):
                yield from plan.media_jobs(sample, 0).values()


def _look_at_captions(prepared: Prepared, findings: Findings) -> None:
    found = about_captions(prepared)
    if found["num_cut"]:
        longest = found["cut"][0]
        findings.warn(
            f"{found['num_cut']} captions are longer than model.max_sequence_length ({found['max_tokens']} tokens), and "
            f"what is beyond is not seen; the longest loses {longest['lost_tokens']}, and begins {longest['caption'][:60]!r}"
        )
