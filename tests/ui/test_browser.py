"""The web interface in a real browser, with real runs of a tiny model."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from runs import write_pictures
from ui_runs import append_step, write_run

from finetrainers.testing import make_tiny

pytestmark = pytest.mark.browser
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
ARGUMENTS = ["--no-sandbox", "--disable-quic", "--disable-background-networking"]
PATIENCE_MS = 60_000
"""For what waits for a process to import torch; all else is quick."""


class Server:
    """``finetrainers ui`` in a process of its own, on one port for as often as it is started."""

    def __init__(self, runs: Path, data: Path) -> None:
        self.runs, self.data = runs, data
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.port = listening.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> "Server":
        words = ["ui", str(self.runs), "--data", str(self.data), "--port", str(self.port), "--device", "cpu"]
        command = [sys.executable, "-m", "finetrainers", *words]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=self.runs)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == f"{self.address}/\n"  # without a token: nobody else reaches it
        return self

    def kill(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not Path(CHROMIUM).exists():
        pytest.skip(f"there is no {CHROMIUM}: install chromium, or name one as CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_tiny("flux", folder / "model")
    write_pictures(folder / "pictures", 8)
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Iterator[Server]:
    yield from served(tmp_path_factory.mktemp("shared"), data)


@pytest.fixture
def own_server(tmp_path: Path, data: Path) -> Iterator[Server]:
    yield from served(tmp_path, data)


def served(folder: Path, data: Path) -> Iterator[Server]:
    (folder / "runs").mkdir()
    server = Server(folder / "runs", data).start()
    yield server
    server.kill()
    for file in (folder / "runs" / ".finetrainers-ui").rglob("process.json"):  # a run outlives its server
        pid = int(re.findall(r'"pid": (\d+)', file.read_text())[0])
        if not (file.parent / "exit.json").exists() and Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    yield from opened(browser)


def opened(browser: Browser, **settings: object) -> Iterator[Page]:
    """A page of which no script fails, and nothing is refused by its policy."""
    context = browser.new_context(**settings)  # type: ignore[arg-type]
    page, failed = context.new_page(), []
    page.set_default_timeout(15_000)
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.on("console", lambda message: failed.append(message.text) if "Content Security Policy" in message.text else None)
    yield page
    context.close()
    assert failed == []


def fill(page: Page, server: Server, **changes: str) -> None:
    """Fill the form with a run of the tiny model, folded fields included."""
    own = {
        "output_dir": "style",
        "model.path": str(server.data / "model"),
        "model.dtype": "float32",
        "model.max_sequence_length": "16",
        "data.0.path": str(server.data / "pictures"),
        "data.0.buckets": "[[1, 64, 64]]",
        "tuning.rank:lora": "4",
        "train.steps": "100000",
        "loader.workers": "0",
        "validation.held_out": "0.25",
        "prompts": "a fox",
        **{name.replace("__", "."): value for name, value in changes.items()},
    }
    page.evaluate("() => document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    for name, value in own.items():
        field = page.locator(f'[name="{name}"]')
        field.select_option(value) if name == "model.dtype" else field.fill(value)


def points(page: Page) -> int:
    return int(page.locator(".charts").get_attribute("data-points") or 0)


def wait_for_more(page: Page, than: int) -> None:
    page.wait_for_function(
        "(than) => Number(document.querySelector('.charts')?.dataset.points) > than", arg=than, timeout=PATIENCE_MS
    )


def test_a_run_is_created_watched_saved_stopped_and_gone_on_with_by_two_browsers_and_over_a_killed_server(
    own_server: Server, browser: Browser, page: Page
) -> None:
    server = own_server
    page.goto(f"{server.address}/new")
    fill(page, server, train__steps="many")
    wrong = page.locator('[id="e-train.steps"]')
    expect(wrong).to_contain_text("integer")
    page.locator("#create").click()  # the server says the same, on a page that keeps what was typed
    expect(wrong).to_contain_text("integer")
    expect(page.locator('[name="train.steps"]')).to_be_focused()
    expect(page.locator('[name="output_dir"]')).to_have_value("style")
    page.locator('[name="train.steps"]').fill("100000")
    expect(page.locator("#verdict")).to_have_text("Ready to start")
    expect(page.locator("#as-yaml")).to_contain_text("steps: 100000")
    page.locator("#create").click()

    page.locator("#open-run").click(timeout=PATIENCE_MS)
    wait_for_more(page, 0)
    expect(page.locator('.chart[data-key="loss"] canvas')).to_be_visible()
    expect(page.locator('.chart[data-key="held_out"] figcaption')).to_contain_text("by noise level")
    expect(page.locator(".samples img")).to_have_count(1)
    assert page.locator(".samples img").evaluate("(img) => img.decode().then(() => img.naturalWidth)") == 64

    run = server.runs / "style"
    page.locator("#save").click()
    expect(page.locator("#weights")).to_contain_text("style-step0")
    for name, saved_as in (
        (re.compile(r"style-step\d+\.safetensors"), "style-step"),
        ("Report of the run", "style-report.html"),
    ):
        with page.expect_download() as download:
            page.get_by_role("link", name=name).first.click()
        assert download.value.suggested_filename.startswith(saved_as)

    server.kill()
    size = (run / "events.jsonl").stat().st_size
    expect(page.locator("#lost")).to_be_visible()
    server.start()
    expect(page.locator("#lost")).to_be_hidden()
    assert (run / "events.jsonl").stat().st_size > size  # the run went on meanwhile
    wait_for_more(page, points(page))

    for other in opened(browser):
        other.goto(f"{server.address}/run?run=0/style")
        other.locator("#stop").click()
        expect(other.locator("#state")).to_have_text("stopped", timeout=PATIENCE_MS)
        expect(page.locator("#state")).to_have_text("stopped")  # in the browser that did nothing, too
        before = points(page)
        other.locator("#go-on").click()
        page.evaluate(GO_ON)
    expect(page.locator("#state")).to_have_text("running", timeout=PATIENCE_MS)
    wait_for_more(page, before)
    assert sum(1 for _ in (server.runs / ".finetrainers-ui" / "jobs").iterdir()) == 2  # once for both browsers
    page.locator("#stop").click()
    expect(page.locator("#state")).to_have_text("stopped", timeout=PATIENCE_MS)


@pytest.mark.core
def test_what_is_wrong_is_said_beside_its_field_and_no_plan_is_made_of_it(server: Server, page: Page) -> None:
    page.goto(f"{server.address}/new")
    fill(page, server, output_dir="planned", train__steps="many")
    wrong, answer = page.locator('[id="e-train.steps"]'), page.locator("#answer-plan")
    expect(wrong).to_contain_text("integer")
    page.locator("#ask-plan").click()  # nothing is planned of it
    expect(answer.get_by_role("alert")).to_contain_text("train.steps")
    page.locator('[name="train.steps"]').fill("120")
    expect(wrong).to_be_empty()
    page.locator("#gpu").fill("no card!")
    page.locator("#ask-plan").click()
    expect(answer.get_by_role("alert")).to_contain_text("'no card!' names none")
    assert not list(server.runs.rglob("plan-*"))


def test_a_plan_is_shown_of_what_is_in_the_form(server: Server, page: Page) -> None:
    page.goto(f"{server.address}/new")
    fill(page, server, output_dir="planned")
    expect(page.locator("#verdict")).to_have_text("Ready to start")
    answer = page.locator("#answer-plan")
    page.locator("#ask-plan").click()
    expect(answer.locator("table.plan")).to_be_visible(timeout=5 * PATIENCE_MS)  # it imports torch, and counts encoders, too
    stages = answer.locator("table.plan tbody th").all_inner_texts()
    assert {text.partition("\n")[0].strip() for text in stages} >= {"encode text", "load", "step", "save"}
    sizes = answer.locator("table.plan tbody td").all_inner_texts()
    assert len(sizes) == 2 * len(stages)
    assert all(re.fullmatch(r"[\d.]+ (bytes|[KMG]B)|–", size.strip()) for size in sizes), sizes
    expect(answer.locator("dl.tree")).to_contain_text("checkpoints")
    assert not (server.runs / "planned").exists()  # nothing is begun


def test_a_hundred_runs_and_a_hundred_thousand_steps_do_not_lag(server: Server, page: Page) -> None:
    for number in range(100):
        write_run(server.runs / f"run-{number:03d}", steps=100_000 if number == 0 else 20, total=200_000)
    page.goto(server.address)
    expect(page.get_by_role("link", name="run-0")).to_have_count(100)
    begun = time.monotonic()
    page.locator("[name=q]").fill("run-09")
    expect(page.locator("#rows tr")).to_have_count(10)
    assert time.monotonic() - begun < 2
    page.goto(f"{server.address}/run?run=0/run-000")
    wait_for_more(page, 0)
    assert points(page) <= 800
    append_step(server.runs / "run-000", 100_001, 0.5)
    page.wait_for_function("() => document.querySelector('.chart[data-key=loss] output').textContent === '0.5'")
    longest = page.evaluate(
        """() => new Promise((done) => {
            let last = performance.now(), longest = 0, left = 60;
            const smooth = document.getElementById("smooth");
            const frame = () => {
                const now = performance.now();
                longest = Math.max(longest, now - last);
                last = now;
                smooth.value = String((left % 50) / 50);
                smooth.dispatchEvent(new Event("input"));
                if (left--) requestAnimationFrame(frame); else done(longest);
            };
            requestAnimationFrame(frame);
        })"""
    )
    assert longest < 500  # milliseconds of one picture, with all six charts drawn anew for each


@pytest.mark.core
def test_runs_are_compared_that_a_search_has_hidden_meanwhile(server: Server, page: Page) -> None:
    for name, rank in (("small", 4), ("large", 64), ("other", 8)):
        write_run(server.runs / name, rank=rank)
    page.goto(server.address)
    page.get_by_label("Compare small").check()
    page.locator("[name=q]").fill("large")
    expect(page.locator("#rows tr")).to_have_count(1)
    page.get_by_label("Compare large").check()
    page.wait_for_timeout(3500)  # the list is drawn anew
    expect(page.get_by_label("Compare large")).to_be_checked()
    page.locator("#compare-button").click()
    expect(page.locator(".differences")).to_contain_text("tuning.rank")
    expect(page.locator(".differences td")).to_have_text(["4", "64", "4", "64"])
    expect(page.locator('.chart[data-key="loss"] .u-legend')).to_contain_text("small")
    assert page.locator(".charts").get_attribute("data-points") == "100 100"


@pytest.mark.core
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_a_phone_and_are_read_in_light_and_dark(server: Server, browser: Browser, scheme: str) -> None:
    write_run(server.runs / f"a-run-with-a-rather-long-name-of-its-own-{scheme}", samples=2)
    for page in opened(browser, viewport={"width": 360, "height": 740}, color_scheme=scheme, has_touch=True):
        for path in ("/", "/new", f"/run?run=0/a-run-with-a-rather-long-name-of-its-own-{scheme}"):
            page.goto(server.address + path)
            assert page.evaluate("() => document.documentElement.scrollWidth") <= 360, path
            assert page.evaluate(CONTRAST) >= 4.5, path
            assert page.evaluate(UNNAMED) == [], path


@pytest.mark.core
def test_all_of_it_works_with_the_keyboard(server: Server, page: Page) -> None:
    write_run(server.runs / "crush", samples=1)
    page.goto(server.address)
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to content")).to_be_focused()
    page.get_by_role("link", name="crush").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".samples img")).to_have_count(1)
    page.locator("#sample-step").focus()
    expect(page.locator("#sample-at")).to_have_text("100")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#sample-at")).to_have_text("90")
    page.goto(f"{server.address}/new")
    expect(page.locator('[name="tuning.rank:lora"]')).to_be_visible()
    page.locator('[name="tuning.kind"]').focus()
    page.keyboard.press("l")
    page.locator('[name="tuning.kind"]').select_option("lokr")
    expect(page.locator('[name="tuning.rank:lora"]')).to_be_hidden()
    expect(page.locator('[name="tuning.rank:lokr"]')).to_be_visible()


GO_ON = """() => fetch("/run/go_on", {method: "POST", body: new URLSearchParams({run: "0/style"})})"""
"""What a click in a browser does that has not heard yet that another one has done it."""
CONTRAST = """() => {
    const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const light = (text) => {
        const [r, g, b] = text.match(/[\\d.]+/g).map((v) => linear(v / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (element) => {
        for (; element; element = element.parentElement) {
            const colour = getComputedStyle(element).backgroundColor;
            if (!/, 0\\)$/.test(colour) && colour !== "transparent") return colour;
        }
        return "rgb(255, 255, 255)";
    };
    const hasText = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    const all = [...document.querySelectorAll("main *, header *")];
    return Math.min(...all.filter((e) => e.checkVisibility() && hasText(e) && !e.disabled).map((element) => {
        const [a, b] = [light(getComputedStyle(element).color), light(behind(element))].sort((x, y) => y - x);
        return (a + 0.05) / (b + 0.05);
    }));
}"""
"""Least contrast of a text with what is behind it."""
UNNAMED = """() => [...document.querySelectorAll("input, select, textarea, button, progress")]
    .filter((e) => e.type !== "hidden" && !(e.labels?.length || e.getAttribute("aria-label") || e.textContent.trim()))
    .map((e) => e.outerHTML)"""
"""Controls that nothing names to who does not see them."""
