"""How a command ends."""

from finetrainers.errors import (
    DONE as DONE,
    INTERNAL_ERROR as INTERNAL_ERROR,
    INTERRUPTED as INTERRUPTED,
    STOPPED_AT_ONCE as STOPPED_AT_ONCE,
    USER_ERROR as USER_ERROR,
)
