"""The ``memory`` section: what trades time for memory."""

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from finetrainers.config.base import Section

UNITS = {"": 1, "MB": 10**6, "GB": 10**9, "MiB": 2**20, "GiB": 2**30}
"""Bytes of each unit that sizes are written in."""


def _bytes(value: object) -> object:
    """Read a size such as 24GB; numbers are bytes."""
    if not isinstance(value, str):
        return value
    written = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", value.strip())
    if written is None or written[2] not in UNITS:
        raise ValueError(
            f"{value!r} is no size; write a number with one of {', '.join(unit for unit in UNITS if unit)}: 24GB"
        )
    return round(float(written[1]) * UNITS[written[2]])


class MemoryConfig(Section):
    """What trades time for memory."""

    preset: Literal["none", "auto"] = "none"
    """Who chooses what saves memory: the keys that are written, alone, or ``auto``, which counts what a step would take with
    one set of techniques after the other, the fastest first, and takes the first that fits in the budget. Keys that are
    written stay as they are."""
    budget: Annotated[int, Field(ge=1), BeforeValidator(_bytes)] | None = None
    """Memory of the device that ``preset: auto`` may count on, such as 24GB or 24GiB (1 GB is 10^9 bytes); by default all
    that a GPU has."""
    vae_tiling: bool = False
    """Encode and decode large frames in tiles."""
    vae_slicing: bool = False
    """Encode and decode the items of a batch one by one."""

    def idle(self) -> Mapping[str, str]:
        return {} if self.preset == "auto" else {"budget": "without preset: auto; set it, or remove it"}
