"""Reads of remote objects, tried again where the failure passes, and failures told with the object and the way out."""

import errno
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

from finetrainers.errors import FinetrainersError, StorageError

T = TypeVar("T")
Kind = Literal["passes", "missing", "denied", "disk", "other"]

PASSING_STATUS = (408, 425, 429, 500, 502, 503, 504)
DENIED_STATUS = (401, 403, 407)
MISSING_STATUS = (404, 410)
PASSING_CLASSES = {
    *("aiohttp.ClientConnectionError", "aiohttp.ClientPayloadError", "aiohttp.ClientOSError", "http.IncompleteRead"),
    *(
        "botocore.HTTPClientError",
        "botocore.ConnectionError",
        "botocore.IncompleteReadError",
        "botocore.ResponseStreamingError",
    ),
    *("httpx.TransportError", "httpx2.TransportError", "urllib3.HTTPError", "requests.ConnectionError", "requests.Timeout"),
}
"""Errors of connections, by package and name: none of these packages need be installed."""
LASTING_CLASSES = {"aiohttp.ClientConnectorCertificateError", "aiohttp.InvalidURL", "huggingface_hub.OfflineModeIsEnabled"}
DENIED_CLASSES = {"botocore.NoCredentialsError", "botocore.PartialCredentialsError", "botocore.TokenRetrievalError"}
PASSING_ERRNOS = (errno.EBUSY, errno.ECONNRESET, errno.EPIPE, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH)
DISK_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Of the disk that a copy is written to, never of the server."""

CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for a public bucket FSSPEC_S3_ANON=true",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or run `gcloud auth application-default login`",
    "hf": "run `hf auth login`, or set HF_TOKEN to a token of somebody who may read it",
    "https": "give an address that carries its permission, such as a signed one",
}
"""What gives access, by scheme."""
ALIASES = {"s3a": "s3", "gcs": "gs", "http": "https"}


@dataclass(frozen=True, slots=True)
class Patience:
    """How often, and for how long, a read is tried."""

    attempts: int = 6
    first_seconds: float = 0.5
    most_seconds: float = 20.0
    """Between two attempts; each pause is twice the one before, and is shortened at random by up to a half."""
    all_seconds: float = 180.0
    """From the first attempt on, no other begins later."""


PATIENCE = Patience()


class IncompleteError(Exception):
    """Fewer bytes, or more, came than the server had announced."""


def patiently(ref: str, do: Callable[[], T], patience: Patience | None = None) -> T:
    """Do what reads an object, again and again while its failures are of the kind that passes.

    Raises:
        FileNotFoundError: If there is no such object.
        PermissionError: If it is not shown to us.
        OSError: If it cannot be read for another reason that lasts.
        StorageError: If it cannot be read now, which is no fault of the object, or if the disk here takes no copy.
    """
    patience = PATIENCE if patience is None else patience
    start, pause = time.monotonic(), patience.first_seconds
    for attempt in range(1, patience.attempts + 1):
        try:
            return do()
        except FinetrainersError:
            raise
        except Exception as error:  # each backend has classes of its own
            if _is_ours(error):
                raise
            elapsed = time.monotonic() - start
            if kind_of(error) != "passes" or attempt == patience.attempts or elapsed + pause > patience.all_seconds:
                raise _told(ref, error, attempt, elapsed) from error
        time.sleep(pause * random.uniform(0.5, 1))
        pause = min(2 * pause, patience.most_seconds)
    raise AssertionError("patience.attempts is at least 1")


def kind_of(error: BaseException) -> Kind:
    """Tell what a failure means, from the error and what it was caused by."""
    if isinstance(error, OSError) and error.errno in DISK_ERRNOS:
        return "disk"
    chain = list(_chain(error))
    names = {name for link in chain for name in _class_names(link)}
    if names & LASTING_CLASSES:
        return "other"
    for status in filter(None, map(_status, chain)):
        for kind, known in _BY_STATUS.items():
            if status in known:
                return kind
    if names & DENIED_CLASSES or any(isinstance(link, PermissionError) for link in chain):
        return "denied"
    is_cut = any(isinstance(link, ConnectionError | TimeoutError | IncompleteError | EOFError) for link in chain)
    if is_cut or names & PASSING_CLASSES or any(isinstance(e, OSError) and e.errno in PASSING_ERRNOS for e in chain):
        return "passes"
    return "missing" if isinstance(error, FileNotFoundError) else "other"


_BY_STATUS: dict[Kind, tuple[int, ...]] = {
    "passes": PASSING_STATUS,
    "denied": DENIED_STATUS,
    "missing": MISSING_STATUS,
}


def way_in(ref: str) -> str:
    """Say what gives access to an object."""
    scheme = ref.partition(":")[0]
    return CREDENTIALS.get(ALIASES.get(scheme, scheme), "see to its credentials")


def _is_ours(error: Exception) -> bool:
    """Whether it is a mistake in the program, that nobody is to mend by looking at the server."""
    is_builtin = type(error).__module__ == "builtins"
    return is_builtin and not isinstance(error, OSError | EOFError)


def _told(ref: str, error: Exception, attempts: int, seconds: float) -> Exception:
    kind, reason = kind_of(error), _reason(error)
    if kind == "missing":
        return FileNotFoundError(errno.ENOENT, "there is no such object", ref)
    if kind == "denied":
        return PermissionError(errno.EACCES, f"the server does not show it to us ({reason}); {way_in(ref)}", ref)
    if kind == "disk":
        return StorageError(f"cache.path: {ref} cannot be copied there: {reason}; make room, or name another cache.path")
    if kind == "passes":
        tried = f"{attempts} times in {seconds:.0f} s"
        return StorageError(
            f"{ref}: cannot be read now ({reason}; tried {tried}); see to the connection and the server, and give the "
            "same command again: what has been read is kept"
        )
    return OSError(errno.EIO, reason, ref)


def _reason(error: BaseException) -> str:
    """What the innermost cause says, in one line."""
    inner = list(_chain(error))[-1]
    status = _status(inner)
    text = " ".join(str(inner).split()) or type(inner).__name__
    text = text if len(text) <= 300 else f"{text[:300]}..."
    return text if status is None or str(status) in text else f"status {status}: {text}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and what caused it on purpose."""
    link: BaseException | None = error
    for _ in range(10):
        if link is None:
            return
        yield link
        link = link.__cause__


def _class_names(error: BaseException) -> Iterator[str]:
    for kind in type(error).__mro__:
        yield f"{kind.__module__.partition('.')[0]}.{kind.__name__}"


def _status(error: BaseException) -> int | None:
    """The HTTP status, where each backend keeps it; there is no class that all of them share."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore's
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        status = getattr(response, "status_code", None)  # httpx's and requests's
    for name in ("status", "status_code", "code"):  # aiohttp's, and gcsfs's
        status = getattr(error, name, None) if status is None else status
    return int(status) if isinstance(status, int) or (isinstance(status, str) and status.isdigit()) else None
