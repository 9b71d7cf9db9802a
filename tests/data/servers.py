"""Servers on this machine: S3 by moto, and a web server that misbehaves as it is told."""

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


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


@dataclass
class Web:
    """A web server, its files by path, and the requests that it got."""

    files: dict[str, bytes] = field(default_factory=dict)
    behaviours: dict[str, Behaviour] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    """Method and path."""
    address: str = ""

    def put(self, name: str, data: bytes, **behaviour: object) -> str:
        """Serve a file, and return its address."""
        self.files[f"/{name}"] = data
        self.behaviours[f"/{name}"] = Behaviour(**behaviour)
        return f"{self.address}/{name}"

    def count(self, method: str) -> Counter[str]:
        return Counter(path for how, path in self.requests if how == method)


@contextmanager
def web_server() -> Iterator[Web]:
    web = Web()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            path = self.path.partition("?")[0]
            web.requests.append((self.command, path))
            data, how = web.files.get(path), web.behaviours.get(path, Behaviour())
            time.sleep(how.seconds)
            if data is None or how.refuse:
                how.refuse = max(0, how.refuse - 1)
                self._send(404 if data is None else how.status, b"", {})
                return
            headers = {}
            if how.tells_version:
                headers["ETag"] = f'"{how.etag or hash(data)}"'
            wanted, status = self.headers.get("Range"), 200
            if wanted and how.has_ranges:
                first, _, last = wanted.removeprefix("bytes=").partition("-")
                part = data[int(first) : int(last) + 1 if last else None]
                headers["Content-Range"] = f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"
                data, status = part, 206
            self._send(status, data, headers, how=how, body=body)

        def _send(self, status: int, data: bytes, headers: dict[str, str], how=None, body=True) -> None:
            how = how or Behaviour()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data) + how.extra_length))
            self.end_headers()
            is_cut = body and how.cut > 0
            if body:
                how.cut = max(0, how.cut - 1)
                self.wfile.write(data[: len(data) // 2] if is_cut else data)
            self.close_connection = is_cut or bool(how.extra_length)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    web.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield web
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class Bucket:
    """A bucket of a local S3 server, and the requests that the server got."""

    name: str
    client: object
    requests: list[tuple[str, str]] = field(default_factory=list)

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
def s3_server() -> Iterator[str]:
    """Start moto's server, and have this process's environment lead to it; yields its address."""
    from moto.server import ThreadedMotoServer

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
        yield given["AWS_ENDPOINT_URL"]
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        server.stop()
