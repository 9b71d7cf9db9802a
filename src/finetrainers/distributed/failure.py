"""How a process of a run failed, and which errors only follow from another one's failure."""

import re
from typing import NamedTuple

from torch.distributed import DistError

from finetrainers.errors import INTERRUPTED, Interrupted, OtherProcessError

OF_ANOTHER = re.compile(r"gloo|nccl|connection (closed|reset)|broken pipe", re.IGNORECASE)
"""In the message of an error that tells of a process that is gone, and not of this one."""


class Failure(NamedTuple):
    """How a process failed."""

    rank: int
    status: int
    message: str

    def as_error(self) -> Exception:
        """Return what is raised in the other processes."""
        if self.status == INTERRUPTED:
            return Interrupted(self.message)
        return OtherProcessError(f"another process failed: rank {self.rank}: {self.message}", self.status)


def is_of_another(error: BaseException) -> bool:
    """Whether an error may only say that another process is gone."""
    return isinstance(error, DistError) or (isinstance(error, RuntimeError) and OF_ANOTHER.search(str(error)) is not None)


def first_line(error: BaseException) -> str:
    """Shorten an error to what fits into a sentence."""
    return (str(error).splitlines() or [type(error).__name__])[0]
