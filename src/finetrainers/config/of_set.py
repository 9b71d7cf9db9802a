"""Messages about one data set get its number: ``data.path`` becomes ``data.0.path``, which a command line takes."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from finetrainers.config.data import DataConfig
from finetrainers.config.user_code import user_code_errors
from finetrainers.errors import FinetrainersError

SECTIONS = "buckets", "columns", "folders"
"""Keys of a data set that have keys of their own."""
PLAIN = [key for key in DataConfig.model_fields if key not in SECTIONS]
KEY = re.compile(
    r"(?<![\w./-])data\.(?=(?:(?:"
    + "|".join(PLAIN)
    + r")(?![\w-]|\.\w)|(?:"
    + "|".join(SECTIONS)
    + r")(?![\w-]))(?![\w.]*/))"
)
"""Beginning of a key of a data set whose number is not known where the message is written; no part of a name of a file."""


def set_keys(sets: Sequence[object], name: str = "data") -> list[str]:
    """Keys of data sets: ``data.0``, ``data.1``."""
    return [f"{name}.{number}" for number in range(len(sets))]


def numbered(message: str, key: str) -> str:
    """Write the keys of a message about the data set at ``key`` with its number."""
    return KEY.sub(f"{key}.", message)


@contextmanager
def about_set(key: str) -> Iterator[None]:
    """Give the keys in the errors of the body the number of the data set at ``key``."""
    try:
        with user_code_errors():  # of a layout of the user's, in whose message the key stands too
            yield
    except FinetrainersError as error:
        error.args = (numbered(str(error), key), *error.args[1:])
        raise
