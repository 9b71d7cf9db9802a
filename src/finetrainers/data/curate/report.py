"""The report of a preparation: what was read, what each step let pass, and why everything else was left out."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from finetrainers.config.curate import PrepareConfig
from finetrainers.data.curate.journal import Record


@dataclass
class Totals:
    """Sums over all media."""

    media: int = 0
    bytes_read: int = 0
    seconds_read: float = 0.0
    failed: int = 0
    kept: int = 0
    captioned: int = 0
    bytes_written: int = 0
    seconds_written: float = 0.0
    dropped: int = 0
    steps: dict[int, list[int]] = field(default_factory=dict)
    """Pieces that came and that went on, by the place of the step."""

    def add(self, record: Record) -> None:
        """Take in one medium."""
        self.media += 1
        self.bytes_read += record["bytes"]
        self.seconds_read += record["seconds"]
        self.failed += record["failure"] is not None
        self.kept += len(record["kept"])
        self.dropped += len(record["dropped"])
        for kept in record["kept"]:
            self.captioned += kept["caption"] is not None
            self.bytes_written += kept["bytes"]
            self.seconds_written += kept["seconds"]
        for place, (came, went) in record["counts"].items():
            before = self.steps.setdefault(int(place), [0, 0])
            before[0] += came
            before[1] += went


def report_lines(config: PrepareConfig, records: Iterable[Record], totals: Totals, others: dict[str, int]) -> Iterator[str]:
    """Text of report.json: the sums first, then everything that was left out, one a line."""
    counts = {name: value for name, value in vars(totals).items() if name != "steps"}
    head = {
        "version": 1,
        **{name: round(value, 3) if isinstance(value, float) else value for name, value in counts.items()},
        "other_files": others,
        "steps": [
            {"kind": step.kind, "came": came, "went_on": went}
            for step, (came, went) in zip(config.steps, by_place(totals, len(config.steps)), strict=True)
        ],
    }
    text = json.dumps(head, indent=1)
    yield text.removesuffix("\n}") + ',\n "left_out": ['
    separator = "\n  "
    for one in left_out(config, records):
        yield separator + json.dumps(one, ensure_ascii=False)
        separator = ",\n  "
    yield "\n ]\n}\n"


def by_place(totals: Totals, num_steps: int) -> list[list[int]]:
    """What came to each step and what went on."""
    return [totals.steps.get(place, [0, 0]) for place in range(num_steps)]


def left_out(config: PrepareConfig, records: Iterable[Record]) -> Iterator[Record]:
    """Everything that is not in the set, with its step, its reason and its scores."""
    for record in records:
        if record["failure"] is not None:
            yield {"origin": record["origin"], "step": "read", "reason": record["failure"]}
        for one in record["dropped"]:
            place = one["step"]
            step = "write" if place == len(config.steps) else config.steps[place].kind
            yield {"origin": record["origin"], **one, "step": step}


def summary(config: PrepareConfig, totals: Totals) -> Sequence[str]:
    """Lines for the terminal."""
    lines = [
        f"{totals.media} media, {totals.seconds_read:.1f} s of video, {totals.bytes_read / 1e6:.1f} MB; "
        f"{totals.failed} could not be read{', as report.json says' * (totals.failed > 0)}"
    ]
    for step, (came, went) in zip(config.steps, by_place(totals, len(config.steps)), strict=True):
        lines.append(f"  {step.kind}: {came} -> {went}")
    lines.append(
        f"{totals.kept} items, {totals.seconds_written:.1f} s of video, {totals.bytes_written / 1e6:.1f} MB; "
        f"{totals.captioned} with a caption"
    )
    return lines
