"""A server of the web interface over a few small runs."""

from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from ui_runs import write_run

from finetrainers.ui.app import make_app
from finetrainers.ui.folders import Folders
from finetrainers.ui.guard import Access

HOME = "http://127.0.0.1:7865"
Connect = Callable[..., TestClient]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder of runs: one, and what is not a run."""
    folder = (tmp_path / "runs").resolve()
    write_run(folder / "crush", samples=2)
    (tmp_path / "secret.txt").write_text("secret")
    return folder


@pytest.fixture
def connect(runs: Path, tmp_path: Path) -> Connect:
    """Make a client of a server of the folder of runs; it starts nothing by itself."""
    data = (tmp_path / "data").resolve()
    data.mkdir(exist_ok=True)

    def connect(access: Access | None = None, *, origin: str | None = HOME, **headers: str) -> TestClient:
        app = make_app(Folders((runs,), (data,)), access, devices=["cpu"], starts_runs=False)
        own = {} if origin is None else {"origin": origin}
        return TestClient(app, base_url=HOME, headers={**own, **headers}, follow_redirects=False)

    return connect


@pytest.fixture
def client(connect: Connect) -> TestClient:
    """A browser that has opened a page of this server."""
    return connect()
