"""Record what a person sees who trains a tiny model in a terminal: init, check, encode, train, Ctrl-C, train, sample.

python scripts/record_terminal.py --columns 80 recording.txt
python scripts/record_terminal.py --columns 80 --page docs/terminal.md    # in short, into the page
PYTHONPATH=older/src python scripts/record_terminal.py older.txt          # of other code: commands that it has

A line that was written over is shown as it was at some moments, each marked with "~"; the last of them has no mark. Where a
line was too long for the terminal, the rest of it is marked with a backslash.
"""

import argparse
import codecs
import fcntl
import itertools
import os
import pty
import re
import select
import shlex
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

ROWS, NUM_PICTURES, NUM_FRAMES = 50, 30, 3
OUTPUT = "runs/first"
PATIENCE_SECONDS = 600
CONTROL = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])")
CONFIG = """\
output_dir: runs/first
model: {path: tiny-flux, dtype: float32, max_sequence_length: 16}
data:
  - path: pictures
    buckets: [[1, 64, 64], [1, 64, 96]]
tuning: {kind: lora, rank: 4}
optimizer: {lr: 1e-3}
train: {steps: 120, batch_size: 4, micro_batch_size: 4}
checkpoint: {every: 50}
validation: {held_out: 0.1, every: 60, prompts: prompts.json}
cache: {path: cache}
"""
"""What is written where there is no ``init`` to write it."""
PROMPTS = '[{"prompt": "a red picture", "num_inference_steps": 8}, {"prompt": "a blue one", "num_inference_steps": 8}]\n'
ANSWERS = ("tiny-flux", "pictures", "style", "ohwx", "")
"""What is typed where ``init`` asks for model, data, kind, trigger word and card."""
STEP_OF_CTRL_C = 70
BEGINNING, END = "<!-- recorded -->", "<!-- end of the recording -->"
"""Marks of the page around what is put into it."""


class Screen:
    """What a terminal of some columns shows: lines, what they were before they were written over, and where it wraps."""

    def __init__(self, columns: int) -> None:
        self.columns, self.row, self.column = columns, 0, 0
        self.rows: list[str] = [""]
        self.before: dict[int, list[str]] = {}
        """Earlier states of a row, by its number."""
        self.wrapped: set[int] = set()
        """Rows that a line too long for the terminal went on in."""

    def feed(self, text: str) -> None:
        """Take what a program has written."""
        place = 0
        while place < len(text):
            control = CONTROL.match(text, place)
            if control is not None:
                self._control(control[1], control[2])
                place = control.end()
                continue
            self._put(text[place])
            place += 1

    def _put(self, character: str) -> None:
        if character == "\r":
            self._remember()
            self.column = 0
        elif character == "\n":
            self._down()
        elif character == "\b":
            self.column = max(0, self.column - 1)
        elif character >= " ":
            if self.column == self.columns:
                self._down()
                self.column = 0
                self.wrapped.add(self.row)
            row = self.rows[self.row].ljust(self.column)
            self.rows[self.row] = row[: self.column] + character + row[self.column + 1 :]
            self.column += 1

    def _down(self) -> None:
        self.row += 1
        while len(self.rows) <= self.row:
            self.rows.append("")

    def _control(self, numbers: str, kind: str) -> None:
        if kind == "A":
            self.row = max(0, self.row - int(numbers or 1))
        elif kind == "K" and numbers in ("", "0"):
            self.rows[self.row] = self.rows[self.row][: self.column]
        elif kind == "K":
            self._remember()
            self.rows[self.row] = ""

    def _remember(self) -> None:
        row, before = self.rows[self.row].rstrip(), self.before.setdefault(self.row, [])
        if row and before[-1:] != [row]:
            before.append(row)

    def lines(self, num_frames: int = NUM_FRAMES) -> list[str]:
        """All rows, each after some of what it was before, of each kind of line at most ``num_frames``."""
        shown: list[str] = []
        for number, row in enumerate(row.rstrip() for row in self.rows):
            before = [text for text in self.before.get(number, []) if text != row]
            shown += [f"~ {text}" for text in _some(before, num_frames)]
            shown.append(f"\\ {row}" if number in self.wrapped else row)
        return shown


def _some(states: Sequence[str], num_frames: int) -> list[str]:
    """Take the first, the last and one in the middle of each kind of line; with 1 frame, the one in the middle."""
    shown: list[str] = []
    for _, group in itertools.groupby(states, key=lambda text: re.split(r"\d", text)[0]):
        same = list(group)
        ends = range(num_frames) if num_frames > 1 else [0.5]
        shown += [same[place] for place in sorted({round(end * (len(same) - 1) / max(1, num_frames - 1)) for end in ends})]
    return shown


