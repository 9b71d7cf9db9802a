"""Draws the pictures of docs/ui.md and docs/report.md: a server over made-up runs, in Chromium (Playwright).

python scripts/make_ui_pictures.py
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright

PICTURES = Path(__file__).parents[1] / "docs" / "images"
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
ARGUMENTS = ["--no-sandbox", "--disable-quic", "--disable-background-networking"]
WIDTH, HEIGHT = 1180, 760
MAX_BYTES = 120_000
STEPS = 2000
PROMPTS = (
    "PIKA_CRUSH a red toy car under a press",
    "PIKA_CRUSH a stack of books",
    "a fox runs through snow",
    "a lamp on a desk",
)


def main() -> None:
    """Draw all pictures."""
    with tempfile.TemporaryDirectory() as folder:
        runs, data = Path(folder) / "runs", Path(folder) / "data"
        data.mkdir()
        for name, rank, taken in (
            ("crush-r16", 16, STEPS),
            ("crush-r64", 64, 1240),
            ("fox-style", 32, STEPS),
            ("fox-dora", 32, 760),
        ):
            write_run(runs / name, rank, taken)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = listening.getsockname()[1]
        words = ["ui", str(runs), "--data", str(data), "--port", str(port), "--watch-only", "--device", "cuda:0"]
        server = subprocess.Popen(
            [sys.executable, "-m", "finetrainers", *words], stdout=subprocess.PIPE, text=True, cwd=folder
        )
        try:
            assert server.stdout is not None
            draw(server.stdout.readline().strip(), data)
        finally:
            server.kill()
            server.wait()
        draw_report(runs / "crush-r16")


def draw(address: str, data: Path) -> None:
    """Open the pages, and save them."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(address)
        for name in ("fox-dora", "crush-r64"):
            page.goto(f"{address}run?run=0/{name}")
            page.locator("#go-on").click()
        page.goto(address)
        save(page, "ui-runs")
        page.goto(f"{address}run?run=0/crush-r16")
        page.set_viewport_size({"width": WIDTH, "height": 1180})
        page.locator("#sample-step").wait_for()
        page.wait_for_timeout(1500)
        save(page, "ui-run")
        page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
        page.goto(f"{address}new")
        page.locator('[name="output_dir"]').fill("crush-r128")
        page.locator('[name="model.path"]').fill("Lightricks/LTX-Video")
        page.locator('[name="data.0.path"]').fill(str(data))
        page.locator('[name="seed"]').fill("minus one")
        page.locator("#verdict", has_text="1 to fill in").wait_for()
        save(page, "ui-new")
        browser.close()


def draw_report(run: Path) -> None:
    """Write the report of a run, and save it as it opens from a file."""
    subprocess.run([sys.executable, "-m", "finetrainers", "report", str(run)], check=True, stdout=subprocess.DEVNULL)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1000, "height": 1620})
        page.goto((run / "report.html").as_uri())
        save(page, "report")
        browser.close()


def save(page: Page, name: str) -> None:
    """Save a picture with few colours, which keeps it small."""
    page.evaluate("() => { document.activeElement.blur(); scrollTo(0, 0); }")
    page.wait_for_timeout(700)
    file = PICTURES / f"{name}.png"
    page.screenshot(path=file)
    Image.open(file).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)
    print(f"{file.name}: {file.stat().st_size // 1000} kB")
    assert file.stat().st_size <= MAX_BYTES


def write_run(directory: Path, rank: int, taken: int) -> None:
    """Write a run directory as a run leaves it that took so many of its steps."""
    directory.mkdir(parents=True)
    (directory / ".finetrainers").write_text('{"version": 1}')
    model, kind = {"path": "Lightricks/LTX-Video"}, {"kind": "lora", "rank": rank, "alpha": rank}
    data = [{"path": "data/crush-smol", "buckets": [[49, 512, 768]]}]
    tree = {"output_dir": str(directory), "model": model, "data": data, "tuning": kind, "train": {"steps": STEPS}}
    (directory / "config.yaml").write_text(json.dumps(tree))
    random, start = np.random.default_rng(rank), time.time() - taken * 0.6
    events = [{"time": start, "event": "run", "steps": STEPS, "resumed_from": None, "output_dir": str(directory), **OF}]
    for step in range(1, taken + 1):
        loss = 0.24 + 0.3 * np.exp(-step / (300 + rank)) + random.normal(0, 0.03)
        numbers = {"loss": loss, "grad_norm": 0.3 + 0.4 * np.exp(-step / 200) + abs(random.normal(0, 0.05))}
        numbers |= {"lr": 1e-4 * min(1, step / 100), "tokens_per_second": random.normal(3360, 60), "peak_memory_gb": 19.4}
        events.append({"time": start + 0.6 * step, "event": "step", "step": step, **numbers, **SECONDS})
        if step % 200 == 0:
            events.append({"time": start + 0.6 * step, "event": "validation", **validation(directory, step)})
    if taken == STEPS:
        events.append({"time": start + 0.6 * taken, "event": "end", "status": "done", "weights": str(directory / "weights")})
    (directory / "events.jsonl").write_text("".join(json.dumps({"v": 1, **event}) + "\n" for event in events))


OF = {"task": "text-to-video", "family": "ltx_video"}
SECONDS = {"step_seconds": 0.58, "data_seconds": 0.02, "skipped": 0}


def validation(directory: Path, step: int) -> dict[str, object]:
    """Write a validation with samples that get clearer; return its fields."""
    folder = directory / "validation" / f"step-{step:06d}"
    folder.mkdir(parents=True)
    names = [f"{number:02d}.png" for number in range(len(PROMPTS))]
    for number, name in enumerate(names):
        sample(number, step / STEPS).save(folder / name)
    loss = 0.25 + 0.25 * np.exp(-step / 350)
    bins = {f"{low / 4:.2f}-{low / 4 + 0.25:.2f}": loss * (1.5 - low / 3) for low in range(4)}
    fields = {"step": step, "held_out_loss": loss, "held_out_bins": bins, "samples": names}
    prompts = [{"prompt": prompt} for prompt in PROMPTS]
    (folder / "validation.json").write_text(json.dumps({**fields, "prompts": prompts}))
    return fields


def sample(number: int, clearness: float) -> Image.Image:
    """Draw a disc on a slope of colour."""
    down, across = np.mgrid[0:72, 0:108] / 72
    disc = ((across - 0.75) ** 2 + (down - 0.5) ** 2 < 0.09)[..., None]
    colour = np.array([[0.83, 0.33, 0.27], [0.25, 0.45, 0.75], [0.9, 0.6, 0.25], [0.4, 0.6, 0.4]][number])
    slope = np.stack([0.75 + 0.2 * down, 0.78 + 0.15 * down, 0.85 - 0.1 * down], -1)
    clear = np.where(disc, colour, slope)
    return Image.fromarray((255 * (clearness * clear + (1 - clearness) * clear.mean())).clip(0, 255).astype(np.uint8))


if __name__ == "__main__":
    main()
