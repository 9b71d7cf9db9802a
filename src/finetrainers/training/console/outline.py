"""The outline of a run: made of what is planned, before weights are loaded, and told before training begins."""

from collections.abc import Sequence
from pathlib import Path

import torch

from finetrainers.config import Config, FullConfig, LokrConfig, LoraConfig
from finetrainers.data.catalog.cropped import count_much, describe_crops, most_cropped
from finetrainers.data.catalog.found import found_sets
from finetrainers.data.catalog.occupancy import occupancy
from finetrainers.events import (
    BadItem,
    CroppedItem,
    DataShare,
    DiskUse,
    FilledBucket,
    FoundData,
    RunOutline,
    Tuned,
)
from finetrainers.memory.attention import device_name
from finetrainers.training.check.disk import needs
from finetrainers.training.output_size import exported_bytes
from finetrainers.training.prepared import Prepared

GB, MB = 10**9, 10**6
NUM_BAD = 5
"""Items that cannot be used of which the outline tells why."""


def outline_of(
    config: Config,
    prepared: Prepared,
    *,
    device: torch.device,
    processes: int,
    resumed: int | None,
    settled: Sequence[str] = (),
    fitting: Sequence[str] = (),
) -> RunOutline:
    """Tell what a planned run will be.

    Args:
        config: Of the run, with absolute paths.
        prepared: The planned run.
        device: Of its first process.
        processes: How many it has.
        resumed: Step that it goes on from, if it does.
        settled: Lines that say what was left to the model.
        fitting: Lines that say how techniques were chosen, if they were.
    """
    catalog = prepared.plan.catalog
    apart = None if prepared.held_out_plan is None else prepared.held_out_plan.catalog
    measured = [job.bucket for job in prepared.held_out]
    is_gpu = device.type == "cuda"
    return RunOutline(
        output_dir=str(config.output_dir),
        family=prepared.model.adapter.name,
        task=prepared.model.task,
        resumed_from=resumed,
        steps=config.train.steps,
        batch_size=config.train.batch_size,
        num_samples=prepared.plan.num_samples,
        samples_of_pass=None if prepared.chapters is None else prepared.samples_of_pass,
        num_held_out=len(prepared.held_out),
        num_bad=len(prepared.problems),
        epochs=prepared.order.epoch_of(max(0, config.train.steps - 1)) + 1,
        device=str(device),
        mix=[DataShare(**own) for own in prepared.mixture(config.train.steps)],
        sets=[FoundData(**own) for own in found_sets(catalog)],
        buckets=[FilledBucket(**own) for own in occupancy(catalog, apart, measured)],
        memory=fitting or None,
        auto=settled or None,
        yours=[f"{key} {Path(place).name}" for key, place in config.user_code.items()] or None,
        native_fps=prepared.model.adapter.training.native_fps,
        device_name=device_name(device) if device.type != "cpu" else None,
        device_memory_gb=round(torch.cuda.get_device_properties(device).total_memory / GB, 1) if is_gpu else None,
        processes=processes,
        model_path=config.model.path,
        model_revision=config.model.revision,
        num_apart=0 if apart is None else apart.num_samples,
        held_out_asked=config.validation.held_out or None,
        bad=[BadItem(path=own.path, reason=own.reason) for own in prepared.problems[:NUM_BAD]],
        num_cropped=count_much(catalog),
        cropped=[CroppedItem(**own) for own in describe_crops(catalog, most_cropped(catalog))],
        trained=_tuned(config, prepared) if prepared.size.whole else None,  # else it could not be counted
        num_prompts=len(prepared.requests),
        validate_every=config.validation.every,
        save_every=config.checkpoint.every,
        disk=[
            DiskUse(what=own.what, key=own.key, path=str(own.place), gb=round(own.bytes / GB, 6))
            for own in needs(config, prepared)
        ],
    )


def _rank_of(tuning: LoraConfig | LokrConfig | FullConfig) -> tuple[int | None, float | None]:
    """Rank and alpha of adapters."""
    match tuning:
        case LoraConfig():
            return tuning.rank_value, tuning.alpha_value
        case LokrConfig():
            return tuning.rank, tuning.alpha
        case FullConfig():
            return None, None


def _tuned(config: Config, prepared: Prepared) -> Tuned:
    """Tell what trains."""
    tuning, size = config.tuning, prepared.size
    rank, alpha = _rank_of(tuning)
    exported = exported_bytes(config, prepared.model, trained=size.trained, whole=size.whole)
    return Tuned(
        kind=tuning.kind,
        rank=rank,
        alpha=alpha,
        parameters=size.trained,
        all_parameters=size.whole,
        mb=round(exported / MB, 3),
    )
