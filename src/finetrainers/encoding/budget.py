"""The cache's limit: how many steps fit into it, and what goes to make room for them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from finetrainers.config import Bucket
from finetrainers.data.cache.leases import oldest_lease
from finetrainers.data.cache.memory import MemoryCache
from finetrainers.data.cache.packs import KINDS
from finetrainers.data.cache.store import GB
from finetrainers.data.cache.upkeep import Eviction, evict
from finetrainers.data.order.jobs import LatentsJob, SampleJob
from finetrainers.data.order.order import Order
from finetrainers.data.order.plan import Jobs, Plan
from finetrainers.encoding.decoding import JOBS_AT_ONCE, in_batches
from finetrainers.encoding.encoder import Encoder
from finetrainers.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Budget:
    """``cache.max_gb`` for what one encoder makes."""

    encoder: Encoder
    sizes: dict[Bucket, int] = field(default_factory=dict)
    """Bytes of one item of latents of each bucket, where only an encoded one can tell."""

    def window(self, plan: Plan, order: Order, steps: range, *, pinned: Sequence[str]) -> int:
        """Return the step before which all that the steps read here fits into the limit, beside the pinned items.

        Raises:
            ConfigError: If not even one step fits.
        """
        max_gb = self.encoder.config.max_gb
        if max_gb is None or not steps:  # a run that was killed behind its last step has none left
            return steps.stop
        needed, rows = set(pinned), self.encoder.rows(order.batch_size)
        left = int(max_gb * GB) - sum(self._sizes(pinned))
        text_bytes = self._text_bytes(plan.step(order, steps.start)[rows])
        for step in steps:
            for job in plan.step(order, step)[rows]:
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
            return Eviction()
        keep, lacking = set(pinned), 0
        for some in in_batches(jobs.all(), JOBS_AT_ONCE):
            new = {item.key: (job, item) for job in some for item in job.media.values() if item.key not in keep}
            sizes = cache.sizes([("latents", key) for key in new])
            lacking += sum(self.latents_bytes(*made) for made, size in zip(new.values(), sizes, strict=True) if size is None)
            keep.update(key for job in some for key in job.keys)
        if isinstance(cache, MemoryCache):
            return cache.evict(int(max_gb * GB) - lacking, keep=keep)
        since = oldest_lease(cache.root, besides=self.encoder.lease)
        return evict(cache, int(max_gb * GB) - lacking, keep=keep, since=since)

    def check(self, jobs: Jobs, *, pinned: Sequence[str]) -> None:
        """Remove what these jobs, whose items are all there, leave no room for; warn if that is not enough."""
        left = self.make_room(jobs, pinned=pinned)
        if left.over:
            reason = "its items are larger than was foreseen"
            if left.held.items:
                reason = f"other runs that live need {left.held.items} items of it, which go when they are needed no more"
            limit = self.encoder.config.max_gb
            self.encoder.warn(f"cache.max_gb: the cache holds {left.over / GB:.3f} GB more than {limit} GB: {reason}")

    def _sizes(self, keys: Sequence[str]) -> list[int]:
        """Bytes of items of either kind, those that are there."""
        sizes = self.encoder.cache.sizes([(kind, key) for kind in KINDS for key in keys])
        return [size for size in sizes if size is not None]

    def _text_bytes(self, jobs: Sequence[SampleJob]) -> int:
        """Bytes of the largest encoded caption of these jobs, as it is stored; at least one of them is encoded for it."""
        for job in jobs:
            if not self.encoder.fill([], [job.text]):
                break
        return max(self._sizes(list({job.text.key for job in jobs})), default=0)  # none if their media cannot be decoded

    def latents_bytes(self, job: SampleJob, item: LatentsJob) -> int:
        """Bytes that an item takes in the cache."""
        model, header = self.encoder.model, 1000  # names, shapes and metadata of a file
        size = (item.view.num_frames, item.view.height, item.view.width) if item.stream.has_own_size else job.bucket
        shape = model.adapter.grid.encoded_shape(size)
        if item.stream.encoder == "none":
            return torch.Size(shape[1:]).numel() * torch.float32.itemsize + header
        if model.takes_image and item.stream.role == "target":
            if size not in self.sizes and not self.encoder.fill([item], []):
                (self.sizes[size],) = self._sizes([item.key])
            return self.sizes.get(size, 0)  # a medium that cannot be decoded takes no place
        dtype = model.pretrained.place("vae").dtype
        values = torch.Size(shape).numel()
        return values * dtype.itemsize * (2 if model.adapter.latents.samples_posterior else 1) + header
