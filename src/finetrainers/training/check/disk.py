"""The room that the real run will need on disks, against what is free."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from finetrainers.config import Config
from finetrainers.data.order.jobs import LatentsJob
from finetrainers.errors import ModelError, StorageError
from finetrainers.files.storage import existing
from finetrainers.models import Model
from finetrainers.training.check.findings import Part
from finetrainers.training.output_size import FLOAT32, exported_bytes, num_checkpoints, num_exported
from finetrainers.training.prepared import Prepared

GB = 10**9
MEASURED = 200
"""Samples whose sizes are added up, spread over all; that of the others is their mean."""
STATE_BYTES = {"sgd": 4, "adafactor": 0, "muon": 4, "adamw_8bit": 2, "adamw_4bit": 1, "adamw_fp8": 2, "prodigy": 16}
"""Of an optimizer's state, a weight."""
ADAM_BYTES = 8
HEADER_BYTES = 1000


@dataclass(frozen=True, slots=True)
class Need:
    """What something takes."""

    key: str
    """Names the place."""
    place: Path
    bytes: int
    what: str


def needs(config: Config, prepared: Prepared) -> Iterator[Need]:
    """Count what the run will write, at its largest."""
    if config.cache.encode == "ahead":  # else they are in memory
        cache = _cache_bytes(prepared, config.train.steps)
        limit = config.cache.max_gb
        cache = cache if limit is None else min(cache, int(limit * GB))
        yield Need("cache.path", config.cache.path, cache, "encoded items")
    trained, whole = prepared.size.trained, prepared.size.whole
    state = STATE_BYTES.get(config.optimizer.name, ADAM_BYTES)
    state += FLOAT32 * (1 + (config.train.ema_decay is not None))
    kept = num_checkpoints(config)
    yield Need("output_dir", config.output_dir, kept * trained * state, f"{kept} checkpoint{'s' * (kept > 1)}")
    steps, exported = num_exported(config), exported_bytes(config, prepared.model, trained=trained, whole=whole)
    yield Need("output_dir", config.output_dir, steps * exported, f"weights of {steps} step{'s' * (steps > 1)}")


def check_disk(config: Config, prepared: Prepared, part: Part, *, free: int | None) -> None:
    """Compare what the run will write with what is free on each disk, or with what its machine will have.

    Raises:
        StorageError: If it does not fit.
    """
    found = list(needs(config, prepared))
    part.notes += [f"{need.what}: {need.bytes / GB:.2f} GB ({need.key})" for need in found]
    disks: dict[int, list[Need]] = {}
    for need in found:
        disks.setdefault(0 if free is not None else existing(need.place).stat().st_dev, []).append(need)
    for own in disks.values():
        there = shutil.disk_usage(existing(own[0].place)).free if free is None else free
        total = sum(need.bytes for need in own)
        if total > there:
            parts = ", ".join(f"{need.what} {need.bytes / GB:.1f} GB ({need.key})" for need in own if need.bytes)
            raise StorageError(
                f"{max(own, key=lambda need: need.bytes).key}: the run writes {total / GB:.1f} GB, and {there / GB:.1f} GB "
                f"are free there: {parts}; make room, name another place, set cache.max_gb, or a lower checkpoint.keep or "
                "checkpoint.keep_weights (and data.N.views)"
            )


def _cache_bytes(prepared: Prepared, steps: int) -> int:
    """Bound what the steps read, latents and captions: no more than there is, and no more than there are positions."""
    plan, positions = prepared.plan, steps * prepared.order.batch_size
    sets, samples = plan.catalog.sets, plan.num_samples
    views, captions = positions, positions
    if prepared.chapters is None:  # else what is known is one chapter of many
        views = min(views, sum(len(data.item) * data.config.num_views for data in sets))
        captions = min(captions, sum(int(data.num_captions[np.unique(data.item)].sum()) for data in sets))
    some = np.unique(np.linspace(0, samples - 1, min(MEASURED, samples)).astype(int)).tolist()
    sizes = [sum(_latents_bytes(prepared, item) for item in plan.media_jobs(sample, 0).values()) for sample in some]
    held_out = sum(_latents_bytes(prepared, item) for job in prepared.held_out for item in job.media.values())
    texts = captions + len(prepared.held_out) + len(prepared.texts)
    return int(np.mean(sizes) * views) + held_out + texts * _text_bytes(prepared.model)


def _latents_bytes(prepared: Prepared, item: LatentsJob) -> int:
    model = prepared.model
    shape = model.adapter.grid.encoded_shape((item.view.num_frames, item.view.height, item.view.width))
    values, itemsize = torch.Size(shape).numel(), model.pretrained.place("vae").dtype.itemsize
    if item.stream.encoder == "none":
        return torch.Size(shape[1:]).numel() * FLOAT32 + HEADER_BYTES
    own = values * itemsize * (2 if model.adapter.latents.samples_posterior else 1)
    if model.takes_image and item.stream.role == "target":
        own += FLOAT32 * sum(tensor.numel() for tensor in model.adapter.blank_image(shape, model.task).values())
    return own + HEADER_BYTES


def _text_bytes(model: Model) -> int:
    """Bytes of a caption that is as long as captions may be; an adapter need not say, and captions then count as none."""
    try:
        blank = model.adapter.blank_text(model.max_length)
    except ModelError:
        return HEADER_BYTES
    return sum(tensor.numel() for tensor in blank.values()) * model.dtype.itemsize + HEADER_BYTES
