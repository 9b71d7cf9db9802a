"""What a run shows in a terminal: one line that is written over and has room, and plain lines where there is no terminal."""

import fcntl
import os
import pty
import struct
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from loading import load_script
from test_track import STEP, VALIDATION

from finetrainers.events import (
    EndEvent,
    Event,
    LoadedEvent,
    ProgressEvent,
    RunEvent,
    StepEvent,
    ValidationEvent,
    WarningEvent,
)
from finetrainers.events.read import read_event
from finetrainers.training.console import bar as console_bar
from finetrainers.training.console.bar import Bars, Part, State, as_time, lay_out
from finetrainers.training.console.console import Console, Training

ROOT = Path(__file__).parents[2]
WIDTHS = (40, 80, 120)


Screen = load_script("record_terminal", is_known=True).Screen
Shown = Callable[[int, list[Event]], Any]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shown]:
    """What a terminal of some columns shows of events, one every ten seconds."""
    opened = []

    def show(columns: int, events: list[Event]) -> Any:
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        terminal, screen, now = os.fdopen(slave, "w", encoding="utf-8"), Screen(columns), [0.0]
        opened.append((master, terminal))
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        console = Console(40, lambda: now[0])
        os.set_blocking(master, False)
        for event in [*events, None]:
            now[0] += 10.0
            console.close() if event is None else console.write(event)
            with suppress(BlockingIOError):
                screen.feed(os.read(master, 1 << 16).decode())
        return screen

    yield show
    for master, terminal in opened:
        terminal.close()
        os.close(master)


def step(number: int, **changes: Any) -> StepEvent:
    return StepEvent(**{**STEP, "step": number, **changes})


def progress(stage: str, done: int, total: int = 4) -> ProgressEvent:
    return ProgressEvent(stage=stage, done=done, total=total)


def run_event(**changes: Any) -> RunEvent:
    buckets = [
        {"size": [1, 512, 512], "samples": 25, "held_out": 4, "cropped": 0.3},
        {"size": [1, 1, 1], "samples": 1, "held_out": 0},
    ]
    tree = {
        "output_dir": "/runs/first", "family": "flux", "task": "text-to-image", "resumed_from": None, "steps": 40,
        "batch_size": 4, "num_samples": 26, "num_held_out": 4, "num_bad": 2, "epochs": 7, "device": "cuda",
        "device_name": "NVIDIA H200", "device_memory_gb": 150.1, "data": "a", "held_out": "b", "order": 1, "mix": [],
        "sets": [], "buckets": buckets, "num_apart": 4, "held_out_asked": 0.1, "num_cropped": None, "save_every": 50,
        "trained": {"kind": "lora", "rank": 16, "alpha": 32.0, "parameters": 22_500_000,
                    "all_parameters": 11_900_000_000, "mb": 45.0},
    }  # fmt: skip
    from finetrainers.events.record import made

    return made(RunEvent, {**tree, **changes})


def a_run() -> list[Event]:
    steps = [step(number, loss=1.0 + number % 2, step_seconds=1234.5, peak_memory_gb=123.45) for number in range(1, 21)]
    return [
        progress("encode media", 1), progress("encode media", 4), run_event(),
        LoadedEvent(trained_parameters=1, peak_memory_gb=1.0), *steps,
        progress("held-out loss", 0), progress("held-out loss", 4), progress("generate samples", 0, 1),
        ValidationEvent(**VALIDATION, seconds=75.0), step(21), WarningEvent(message="a word\nand " + "another " * 20),
    ]  # fmt: skip


@pytest.mark.parametrize("columns", WIDTHS)
def test_no_line_is_longer_than_the_terminal(shown: Shown, columns: int) -> None:
    screen = shown(columns, a_run())
    assert not screen.wrapped
    every = [*screen.rows, *(state for states in screen.before.values() for state in states)]
    assert max(len(row.rstrip()) for row in every) < columns  # a cursor behind the last column is on the next line in some


@pytest.mark.parametrize("columns", WIDTHS)
def test_step_time_left_and_loss_are_shown_at_any_width(shown: Shown, columns: int) -> None:
    bar = shown(columns, a_run()).before
    (states,) = [states for states in bar.values() if any(state.startswith("step 20/40") for state in states)]
    line = next(state for state in states if state.startswith("step 20/40"))
    assert "step 20/40" in line
    assert "6:51:30 left" in line  # 20 steps of 1234.5 s
    assert "loss 1.487" in line  # smoothed over those of 1 and 2
    if columns >= 80:
        assert "50%" in line
        assert "123.5 GB" in line
    if columns >= 120:
        assert "1234 s/step" in line


def test_bars_of_a_validation_go_and_its_line_stays(shown: Shown) -> None:
    screen = shown(120, a_run())
    before = [state for states in screen.before.values() for state in states]
    assert any(state.startswith("held-out loss 0/4  0%") for state in before)
    assert any(state.startswith("generate samples 0/1") for state in before)
    lines = [row.rstrip() for row in screen.rows if row.strip()]
    assert not [line for line in lines if line.startswith(("held-out loss", "generate samples"))]
    (line,) = [line for line in lines if line.startswith("validation at step 0: held-out loss 0.70000")]
    assert line.endswith("(1:15)")
    assert [line for line in lines if line.startswith("encode media 4/4  100%") and line.endswith("in 0:10")]
    assert lines[-1].startswith("step 21/40  52%")


