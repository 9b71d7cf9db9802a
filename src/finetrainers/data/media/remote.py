"""Objects of other machines (``s3://``, ``gs://``, ``hf://``, ``https://`` ...), read through fsspec.

A medium is copied to the disk whole, and read there. Large archives and tables are read in blocks, where the server can.
"""

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from finetrainers.compat.packages import install_extra
from finetrainers.data.media.blob import Blob, register_scheme
from finetrainers.data.media.remote_disk import Disk
from finetrainers.data.media.remote_facts import Facts, facts_of, recall
from finetrainers.data.media.remote_retry import IncompleteError, patiently
from finetrainers.errors import DataError

WEB = ("http", "https")
"""Schemes whose folders cannot be listed."""
SCHEMES = ("s3", "s3a", "gs", "gcs", "hf", *WEB, "abfs", "abfss", "az", "sftp", "ssh", "ftp", "hdfs", "webhdfs", "memory")
HUB = "hf://"
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "http": "https", "https": "https"}
"""Extra of this package that installs what reads a scheme."""
CONTAINERS = (".tar", ".parquet", ".arrow", ".feather")
"""Suffixes of what holds many media, and is read here and there."""
WHOLE_BYTES = 64 << 20
"""Up to this size such a file is copied whole too."""
BLOCK_BYTES = 4 << 20
CONNECT_SECONDS, READ_SECONDS = 20, 60
"""How long a server may take to answer, and to send the next bytes."""
CONNECTIONS = 32
"""To one server at once."""

FileSystem = Any  # fsspec's; it has no type information


def is_remote(ref: str) -> bool:
    """Whether a path or a reference names something of another machine."""
    scheme, separator, _ = ref.partition("://")
    return bool(separator) and scheme in SCHEMES


@dataclass(frozen=True, slots=True)
class RemoteFile(Blob):
    """An object: its reference is its address."""

    @property
    def name(self) -> str:
        if self.ref.partition(":")[0] in WEB:  # without what follows a question mark
            return PurePosixPath(unquote(urlsplit(self.ref).path)).name
        return PurePosixPath(self.ref).name

    def stamp(self) -> str:
        return self.facts().stamp

    def facts(self) -> Facts:
        """Tell its size and stamp, as they were listed, or else by asking the server.

        Raises:
            OSError: If there is no such object, or if it is not shown to us.
            StorageError: If the server does not answer.
        """
        return recall(self.ref) or ask(self.ref)

    def open(self) -> BinaryIO:
        facts = self.facts()
        if self.suffix in CONTAINERS and facts.size > WHOLE_BYTES and _has_ranges(self.ref, facts):
            return io.BufferedReader(_Blocks(self.ref, facts), 1 << 17)
        return _disk.open(f"{self.ref} {facts.stamp}", lambda file: copy(self.ref, file, size=facts.size))


def ask(ref: str) -> Facts:
    """Ask a server for the size and stamp of one object.

    Raises:
        OSError: If there is no such object, or if it is not shown to us.
        StorageError: If the server does not answer.
    """
    system, path = system_of(ref)
    info = patiently(ref, lambda: system.info(path))
    if info["type"] != "file":
        raise IsADirectoryError(21, "it is a folder, not a file", ref)
    return facts_of(info)


def copy(ref: str, file: Path, *, size: int = -1) -> None:
    """Copy an object into a file; fewer bytes, or more, than its ``size`` are a failure that may pass."""
    system, path = system_of(ref)

    def once() -> None:
        system.get_file(path, str(file))
        found = file.stat().st_size
        if size not in (-1, found):
            raise IncompleteError(f"{found} bytes came, not {size}, which were announced")

    patiently(ref, once)


def read(ref: str, *, size: int = -1) -> bytes:
    """Read a small object whole."""
    system, path = system_of(ref)

    def once() -> bytes:
        data: bytes = system.cat_file(path)
        if size not in (-1, len(data)):
            raise IncompleteError(f"{len(data)} bytes came, not {size}, which were announced")
        return data

    return patiently(ref, once)


