"""``finetrainers ui``: where it listens, and whom it asks for a token."""

import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from finetrainers.cli.entry import main


@contextmanager
def served(folder: Path, *options: str) -> Iterator[str]:
    """Start the command; yield the address that it prints."""
    command = [sys.executable, "-m", "finetrainers", "ui", "runs", "--port", "0", "--device", "cpu", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder) as server:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=20)


def status(address: str) -> int:
    try:
        with urllib.request.build_opener(urllib.request.HTTPCookieProcessor()).open(address, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_an_address_that_others_reach_asks_for_the_token_that_is_printed(tmp_path: Path) -> None:
    with served(tmp_path, "--host", "0.0.0.0") as address:
        home, _, token = address.partition("?token=")
        assert len(token) >= 40
        here = home.replace("0.0.0.0", "127.0.0.1")
        assert status(here) == 401
        assert status(f"{here}?token={token[:-1]}") == 401
        assert status(f"{here}?token={token}") == 200
    assert not list((tmp_path / "runs").glob("**/*token*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "nowhere"], "ui: nowhere is not a folder; name one that is there"),
        (["--device", "cuda:1", "--device", "gpu:0"], "ui: --device gpu:0 names none; give cpu, cuda:1"),
        (["--host", "192.0.2.1"], "ui: --host 192.0.2.1 --port 7865 cannot be listened at"),
    ],
)
def test_what_cannot_be_served_is_said(options: list[str], message: str, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["ui", *options]) == 2
    assert message in capsys.readouterr().err


def test_all_files_that_pages_name_are_part_of_the_package() -> None:
    """No page loads anything from elsewhere."""
    folder = Path(__file__).parents[2] / "src/finetrainers/ui"
    templates = "".join(file.read_text() for file in (folder / "templates").iterdir())
    names = [part.partition('"')[0] for part in templates.split('="/static/')[1:]]
    assert {"htmx.min.js", "uplot.min.js", "ui.js", "ui.css"} <= set(names)
    assert all((folder / "static" / name).is_file() for name in names)
    assert "http:" not in templates
    assert "https:" not in templates
    assert (folder / "static/htmx.LICENSE").stat().st_size > 100
    assert (folder / "static/uplot.LICENSE").stat().st_size > 100