def test_a_run_says_what_it_will_be(shown: Shown) -> None:
    told = {
        "auto": ["optimizer.lr: 1e-4"],
        "memory": ["none is needed"],
        "yours": ["callbacks.0 mine.py:Mine", "data.1.layout mine.py:Pages"],
    }
    lines = [row.rstrip() for row in shown(120, [run_event(**told)]).rows if row.strip()]
    assert lines == [
        "memory   none is needed",
        "auto     optimizer.lr: 1e-4",
        "model    flux, text-to-image, on NVIDIA H200 (150 GB)",
        "yours    callbacks.0 mine.py:Mine",
        "yours    data.1.layout mine.py:Pages",
        "samples  26 to train on, 4 held out (13%, asked for 10%), 2 bad items left out",
        "buckets  [1, 512, 512] 25 + 4 held out, 30% cut off; [1, 1, 1] 1",
        "trains   lora, rank 16, alpha 32: 22.5 million of 11.9 billion parameters, 45.0 MB of weights",
        "steps    40 steps of 4 samples: 6.15 epochs",
        "each     checkpoint and weights every 50 steps; validation at the end: 4 held-out samples",
        "output   /runs/first",
    ]


def test_a_run_that_goes_on_says_from_where_and_a_finished_one_nothing(shown: Shown) -> None:
    rows = shown(120, [run_event(resumed_from=21), LoadedEvent(trained_parameters=1, peak_memory_gb=1.0)]).rows
    assert [
        row for row in rows if row.startswith("steps") and row.rstrip().endswith("continues from checkpoints/step-000021")
    ]
    assert [row for row in rows if row.startswith("step 21/40  52%")]
    assert not "".join(shown(120, [run_event(resumed_from=40)]).rows)


def test_a_run_that_is_done_says_what_it_has_made(shown: Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    weights = [str(tmp_path / "run" / "weights" / name) for name in ("step-000040", "step-000020")]
    end = EndEvent(
        status="done", step=40, weights=weights[0], reason="early_stop", samples=str(tmp_path / "run" / "validation"),
        first_held_out_loss=1.5, best_step=20, best_held_out_loss=0.25, best_weights=weights[1],
    )  # fmt: skip
    assert [row.rstrip() for row in shown(80, [end]).rows if row.strip()] == [
        "done     40 steps by validation.patience",
        "weights  run/weights/step-000040",
        "loss     held-out 1.50000 -> 0.25000, lowest at step 20",
        "best     run/weights/step-000020",
        "samples  run/validation",
    ]


def test_the_estimate_knows_steps_alone() -> None:
    """Neither the first step, which compiles, nor what comes between steps."""
    states: list[State] = []

    class Kept(Bars):
        def show(self, state: State) -> None:
            states.append(state)

    training = Training(Kept(), 12)
    for number, seconds in ((1, 100.0), (2, 1.0), (3, 1.0), (4, 4.0)):
        training.show(step(number, step_seconds=seconds - 0.25, data_seconds=0.25))
    assert [state.parts[0].text for state in states] == ["18:20 left", "0:10 left", "0:09 left", "0:08 left"]


def test_without_a_terminal_there_are_plain_lines_at_times(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = [0.0]
    console = Console(40, lambda: now[0])
    for event in (progress("held-out loss", 0), progress("held-out loss", 4), *(step(n) for n in range(1, 41))):
        console.write(event)
        now[0] += 10.0
    console.close()
    text = capsys.readouterr().err
    assert "\r" not in text
    lines = text.splitlines()
    assert [line.split("  ")[0] for line in lines] == [f"step {n}/40" for n in (*range(1, 41, 3),)]


def test_a_bar_has_cells_only_where_all_figures_have_room() -> None:
    state = State("train", "step 5/10", 0.5, [Part("0:10 left", 1), Part("loss 1.0", 2)])
    assert lay_out(state, 60, "-#") == "step 5/10  50%  ##########----------  0:10 left  loss 1.0"
    assert lay_out(state, 30, "-#") == "step 5/10  0:10 left  loss 1.0"
    assert lay_out(state, 20, "-#") == "step 5/10  0:10 left"
    assert lay_out(state, 5, "-#") == "step "
    assert lay_out(state, None, "") == "step 5/10  50%  0:10 left  loss 1.0"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (7, "0:07"), (750, "12:30"), (11045, "3:04:05"), (180000, "2d 2h")]
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert as_time(seconds) == text


def test_an_encoding_without_lines_has_cells_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Plain:
        encoding = "ascii"

    monkeypatch.setattr(sys, "stderr", Plain())
    assert console_bar.blocks() == "-#"


def test_a_stage_of_an_older_version_is_still_read() -> None:
    """It was called "draw samples": a file that has it is read as any other, by report, ui and diff."""
    line = '{"v": 1, "event": "progress", "time": 1.0, "stage": "draw samples", "done": 1, "total": 2}'
    assert read_event(line) == ProgressEvent(time=1.0, stage="draw samples", done=1, total=2)
