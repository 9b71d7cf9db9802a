"""How a command ends."""

from finetrainers.errors import DONE as DONE
from finetrainers.errors import INTERNAL_ERROR as INTERNAL_ERROR
from finetrainers.errors import INTERRUPTED as INTERRUPTED
from finetrainers.errors import STOPPED_AT_ONCE as STOPPED_AT_ONCE
from finetrainers.errors import USER_ERROR as USER_ERROR
