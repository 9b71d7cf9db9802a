"""What is usual for each family: the learning rate of a LoRA, and the size (frames, height, width) it was made for."""

from dataclasses import dataclass

from finetrainers.config import Bucket
from finetrainers.models.base import ModelAdapter


@dataclass(frozen=True, slots=True)
class Usual:
    """Of one family; docs/models has the source of each rate."""

    rate: float
    native: Bucket


FAMILIES = {
    "cogvideox": Usual(1e-4, (49, 480, 720)),
    "cogview4": Usual(5e-5, (1, 1024, 1024)),
    "flux": Usual(1e-4, (1, 1024, 1024)),
    "hunyuan_video": Usual(1e-4, (49, 480, 832)),
    "ltx_video": Usual(2e-4, (49, 512, 768)),
    "wan": Usual(1e-4, (49, 480, 832)),
}
OTHER_VIDEO, OTHER_IMAGE = Usual(1e-4, (49, 480, 832)), Usual(1e-4, (1, 1024, 1024))
"""For a family of somebody else's."""


def usual(adapter: ModelAdapter) -> Usual:
    """Look up what is usual for a family."""
    return FAMILIES.get(adapter.name, OTHER_VIDEO if adapter.grid.has_video else OTHER_IMAGE)
