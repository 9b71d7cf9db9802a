"""The cache's limit: how many steps fit into it, and what goes to make room for them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from finetrainers.config import Bucket
from finetrainers.data.cache.leases import oldest_lease
from finetrainers.data.cache.store import GB, Eviction
from finetrainers.data.order.jobs import LatentsJob, SampleJob
from finetrainers.data.order.order import Order
from finetrainers.data.order.plan import Jobs, Plan
from finetrainers.encoding.encoder import Encoder
from finetrainers.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Budget:
    """``cache.max_gb`` for what one encoder makes."""

    encoder: Encoder
    sizes: dict[Bucket, int] = field(default_factory=dict)
    """Bytes of one item of latents of each bucket, where only an encoded one can tell."""

    def window(self, plan: Plan, order: Order, steps: range, *, pinned: Sequence[str]) -> int:
        """Return the step before which all that the steps read fits into the limit, beside the pinned items.

        Raises:
            ConfigError: If not even one step fits.
        """
        max_gb = self.encoder.config.max_gb
        if max_gb is None:
            return steps.stop
        needed = set(pinned)
        sizes = [(entry.kind, entry.bytes) for entry in self.encoder.cache.entries() if entry.key in needed]
        left = int(max_gb * GB) - sum(size for _, size in sizes)
        text_bytes = max((size for kind, size in sizes if kind == "text"), default=None)  # of most encoders, all are equal
        if text_bytes is None:
            text_bytes = self._text_bytes(plan.step(order, steps.start))
        for step in steps:
            for job in plan.step(order, step):
                left -= 0 if job.text.key in needed else text_bytes
                left -= sum(self.latents_bytes(job, item) for item in set(job.media.values()) if item.key not in needed)
                needed |= set(job.keys)
            if left < 0 and step == steps.start:
                raise ConfigError(
                    f"cache.max_gb: {max_gb} GB cannot hold the items of one optimizer step "
                    f"(and of the validation); {max_gb - left / GB:.3f} GB can"
                )
            if left < 0:
                return step
        return steps.stop

    def make_room(self, jobs: Jobs, *, pinned: Sequence[str]) -> Eviction:
        """Remove least recently used items that neither these jobs nor living runs need, so that what they lack will fit."""
        max_gb, cache = self.encoder.config.max_gb, self.encoder.cache
        if max_gb is None:
            return Eviction([], [], 0)
        keep, lacking = set(pinned), 0
        for job in jobs.all():
            new = (item for item in set(job.media.values()) if item.key not in keep and not cache.has("latents", item.key))
            lacking += sum(self.latents_bytes(job, item) for item in new)
            keep |= set(job.keys)
        since = oldest_lease(cache.root, besides=self.encoder.lease)
        return cache.evict(int(max_gb * GB) - lacking, keep=keep, since=since)

    def check(self, jobs: Jobs, *, pinned: Sequence[str]) -> None:
        """Remove what these jobs, whose items are all there, leave no room for; warn if that is not enough."""
        left = self.make_room(jobs, pinned=pinned)
        if left.over:
            reason = "its items are larger than was foreseen"
            if left.held:
                reason = f"other runs that live need {len(left.held)} items of it, which go when they are needed no more"
            limit = self.encoder.config.max_gb
            self.encoder.warn(f"cache.max_gb: the cache holds {left.over / GB:.3f} GB more than {limit} GB: {reason}")

    def _text_bytes(self, jobs: Sequence[SampleJob]) -> int:
        for job in jobs:
            if not self.encoder.fill([], [job.text]):
                return self.encoder.cache.file("text", job.text.key).stat().st_size
        return 0  # none of the media that are seen with the captions can be decoded

    def latents_bytes(self, job: SampleJob, item: LatentsJob) -> int:
        """Bytes that an item takes in the cache."""
        model, header = self.encoder.model, 1000  # names, shapes and metadata of a file
        size = (item.view.num_frames, item.view.height, item.view.width) if item.stream.has_own_size else job.bucket
        shape = model.adapter.grid.encoded_shape(size)
        if item.stream.encoder == "none":
            return torch.Size(shape[1:]).numel() * torch.float32.itemsize + header
        if model.takes_image and item.stream.role == "target":
            if size not in self.sizes and not self.encoder.fill([item], []):
                self.sizes[size] = self.encoder.cache.file("latents", item.key).stat().st_size
            return self.sizes.get(size, 0)  # a medium that cannot be decoded takes no place
        dtype = model.pretrained.place("vae").dtype
        values = torch.Size(shape).numel()
        return values * dtype.itemsize * (2 if model.adapter.latents.samples_posterior else 1) + header
