"""The inspection of a run's data: through the run's own planning, so that what is told is what training would do."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from finetrainers.config import Config, DataConfig
from finetrainers.data.catalog.catalog import Catalog
from finetrainers.data.catalog.cropped import describe_crops, most_cropped
from finetrainers.distributed.layout import check_batch, settle_layout
from finetrainers.errors import FinetrainersError
from finetrainers.events.words import plural
from finetrainers.models import open_model
from finetrainers.training.auto import settle
from finetrainers.training.checks.parts import check_start
from finetrainers.training.console.announce import about_data
from finetrainers.training.epochs import with_counted_steps
from finetrainers.training.inspect.captions import about_captions
from finetrainers.training.inspect.decoding import decode_all
from finetrainers.training.inspect.duplicates import exact_duplicates
from finetrainers.training.inspect.facts import about_buckets, about_media, about_sets, cache_gb, probe_again, problems_of
from finetrainers.training.inspect.pixels import about_pixels
from finetrainers.training.paths import absolute
from finetrainers.training.prepare import prepare
from finetrainers.training.prepared import Prepared

REPORT_VERSION = 1
Report = dict[str, Any]
"""Plain values, as ``--json`` prints them; docs/inspect.md lists the keys."""


@dataclass(frozen=True, slots=True)
class Inspecting:
    """How much is looked at."""

    sample: int = 1000
    """Media that are decoded to look at their pixels, at most, spread over all."""
    decode: bool = False
    """Decode every view of every sample, as encoding would."""
    say: Callable[[str, int, int], None] = lambda *_: None
    """Called with (stage, items done, items in all)."""


@dataclass(frozen=True, slots=True)
class Inspected:
    """What was found."""

    report: Report
    prepared: Prepared | None
    """The planned run; None if it cannot be planned at all."""


def inspect(config: Config, how: Inspecting) -> Inspected:
    """Plan a run as ``train`` does, but for bad samples, all of which are listed; nothing is encoded, no weights are read.

    Returns:
        The report; its ``would_train`` tells whether ``train`` would come past its data.
    """
    warnings: list[str] = []
    config = absolute(config)  # as a run does, which writes out what stands for several data sets
    try:
        check_batch(
            settle_layout(config.parallel, 1),
            batch_size=config.train.batch_size,
            micro_batch_size=config.train.micro_batch_size,
        )
        check_start(config)
        config = settle(config).config
        config = config.model_copy(update={"train": with_counted_steps(lenient(config)).train})
        prepared = _plan(lenient(config), how, warnings)
    except FinetrainersError as error:
        return Inspected(_refused(config, how, error), None)
    report = _report(config, prepared, how)
    report["warnings"] = [*warnings, *about_data(config, prepared)]
    return Inspected(report, prepared)


def _plan(config: Config, how: Inspecting, warnings: list[str]) -> Prepared:
    model = open_model(config.model, config.memory)
    return prepare(config, model, torch.device("cpu"), progress=how.say, warn=warnings.append)


def lenient(config: Config) -> Config:
    """Leave bad samples out, so that all are found."""

    def skipping(sets: Sequence[DataConfig]) -> tuple[DataConfig, ...]:
        return tuple(data.model_copy(update={"on_error": "skip"}) for data in sets)

    validation = config.validation
    if validation.data:
        validation = validation.model_copy(update={"data": skipping(validation.data)})
    return config.model_copy(update={"data": skipping(config.data), "validation": validation})


def _refused(config: Config, how: Inspecting, error: FinetrainersError) -> Report:
    """Say why a run cannot be planned: with the bad samples, if it is these that leave nothing to train on."""
    try:
        _plan(settle(config).config, how, [])
    except FinetrainersError as first:
        error = first
    return {"version": REPORT_VERSION, "would_train": False, "refused": str(error)}


def _report(config: Config, prepared: Prepared, how: Inspecting) -> Report:
    catalog, workers = prepared.plan.catalog, config.cache.workers
    held_out = None if prepared.held_out_plan is None else prepared.held_out_plan.catalog
    facts = probe_again(prepared, workers)
    problems = problems_of(prepared)
    strict = {data.path for data in (*config.data, *(config.validation.data or ())) if data.on_error == "fail"}
    pixels, near = about_pixels(prepared, how.sample, workers=workers, say=how.say)
    decoded = decode_all(prepared, workers=workers, say=how.say) if how.decode else None
    bad = sum(row["count"] for row in problems if row["data"] in strict)
    bad += 0 if decoded is None else sum(row["data"] in strict for row in decoded["failed"])
    reason = f"{plural(bad, 'bad sample')} in data sets of on_error: fail" if bad else None
    return {
        "version": REPORT_VERSION,
        "would_train": reason is None,
        "refused": reason,
        "run": _about_run(config, prepared, held_out),
        "data": about_sets(prepared, facts),
        "media": about_media(catalog, facts),
        "buckets": about_buckets(prepared, facts),
        "cropped": describe_crops(catalog, most_cropped(catalog)),
        "problems": problems,
        "captions": about_captions(prepared),
        "duplicates": {"exact": exact_duplicates(prepared.plan.catalog), "near": near},
        "pixels": pixels,
        "cache": cache_gb(prepared),
        "decoded": decoded,
    }


def _about_run(config: Config, prepared: Prepared, held_out: Catalog | None) -> Report:
    steps, batch_size, samples = config.train.steps, config.train.batch_size, prepared.plan.num_samples
    return {
        "family": prepared.model.adapter.name,
        "task": prepared.model.task,
        "steps": steps,
        "batch_size": batch_size,
        "samples": samples,
        "samples_of_pass": prepared.samples_of_pass,
        "times_each": round(steps * batch_size / prepared.samples_of_pass, 2),
        "held_out": 0 if held_out is None else held_out.num_samples,
        "measured": len(prepared.held_out),
    }
