"""Repositories of the Hub: downloaded into the Hub's own cache, at one commit, and then a folder like any other."""

import re
from pathlib import Path

from finetrainers.data.media.remote_retry import way_in
from finetrainers.data.sources.place import Place
from finetrainers.errors import DataError, StorageError

ADDRESS = re.compile(
    r"hf://(?:(?P<kind>datasets|spaces|models)/)?(?P<id>[^/@]+/[^/@]+)"
    r"(?:@(?P<revision>refs/(?:pr|convert)/[^/]+|[^/]+))?(?:/(?P<inside>.*))?"
)
KINDS = {"datasets": "dataset", "spaces": "space", "models": "model", None: "model"}


def find_hub_place(address: str, *, key: str = "data.path") -> Place:
    """Download what an address names, a repository or a folder or file in it; nothing of it is downloaded twice.

    Raises:
        DataError: If there is no such thing, or if it is not shown to us.
        StorageError: If the Hub cannot be reached, and the cache does not have all of it.
    """
    found = ADDRESS.fullmatch(address)
    if found is None or found["id"].startswith(("datasets/", "spaces/", "models/")):
        raise DataError(f"{key}: {address!r} names no repository; write hf://datasets/owner/name, and a folder after it")
    inside = (found["inside"] or "").strip("/")
    folder = _download(address, found, inside, key)
    path = folder / inside
    if not path.exists():
        raise DataError(
            f"{key}: {address}: the repository has no {inside!r} at commit {folder.name}; see its page for what is in it"
        )
    return Place(path)


def _download(address: str, found: re.Match[str], inside: str, key: str) -> Path:
    """Return the folder of the commit."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    chosen = [inside, f"{inside}/**"] if inside else None
    try:
        folder = snapshot_download(
            found["id"], repo_type=KINDS[found["kind"]], revision=found["revision"], allow_patterns=chosen
        )
    except RevisionNotFoundError as error:
        raise DataError(f"{key}: {address}: there is no revision {found['revision']!r}") from error
    except GatedRepoError as error:
        raise DataError(
            f"{key}: {address}: its owners have to let you in: ask on its page, and {way_in(address)}"
        ) from error
    except RepositoryNotFoundError as error:
        hint = "" if found["kind"] else f"; a data set is hf://datasets/{found['id']}"
        raise DataError(
            f"{key}: {address}: there is no such repository, or it is private: {way_in(address)}{hint}"
        ) from error
    except LocalEntryNotFoundError as error:
        reason = _line(error.__cause__ or error)
        raise StorageError(
            f"{key}: {address}: the Hub cannot be reached ({reason}), and its cache here has not all of it; see to the "
            "connection, unset HF_HUB_OFFLINE, or run `hf download` where there is one"
        ) from error
    except (HfHubHTTPError, HFValidationError) as error:
        raise DataError(f"{key}: {address}: cannot be read: {_line(error)}") from error
    return Path(folder)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
