"""Every error that this package raises on purpose, and the exit status that each becomes."""

DONE, INTERNAL_ERROR, USER_ERROR, INTERRUPTED, STOPPED_AT_ONCE = 0, 1, 2, 3, 130
"""Exit status: done; an error of ours; wrong configuration or data; stopped by a signal after saving; by Ctrl-C at once."""


class FinetrainersError(Exception):
    """Base class, so that callers can write one ``except``; the message is for the user."""

    status = USER_ERROR
    """Exit status of a command that it ends."""


class ConfigError(FinetrainersError):
    """The configuration cannot be run; the message names the key, the value and the way out."""


class DataError(FinetrainersError):
    """A sample or a cache entry cannot be used; the message names the file."""


class MissingItemError(DataError):
    """An item of the cache is gone or damaged; a run that trains makes it again."""


class ModelError(FinetrainersError):
    """The model on disk or on the Hub is not what the configuration says."""


class CheckpointError(FinetrainersError):
    """A checkpoint is missing, damaged or of another run."""


class StorageError(FinetrainersError):
    """The operating system refuses to read or write a file; the message names it."""


class NonFiniteError(FinetrainersError):
    """A loss or a gradient is infinite or not a number; the message names the sample positions."""


class Interrupted(FinetrainersError):  # noqa: N818 - not a failure: the run was asked to stop, and saved
    """A signal asked the run to stop, and it saved first: start it again to go on."""

    status = INTERRUPTED


class OtherProcessError(FinetrainersError):
    """Another process of the run failed or is gone, and this one ends for it; the message has that one's."""

    def __init__(self, message: str, status: int = INTERNAL_ERROR) -> None:
        """Take the exit status of the other one too."""
        super().__init__(message)
        self.status = status


class StoppedAtOnceError(KeyboardInterrupt):
    """Ctrl-C came a second time: what was being done is given up, and nothing more is saved."""


def exit_status(error: BaseException) -> int:
    """Exit status of a command that an error ends."""
    if isinstance(error, FinetrainersError):
        return error.status
    return STOPPED_AT_ONCE if isinstance(error, KeyboardInterrupt) else INTERNAL_ERROR