def read_range(ref: str, start: int, end: int, *, size: int) -> bytes:
    """Read the bytes ``start`` .. ``end`` of an object of this size.

    Raises:
        ValueError: If the server can send whole objects only.
    """
    system, path = system_of(ref)

    def once() -> bytes:
        if ref.partition(":")[0] in WEB:  # cat_file would take a whole object for a part
            with system.open(path, "rb", block_size=end - start, cache_type="none", size=size) as file:
                file.seek(start)
                data: bytes = file.read(end - start)
        else:
            data = system.cat_file(path, start=start, end=end)
        if len(data) != end - start:
            raise IncompleteError(f"{len(data)} bytes came of the {end - start} from byte {start} on")
        return data

    return patiently(ref, once)


def _has_ranges(ref: str, facts: Facts) -> bool:
    """Whether a server sends parts of an object; each is asked once."""
    key = f"{ref} {facts.stamp}"
    if key not in _ranges:
        try:
            read_range(ref, 1, 2, size=facts.size)
            _ranges[key] = True
        except ValueError:
            _ranges[key] = False
    return _ranges[key]


_ranges: dict[str, bool] = {}


class _Blocks(io.RawIOBase):
    """A large object as a file, of which each block is fetched when it is first read, and kept on the disk."""

    def __init__(self, ref: str, facts: Facts) -> None:
        super().__init__()
        self._ref, self._facts, self._position = ref, facts, 0
        self._number, self._block = -1, b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._facts.size}[whence]
        if start + offset < 0:
            raise ValueError(f"cannot seek to {start + offset}, before the start")
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's buffer cannot be sliced
        if self._position >= self._facts.size:
            return 0
        number, first = divmod(self._position, BLOCK_BYTES)
        if number != self._number:
            self._number, self._block = number, self._fetch(number)
        part = self._block[first : first + len(buffer)]
        buffer[: len(part)] = part
        self._position += len(part)
        return len(part)

    def _fetch(self, number: int) -> bytes:
        start = number * BLOCK_BYTES
        end = min(start + BLOCK_BYTES, self._facts.size)

        def fetch(file: Path) -> None:
            file.write_bytes(read_range(self._ref, start, end, size=self._facts.size))

        with _disk.open(f"{self._ref} {self._facts.stamp} {start} {BLOCK_BYTES}", fetch) as file:
            return file.read()


_disk = Disk(None)


def keep_copies(folder: Path | None, limit: int) -> None:
    """Have this process keep copies of objects in a folder, of ``limit`` bytes at most; None keeps none."""
    global _disk  # noqa: PLW0603 - references are text, and lead to no object that could hold it
    _disk = Disk(folder, limit)


def copies_folder() -> Path | None:
    """Folder of the copies; None if none are kept."""
    return _disk.folder


def system_of(ref: str) -> tuple[FileSystem, str]:
    """Return the file system of an object, one for each process, and the object's path there.

    Raises:
        DataError: If what reads such references is not installed.
    """
    import fsspec

    scheme = ref.partition(":")[0]
    try:
        kind = fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        extra = EXTRAS.get(scheme)
        way_out = install_extra(extra) if extra else "install it"
        raise DataError(f"{ref}: what reads {scheme}:// is not installed ({error}); {way_out}") from error
    options = {**_options(scheme), **kind._get_kwargs_from_urls(ref)}
    key = (os.getpid(), scheme, repr(sorted(options.items(), key=lambda item: item[0])))
    system = _systems.get(key)
    if system is None:
        system = kind(**options)
        if scheme in ("s3", "s3a"):
            system.retries = 1  # it is tried again here, and told
        if kind.async_impl:  # others are made anew for each thread, by fsspec
            _systems[key] = system
    return system, kind._strip_protocol(ref)


_systems: dict[tuple[int, str, str], FileSystem] = {}


def _options(scheme: str) -> Mapping[str, Any]:
    """Time limits, and no second layer of repetition and of remembered listings."""
    from fsspec.config import conf

    if scheme in ("s3", "s3a"):
        limits = {"connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS, "max_pool_connections": CONNECTIONS}
        given = conf.get(scheme, {}).get("config_kwargs", {})
        return {"use_listings_cache": False, "config_kwargs": {**limits, "retries": {"max_attempts": 0}, **given}}
    if scheme in WEB:
        import aiohttp

        limit = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS)
        given = conf.get(scheme, {}).get("client_kwargs", {})
        return {"use_listings_cache": False, "client_kwargs": {"timeout": limit, "trust_env": True, **given}}
    return {} if scheme == "memory" else {"use_listings_cache": False}


for _scheme in SCHEMES:
    register_scheme(_scheme, RemoteFile)
