"""Servers on this machine: S3 by moto, and a web server that misbehaves as it is told."""

import logging
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote


@dataclass
class Behaviour:
    """What a web server does to requests of one path; the counts go down to zero, and then it behaves."""

    refuse: int = 0
    """Requests that get ``status``."""
    status: int = 503
    cut: int = 0
    """Requests whose connection is closed after half of the bytes."""
    seconds: float = 0.0
    """Before each answer."""
    has_ranges: bool = True
    extra_length: int = 0
    """Bytes that are announced, and never come."""
    etag: str | None = None
    """Instead of one that follows from the contents."""
    tells_version: bool = True
    headers: dict[str, str] = field(default_factory=dict)
    """Sent beside the others, with any status."""


@dataclass
class Web:
    """A web server, its files by path, and the requests that it got."""

    files: dict[str, bytes] = field(default_factory=dict)
    behaviours: dict[str, Behaviour] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    """Method and path."""
    address: str = ""
    now: int = 0
    most_at_once: int = 0
    """Requests that were answered at the same time, at most."""
    lock: Any = field(default_factory=threading.Lock)

    def put(self, name: str, data: bytes, **behaviour: object) -> str:
        """Serve a file, and return its address."""
        self.files[f"/{name}"] = data
        self.behaviours[f"/{name}"] = Behaviour(**behaviour)
        return f"{self.address}/{name}"

    def count(self, method: str) -> Counter[str]:
        return Counter(path for how, path in self.requests if how == method)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "_Server"

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        web, path = self.server.web, unquote(self.path.partition("?")[0])
        web.requests.append((self.command, path))
        data, how = web.files.get(path), web.behaviours.get(path, Behaviour())
        with web.lock:
            web.now += 1
            web.most_at_once = max(web.most_at_once, web.now)
        time.sleep(how.seconds)
        with web.lock:
            web.now -= 1
        if data is None or how.refuse:
            how.refuse = max(0, how.refuse - 1)
            self._send(404 if data is None else how.status, b"", how.headers, Behaviour(), body=False)
            return
        headers, status = {"ETag": f'"{how.etag or hash(data)}"'} if how.tells_version else {}, 200
        headers |= how.headers
        wanted = self.headers.get("Range")
        if wanted and how.has_ranges:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            part = data[int(first) : int(last) + 1 if last else None]
            headers["Content-Range"] = f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"
            data, status = part, 206
        self._send(status, data, headers, how, body=body)

    def _send(self, status: int, data: bytes, headers: dict[str, str], how: Behaviour, *, body: bool) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data) + how.extra_length))
        self.end_headers()
        is_cut = body and how.cut > 0
        if body:
            how.cut = max(0, how.cut - 1)
            self.wfile.write(data[: len(data) // 2] if is_cut else data)
        self.close_connection = self.close_connection or is_cut or bool(how.extra_length)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, web: Web) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.web = web


@contextmanager
def web_server() -> Iterator[Web]:
    web = Web()
    server = _Server(web)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    web.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield web
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class S3Requests(logging.Handler):
    """The requests that moto's server got, as its log tells them: method and path without what follows."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        found = re.search(r'"([A-Z]+) (\S+) HTTP', record.getMessage())
        if found:
            self.all.append((found[1], found[2].partition("?")[0]))

    def gets(self) -> list[str]:
        """Paths of objects that were read; a listing has the path of its bucket."""
        return [path for method, path in self.all if method == "GET" and path.count("/") > 1]


@dataclass
class Bucket:
    """A bucket of a local S3 server, and the requests that the server got."""

    name: str
    client: Any
    requests: S3Requests

    @property
    def address(self) -> str:
        return f"s3://{self.name}"

    def put(self, name: str, data: bytes) -> str:
        self.client.put_object(Bucket=self.name, Key=name, Body=data)
        return f"{self.address}/{name}"

    def put_folder(self, folder: Path, to: str) -> str:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                self.put(f"{to}/{file.relative_to(folder)}", file.read_bytes())
        return f"{self.address}/{to}"


@contextmanager
def s3_server() -> Iterator[tuple[str, S3Requests]]:
    """Start moto's server, and have this process's environment lead to it; yields its address, and its requests."""
    from moto.server import ThreadedMotoServer

    requests, log = S3Requests(), logging.getLogger("werkzeug")
    log.addHandler(requests)
    log.setLevel(logging.INFO)
    log.propagate = False
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    given = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        yield given["AWS_ENDPOINT_URL"], requests
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        server.stop()
        log.removeHandler(requests)
        log.propagate = True
