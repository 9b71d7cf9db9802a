"""What a run leaves on the disk."""

from dataclasses import dataclass
from math import prod
from pathlib import Path

from finetrainers.conditioning import build_conditioning
from finetrainers.config import Bucket, Config
from finetrainers.data.sources.items import list_items
from finetrainers.data.streams import beside, streams_of
from finetrainers.models import Model
from finetrainers.training.cost import StepCost
from finetrainers.training.objective import build_objective
from finetrainers.training.plan.figures import Disk

HEADER_BYTES = 1000
"""Names and shapes of an item in the cache."""


@dataclass(frozen=True, slots=True)
class Leaves:
    """What decides what a run leaves."""

    config: Config
    model: Model
    bucket: Bucket
    """The largest."""
    cost: StepCost
    items: int | None

    def disk(self) -> Disk:
        """Count bytes; what is compressed in the cache, such as padding of captions, counts in full."""
        item = self._item()
        checkpoint = self.cost.state_bytes
        num_bytes = self.model.dtype.itemsize
        limit = self.config.cache.max_gb
        cache = None if self.items is None else item * self.items
        if cache is not None and limit is not None:
            cache = min(cache, int(limit * 1e9))
        return Disk(
            items=self.items,
            item=item,
            cache=cache,
            checkpoint=checkpoint,
            checkpoints=checkpoint * (1 + min(self.config.checkpoint.keep, self._num_saved())),
            weights=self.cost.num_trained * num_bytes,
        )

    def _num_saved(self) -> int:
        return -(-self.config.train.steps // self.config.checkpoint.every)

    def _item(self) -> int:
        adapter = self.model.adapter
        latents = prod(adapter.grid.encoded_shape(self.bucket)) * self.model.pretrained.place("vae").dtype.itemsize
        streams = streams_of(build_conditioning(self.config.conditioning), build_objective(self.config, self.model))
        texts = adapter.blank_text(self.model.max_length).values()
        caption = sum(
            own.numel() * (self.model.dtype.itemsize if own.is_floating_point() else own.itemsize) for own in texts
        )
        media = latents * (2 if adapter.latents.samples_posterior else 1) + HEADER_BYTES
        return media * len(streams) + caption


def count_items(config: Config, model: Model) -> int | None:
    """Count the items of data sets that are folders or files of this machine; None if one of them is not.

    Raises:
        DataError: If a data set cannot be listed.
    """
    streams = streams_of(build_conditioning(config.conditioning), build_objective(config, model))
    names, many = [own.name for own in beside(streams)], [own.name for own in streams if own.is_many]
    total = 0
    for data in config.data:
        if data.stream or not Path(data.path).expanduser().exists():
            return None
        total += list_items(data, names, many).table.num_rows
    return total