def run_in_terminal(
    words: Sequence[str],
    folder: Path,
    columns: int,
    *,
    presses_ctrl_c: Callable[[], bool] = lambda: False,
    answers: Sequence[str] = (),
) -> tuple[Screen, int]:
    """Run a command in a terminal of its own, and answer what it asks; return what it shows, and its exit status."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.environ.update(TERM="xterm", COLUMNS="", LINES="")
        del os.environ["COLUMNS"], os.environ["LINES"]
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
        os.execv(sys.executable, [sys.executable, "-m", *words])
    screen, decoder, has_pressed = Screen(columns), codecs.getincrementaldecoder("utf-8")("replace"), False
    left = list(answers)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if not has_pressed and presses_ctrl_c():
            has_pressed = bool(os.write(terminal, b"\x03"))
        if not select.select([terminal], [], [], 0.01)[0]:
            continue
        try:
            part = os.read(terminal, 1 << 16)
        except OSError:  # the program is over
            break
        screen.feed(decoder.decode(part))
        if left and screen.rows[screen.row].endswith(": "):
            os.write(terminal, f"{left.pop(0)}\n".encode())
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    return screen, os.waitstatus_to_exitcode(status)


def write_pictures(folder: Path) -> None:
    """Write captioned pictures: coloured noise in blocks, upright and wide."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(NUM_PICTURES):
        rows, columns = (8, 8) if number % 3 else (8, 12)
        blocks = random.integers(0, 256, (rows, columns, 3), dtype=np.uint8)
        Image.fromarray(blocks.repeat(8, 0).repeat(8, 1)).save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text(f"picture number {number}")


def has_step(folder: Path, step: int) -> Callable[[], bool]:
    """Make what says whether a run has taken a step."""
    file = folder / OUTPUT / "events.jsonl"

    def is_there() -> bool:
        return file.is_file() and f'"event": "step", "step": {step},' in file.read_text(encoding="utf-8")

    return is_there


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a person."""

    line: str
    answers: Sequence[str] = ()
    """What is typed where it asks."""
    stopped_at: int | None = None
    """Step at which Ctrl-C is pressed."""


Recorded = tuple[str, Screen, int]
"""A command, what it showed, and its exit status."""


def record(columns: int, commands: Sequence[Command], folder: Path) -> list[Recorded]:
    """Run commands one after the other in a folder."""
    write_pictures(folder / "pictures")
    if not any(command.line.startswith("init") for command in commands):
        (folder / "config.yaml").write_text(CONFIG)
        (folder / "prompts.json").write_text(PROMPTS)
    recorded = []
    for command in commands:
        words = ["finetrainers", *shlex.split(command.line)]
        is_due = (lambda: False) if command.stopped_at is None else has_step(folder, command.stopped_at)
        screen, status = run_in_terminal(words, folder, columns, presses_ctrl_c=is_due, answers=command.answers)
        recorded.append((command.line, screen, status))
    return recorded


def as_text(recorded: Sequence[Recorded], num_frames: int) -> str:
    """Write down all that was shown."""
    shown: list[str] = []
    for line, screen, status in recorded:
        lines = screen.lines(num_frames)
        while lines and not lines[-1]:
            lines.pop()
        shown += [f"$ finetrainers {line}", *lines, *([f"(exit status {status})"] if status else []), ""]
    return "\n".join(shown)


def put_into(page: Path, text: str) -> None:
    """Write a recording between the marks of a page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGINNING)
    page.write_text(f"{before}{BEGINNING}\n\n```text\n{text}```\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def path_of_a_person() -> list[Command]:
    """Commands that the code at hand has."""
    known = subprocess.run(
        [sys.executable, "-m", "finetrainers", "--help"], check=True, capture_output=True, text=True
    ).stdout
    train = "train config.yaml train.steps=120" if re.search(r"^ +init ", known, re.MULTILINE) else "train config.yaml"
    path = [
        Command("models tiny flux tiny-flux"),
        Command(f"init --output {OUTPUT}", answers=ANSWERS),
        Command("check config.yaml"),
        Command("encode config.yaml"),
        Command(train, stopped_at=STEP_OF_CTRL_C),
        Command(train),
        Command(train),
        Command(f"sample {OUTPUT} --prompt 'a red picture'"),
    ]
    return [command for command in path if re.search(rf"^ +{command.line.split()[0]} ", known, re.MULTILINE)]


def main() -> None:
    """Record, and write it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--columns", type=int, default=80)
    parser.add_argument("--page", action="store_true", help="put it in short, from init on, into a page that is there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        recorded = record(options.columns, path_of_a_person(), Path(directory))
    if options.page:
        put_into(options.output, as_text(recorded[1:], num_frames=1))
    else:
        options.output.write_text(as_text(recorded, NUM_FRAMES), encoding="utf-8")


if __name__ == "__main__":
    main()
