"""Which objects are in a remote folder, with the size and stamp of each, from one request for a thousand of them.

Shape letters: N objects.
"""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from finetrainers.data.media.remote import system_of
from finetrainers.data.media.remote_facts import Facts, Listed, facts_of, listed
from finetrainers.data.media.remote_retry import patiently
from finetrainers.files.marks import SYSTEM_FOLDERS


def list_objects(folder: str, *, deep: bool) -> Listed:
    """List the files of a folder, without hidden ones, by their names relative to it; ``deep``, those of folders in it too.

    Raises:
        FileNotFoundError: If there is no such bucket, or folder where those are things of their own.
        OSError: If it is not shown to us.
        StorageError: If the server does not answer.
    """
    folders: set[str] = set()
    entries = _s3_entries if folder.startswith(("s3:", "s3a:")) else _entries
    visible = ((name, facts) for name, facts in entries(folder, folders, deep=deep) if not _is_hidden(name))
    return listed(visible, folders)


def _is_hidden(name: str) -> bool:
    if name.startswith(".") or "/." in name or not name:
        return True
    return any(folder in name for folder in SYSTEM_FOLDERS) and not SYSTEM_FOLDERS.isdisjoint(name.split("/")[:-1])


def _s3_entries(folder: str, folders: set[str], *, deep: bool) -> Iterator[tuple[str, Facts]]:
    """Page by page: fsspec would hold all entries at once, as Python objects."""
    system, path = system_of(folder)
    bucket, _, prefix = path.rstrip("/").partition("/")
    request: dict[str, Any] = {"Bucket": bucket, "Prefix": f"{prefix}/" if prefix else ""}
    if not deep:
        request["Delimiter"] = "/"
    while True:
        page = patiently(folder, lambda: system.call_s3("list_objects_v2", **request))
        cut = len(request["Prefix"])
        folders.update(entry["Prefix"][cut:].rstrip("/") for entry in page.get("CommonPrefixes", ()))
        for entry in page.get("Contents", ()):
            if not entry["Key"].endswith("/"):  # some programs write folders as empty objects
                yield entry["Key"][cut:], facts_of({**entry, "size": entry["Size"]})
        if not page.get("IsTruncated"):
            return
        request["ContinuationToken"] = page["NextContinuationToken"]


def _entries(folder: str, folders: set[str], *, deep: bool) -> Iterator[tuple[str, Facts]]:
    system, path = system_of(folder)

    def once() -> list[dict[str, Any]]:
        if deep:
            return list(system.find(path, detail=True).values())
        return list(system.ls(path, detail=True))

    prefix = f"{path.rstrip('/')}/"
    for entry in patiently(folder, once):
        name = entry["name"].removeprefix(prefix)
        if entry["type"] == "file":
            yield name, facts_of(entry)
        else:
            folders.add(name.rstrip("/"))


def join_folder(folder: str, names: pa.Array) -> pa.Array:
    """Join the address of a folder and names [N] (large_string) to references."""
    start, nothing = pa.scalar(f"{folder}/", pa.large_string()), pa.scalar("", pa.large_string())
    return pc.binary_join_element_wise(start, names, nothing)
