"""What other programs call the layers of each family."""

from finetrainers.errors import ConfigError
from finetrainers.export.names.base import Names as Names, Native as Native
from finetrainers.export.names.cogvideox import COGVIDEOX
from finetrainers.export.names.cogview4 import COGVIEW4
from finetrainers.export.names.flux import FLUX
from finetrainers.export.names.hunyuan_video import HUNYUAN_VIDEO
from finetrainers.export.names.ltx_video import LTX_VIDEO
from finetrainers.export.names.wan import WAN

FAMILIES = {names.family: names for names in (COGVIDEOX, COGVIEW4, FLUX, HUNYUAN_VIDEO, LTX_VIDEO, WAN)}


def names_of(family: str | None, *, to: str) -> Names:
    """Find what other programs call a family's layers.

    Raises:
        ConfigError: If it is none of those that they know.
    """
    if family in FAMILIES:
        return FAMILIES[family]
    what = "the weights do not say of which family they are; say it with --family" if family is None else family
    raise ConfigError(f"--to {to}: {what}; there are names for {', '.join(FAMILIES)}. --to diffusers needs none")


def family_of_class(denoiser_class: str | None) -> str | None:
    """Name the family of a denoiser's class in diffusers; None if it is of none that has names."""
    return next((names.family for names in FAMILIES.values() if names.denoiser_class == denoiser_class), None)
