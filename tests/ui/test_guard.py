"""Who is answered: requests that leave the folders, carry no token or come from elsewhere are refused."""

import re
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from ui_runs import write_run

from finetrainers.ui.guard import Access, new_token

PAGES = ("/", "/new", "/run?run=0/crush", "/run/curves?run=0/crush", "/compare?run=0/crush", "/static/ui.css")


@pytest.mark.parametrize("path", PAGES)
def test_each_page_is_answered_without_inline_code(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    if answer.headers["content-type"].startswith("text/html"):
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon\w+=\"|javascript:", answer.text)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7865", "127.0.0.1.evil.example", "[::2]", "", "a:b:c"])
def test_other_host_names_are_refused(connect, host: str) -> None:
    """A page elsewhere that lets its own name lead here (DNS rebinding) is not read."""
    assert connect(host=host).get("/").status_code == 421


@pytest.mark.parametrize("host", ["localhost:7865", "127.0.0.1:9", "[::1]:7865"])
def test_all_names_of_this_machine_are_answered(connect, host: str) -> None:
    assert connect(origin=None, host=host).get("/").status_code == 200


@pytest.mark.parametrize("host", ["gpu-box.example", "GPU-Box.Example:7865"])
def test_capitals_of_a_name_do_not_count(connect, host: str) -> None:
    assert connect(Access(names=("GPU-box.example",)), origin=None, host=host).get("/").status_code == 200


@pytest.mark.parametrize("path", ["/new", "/run/stop", "/run/go_on", "/queue/cancel", "/new/ask/data"])
@pytest.mark.parametrize("origin", ["http://evil.example", "https://127.0.0.1:7866", "null", None])
def test_posts_of_other_origins_are_refused(connect, runs: Path, path: str, origin: str | None) -> None:
    answer = connect(origin=origin).post(path, data={"run": "0/crush"})
    assert answer.status_code == 403
    assert not list((runs / ".finetrainers-ui" / "jobs").iterdir())


def test_what_another_site_embeds_is_refused(connect) -> None:
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
    assert connect(origin=None, **headers).get("/run/curves?run=0/crush").status_code == 403


def test_a_token_is_needed_where_there_is_one(connect) -> None:
    token = new_token()
    access = Access(address="192.0.2.7", token=token)
    host = {"host": "192.0.2.7:7865", "origin": None}
    for headers in ({}, {"authorization": "Bearer wrong"}, {"cookie": f"finetrainers-token-7865={token[:-1]}"}):
        for path in (*PAGES, "/run/stream?run=0/crush"):
            assert connect(access, **host, **headers).get(path).status_code == 401
    cookie = {"cookie": f"finetrainers-token-7865={token}"}
    behind_a_proxy = {"authorization": "Basic bWU6c2VjcmV0", **cookie}
    for headers in ({"authorization": f"Bearer {token}"}, cookie, behind_a_proxy):
        assert connect(access, **host, **headers).get("/").status_code == 200


def test_the_token_moves_from_the_address_into_a_cookie_that_no_script_reads(connect) -> None:
    token = new_token()
    answer = connect(Access(token=token), origin=None).get(f"/run?run=0/crush&token={token}")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/run?run=0%2Fcrush"
    assert {"HttpOnly", "SameSite=strict"} <= set(answer.headers["set-cookie"].split("; "))


def test_a_token_in_the_address_leads_to_no_other_server(connect) -> None:
    token = new_token()
    answer = connect(Access(token=token), origin=None).get(f"http://127.0.0.1:7865//evil.example/?token={token}")
    assert not answer.headers["location"].startswith(("//", "http"))


@pytest.mark.parametrize(
    "name",
    [
        "0/../secret.txt", "0/..", "0//etc", "1/crush", "-1/crush", "0/", "crush", "0/.finetrainers-ui", "0/crush/../..",
        "0/link", "0/.hidden", "0/.hidden/.",
    ],
)  # fmt: skip
def test_no_run_outside_the_folders_is_shown(client: TestClient, runs: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    for file in ("config.yaml", "events.jsonl", ".finetrainers"):
        (tmp_path / "elsewhere" / file).write_text((runs / "crush" / file).read_text())
    (runs / "link").symlink_to(tmp_path / "elsewhere")
    write_run(runs / ".hidden")
    for page in ("/run", "/run/curves", "/run/samples", "/run/log", "/run/status", "/compare"):
        assert client.get(page, params={"run": name}).status_code == 404


@pytest.mark.parametrize(
    "file",
    [
        "../../secret.txt", "validation/../../../secret.txt", "/etc/passwd", "validation/step-000010/link.png",
        "config.yaml",
        "events.jsonl", ".lock", "validation/step-000010/validation.json", "weights/link/secret.txt", "weights", "",
        "validation/step-000010/00.png\0", "logs/rank-1.log",
    ],
)  # fmt: skip
def test_no_file_but_samples_and_weights_is_given(client: TestClient, runs: Path, tmp_path: Path, file: str) -> None:
    (runs / "crush" / "validation" / "step-000010" / "link.png").symlink_to(tmp_path / "secret.txt")
    (runs / "crush" / "weights").mkdir()
    (runs / "crush" / "weights" / "link").symlink_to(tmp_path)
    answer = client.get("/run/file", params={"run": "0/crush", "file": file})
    assert answer.status_code == 404
    assert answer.text.count("secret") == answer.text.count("secret.txt")


def test_samples_are_shown_and_weights_are_taken_away(client: TestClient, runs: Path) -> None:
    folder = runs / "crush" / "weights" / "step-000100"
    folder.mkdir(parents=True)
    (folder / "lora.safetensors").write_bytes(b"weights")
    sample = client.get("/run/file", params={"run": "0/crush", "file": "validation/step-000010/00.png"})
    assert sample.headers["content-type"] == "image/png"
    assert 'inline; filename="crush-step000010-00-' in sample.headers["content-disposition"]
    weights = client.get("/run/file", params={"run": "0/crush", "file": "weights/step-000100/lora.safetensors"})
    assert weights.content == b"weights"
    assert "crush-step-000100-lora.safetensors" in weights.headers["content-disposition"]


def test_what_runs_say_is_shown_as_text(client: TestClient) -> None:
    page = client.get("/run?run=0/crush").text
    assert "a &lt;b&gt;bold&lt;/b&gt; warning" in page
    assert "<b>bold" not in page
