"""Data sets of other machines: what ``data.path`` names there. No media is opened here."""

import difflib
import fnmatch
import glob
import itertools
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from finetrainers.data.media.blob import blob_of
from finetrainers.data.media.files import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from finetrainers.data.media.remote import WEB, RemoteFile, ask, copies_folder
from finetrainers.data.media.remote_facts import Facts, Listed, listed, remember
from finetrainers.data.media.remote_listing import join_folder, list_objects
from finetrainers.data.sources.patterns import expand_braces, is_pattern
from finetrainers.data.sources.place import Place
from finetrainers.errors import DataError

NOWHERE = Path("/dev/null")
"""Folder of the paths of remote places, which tell names: nothing can be below it."""


@dataclass(frozen=True, slots=True, eq=False)
class RemotePlace(Place):
    """A folder that can be listed, or one file."""

    address: str = ""
    """Of the folder, or of that of the file, without a slash at its end."""
    single: str = ""
    """Address of the file; empty for a folder."""
    files: Listed = field(default_factory=lambda: listed(()))
    """Those of the folder itself, or the one."""
    _below: list[Listed] = field(default_factory=list)
    """Those of the folder and of all below it, once they were asked for."""

    def __str__(self) -> str:
        return self.single or self.address

    @property
    def is_remote(self) -> bool:
        return True

    @property
    def is_file(self) -> bool:
        return bool(self.single)

    @property
    def root(self) -> str:
        return self.address

    def has(self, name: str) -> bool:
        names = self.below().names if "/" in name else self.files.names
        return bool(pc.any(pc.equal(names, name)).as_py())

    def top(self) -> list[str]:
        names: list[str] = self.files.names.to_pylist()
        return names

    def tree(self, suffixes: tuple[str, ...]) -> list[str]:
        """Names of the files with one of these suffixes in the folder and all below it, sorted."""
        names: list[str] = with_suffix(self.below().names, suffixes).to_pylist()
        return names

    def closed(self) -> list[OSError]:
        return []  # what is not shown is not listed

    def ref(self, name: str) -> str:
        return self.single if self.single and name == self.path.name else f"{self.address}/{name}"

    def below(self) -> Listed:
        """List the files of the folder and of all below it, once."""
        if not self._below:
            found = self.files if self.single else list_objects(self.address, deep=True)
            self._below.append(found)
            remember(f"{self.address}/", found)
        return self._below[0]

    def media(self) -> pa.Array:
        """References of the media in the folder and in all below it, sorted."""
        return join_folder(self.address, with_suffix(self.below().names, IMAGE_SUFFIXES + VIDEO_SUFFIXES))

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="finetrainers-", dir=_existing(copies_folder())) as folder:
            copied = Path(folder) / name
            try:
                with blob_of(self.ref(name)).open() as source, copied.open("wb") as out:
                    shutil.copyfileobj(source, out, 1 << 20)
                yield copied
            except OSError as error:
                raise DataError(f"{self.ref(name)}: cannot be read: {error.strerror or error}") from error
            except DataError as error:  # names the copy
                raise DataError(str(error).replace(str(copied), self.ref(name))) from error


def _existing(folder: Path | None) -> Path | None:
    return folder if folder is not None and folder.is_dir() else None


def with_suffix(names: pa.Array, suffixes: tuple[str, ...]) -> pa.Array:
    """Choose of names those that end in one of these suffixes, in capitals too."""
    pattern = "|".join(suffix.replace(".", r"\.") for suffix in suffixes)
    return names.filter(pc.match_substring_regex(names, f"({pattern})$", ignore_case=True))


def find_remote_place(address: str, *, key: str = "data.path") -> RemotePlace:
    """Find what an address names, a folder or a file.

    Raises:
        DataError: If there is no such thing, or if it is not shown to us.
    """
    address = address if address.partition("://")[0] in WEB else address.rstrip("/")
    try:
        if is_pattern(address.partition("?")[0]):
            return _chosen_files(address, key)
        if address.partition("://")[0] in WEB:
            return _web_file(address, key)
        found = _listed_or_none(address)
        if found is not None:
            remember(f"{address}/", found)
            return RemotePlace(NOWHERE / address.rpartition("/")[2], address=address, files=found)
        return _file(address, address)
    except FileNotFoundError:
        raise DataError(f"{key}: there is no file or folder {address!r}{_nearest(address)}") from None
    except OSError as error:
        raise DataError(f"{key}: {address}: cannot be read: {error.strerror or error}") from error


def _listed_or_none(address: str) -> Listed | None:
    """List a folder; None if nothing is in it, or if it is a file."""
    try:
        found = list_objects(address, deep=False)
    except (FileNotFoundError, NotADirectoryError):
        return None
    names = [
        name.lstrip("/") for name in found.names.slice(0, 2).to_pylist()
    ]  # a file is listed as all or a part of its path
    is_itself = len(names) == 1 and not found.folders and f"/{address}".endswith(f"/{names[0]}")
    return None if is_itself or not (len(found) or found.folders) else found


def _chosen_files(pattern: str, key: str) -> RemotePlace:
    """Find the files of a pattern: braces are written out, and what ``*`` stands for is listed."""
    found: list[tuple[str, Facts]] = []
    for address in expand_braces(pattern):
        folder, _, name = address.rpartition("/")
        if not glob.has_magic(address):
            found.append((address, ask(address)))
            continue
        if glob.has_magic(folder) or folder.partition("://")[0] in WEB:
            raise DataError(f"{key}: {pattern!r}: * can stand in names of files in a folder that can be listed; use {{a,b}}")
        there = list_objects(folder, deep=False)
        matches = [(f"{folder}/{own}", facts) for own, facts in there.items() if fnmatch.fnmatchcase(own, name)]
        found += matches
        if not matches:
            raise DataError(f"{key}: there is no file {address} of the pattern {pattern!r}")
    folder = _common_folder([address for address, _ in found])
    files = listed((address.removeprefix(f"{folder}/"), facts) for address, facts in found)
    remember(f"{folder}/", files)
    return RemotePlace(NOWHERE / pattern.rpartition("/")[2], address=folder, files=files, _below=[files])


def _common_folder(addresses: Sequence[str]) -> str:
    """Address of the folder that all are in, or below."""
    folders = [address.split("/")[:-1] for address in addresses]
    shared = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*folders, strict=False))
    return "/".join(parts[0] for parts in shared)


def _web_file(address: str, key: str) -> RemotePlace:
    name = RemoteFile(address).name
    if address.endswith("/") or "." not in name:
        raise DataError(
            f"{key}: {address}: folders of web servers cannot be listed; name a metadata file or a shard there, such as "
            f"{address.rstrip('/')}/metadata.jsonl"
        )
    return _file(address, address.partition("?")[0])


def _file(address: str, plain: str) -> RemotePlace:
    folder = plain.rpartition("/")[0]
    name, facts = RemoteFile(address).name, ask(address)
    remember(address, listed([("", facts)]))
    return RemotePlace(NOWHERE / name, address=folder, single=address, files=listed([(name, facts)]))


def _nearest(address: str) -> str:
    """Say what may have been meant by an address at which there is nothing."""
    folder, _, name = address.rpartition("/")
    if folder.endswith("/") or address.partition("://")[0] in WEB:
        return ""
    try:
        found = list_objects(folder, deep=False)
    except OSError:
        return f"; nothing can be listed in {folder} either"
    close = difflib.get_close_matches(name, [*found.folders, *found.names.to_pylist()], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
