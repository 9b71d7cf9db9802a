"""What a run leaves on the disk."""

from dataclasses import dataclass
from math import prod

from finetrainers.conditioning import build_conditioning
from finetrainers.config import Bucket, Config
from finetrainers.data.streams import streams_of
from finetrainers.models import Model
from finetrainers.training.cost import StepCost
from finetrainers.training.objective import build_objective
from finetrainers.training.output_size import exported_bytes, num_checkpoints
from finetrainers.training.plan.figures import Disk
from finetrainers.training.plan.items import Items

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
    items: Items | None

    def disk(self) -> Disk:
        """Count bytes; what is compressed in the cache, such as padding of captions, counts in full."""
        media, caption = self._item()
        checkpoint, trained = self.cost.state_bytes, self.cost.num_trained
        limit, cache = self.config.cache.max_gb, self.encoded()
        if self.config.cache.encode == "on_the_fly":
            cache = 0
        elif cache is not None and limit is not None:
            cache = min(cache, int(limit * 1e9))
        return Disk(
            items=None if self.items is None else self.items.count,
            item=media + caption,
            cache=cache,
            checkpoint=checkpoint,
            checkpoints=checkpoint * num_checkpoints(self.config),
            weights=exported_bytes(self.config, self.model, trained=trained, whole=self._whole()),
        )

    def encoded(self) -> int | None:
        """Bytes of all views of all items and their captions; None where nobody says how many there are."""
        media, caption = self._item()
        return None if self.items is None else media * self.items.views + caption * self.items.count

    def _whole(self) -> int:
        """All weights of what trains; asked for where they are exported."""
        if self.config.tuning.kind != "full":
            return 0
        shells = (self.model.pretrained.shell(name) for name in self.model.denoisers.trained)
        return sum(own.numel() for shell in shells for own in shell.parameters())

    def _item(self) -> tuple[int, int]:
        """Bytes of one view of an item, and of its caption."""
        adapter = self.model.adapter
        latents = prod(adapter.grid.encoded_shape(self.bucket)) * self.model.pretrained.place("vae").dtype.itemsize
        streams = streams_of(build_conditioning(self.config.conditioning), build_objective(self.config, self.model))
        texts = adapter.blank_text(self.model.max_length).values()
        caption = sum(
            own.numel() * (self.model.dtype.itemsize if own.is_floating_point() else own.itemsize) for own in texts
        )
        media = latents * (2 if adapter.latents.samples_posterior else 1) + HEADER_BYTES
        return media * len(streams), caption
