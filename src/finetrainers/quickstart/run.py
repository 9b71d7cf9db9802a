"""The quick start: what any user would do, each step as the command that does it, and then the evidence."""

import json
import resource
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from finetrainers.build import pick_device
from finetrainers.files import to_json, write_whole
from finetrainers.publish import read_events
from finetrainers.quickstart.comparison import Row, draw_comparison
from finetrainers.quickstart.concept import ALL_BANNER_KINDS
from finetrainers.quickstart.evaluate import STEPS, caption_of
from finetrainers.quickstart.evidence import GUIDANCE, PromptSet, draw_sets, make_sets, measure_all
from finetrainers.quickstart.project import BASE, Options, write_project
from finetrainers.quickstart.report import COLUMNS, VERSION, Pictures, Tree, loading_lines, set_figures, summary
from finetrainers.sample import find_weights

COLUMNS_OF_A_KIND = 2
"""Pictures of each kind of banner in comparison.png: the first of the set, whatever they look like."""

Command = Callable[[Sequence[str]], int]
"""Runs the words of a command, without the program's name; returns its exit status."""


@dataclass(slots=True)
class Times:
    """What the stages took, in seconds."""

    wall: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)
    """Of all threads, and of the child processes that are over."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the body."""
        wall, cpu = time.perf_counter(), _cpu_seconds()
        yield
        self.wall[name] = round(time.perf_counter() - wall, 2)
        self.cpu[name] = round(_cpu_seconds() - cpu, 2)


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def quickstart(options: Options, *, command: Command, say: Callable[[str], None]) -> int:
    """Render a concept, fine-tune the shipped base on it, and measure what was learned; return the exit status.

    Args:
        options: What can be chosen.
        command: The command line itself: the fine-tune has no other way in.
        say: Takes what is to be printed.

    Raises:
        ConfigError: If the options are impossible, or the folder holds something else.
    """
    times = Times()
    write_project(options)
    report_file = options.output / "report.json"
    if report_file.exists():
        say(f"{report_file} is there: nothing is left to do; remove {options.output} to begin anew.\n")
        say(summary(json.loads(report_file.read_text(encoding="utf-8"))))
        return 0
    say(f"{options.num_train} banners to learn from, with captions: {options.output / 'data' / 'train'}")
    for name in ("encode", "train"):
        words = [name, str(options.config_file)]
        say(f"\n$ {shlex.join(['finetrainers', *words])}")
        with times.stage(name):
            status = command(words)
        if status:
            return status
    say(f"\nDrawing and measuring {4 * options.num_prompts} prompts in plain diffusers, without the LoRA and with it")
    weights = find_weights(options.run, options.steps)
    report = gather_evidence(options, weights, times)
    write_whole(report_file, to_json(report, indent=1) + "\n")
    say(f"\n{summary(report)}\n\n{_farewell(options, weights)}")
    return 0


def gather_evidence(options: Options, weights: Path, times: Times) -> Tree:
    """Draw, measure, write comparison.png; return the report."""
    sets = make_sets(options.num_prompts, options.seed, num_train=options.num_train)
    with times.stage("evidence"):
        drawn = {
            column: draw_sets(sets, BASE, lora, device=pick_device(options.device), seed=options.seed)
            for column, lora in (("before", None), ("after", weights))
        }
        tree = set_figures(sets, drawn["before"], drawn["after"])
    write_comparison(options.output / "comparison.png", sets["concept_held_out"], drawn)
    losses = json.loads((options.run / "report.json").read_text(encoding="utf-8"))["held_out_losses"]
    starts = read_events(options.run, {"run"})
    return {
        "version": VERSION,
        "seed": options.seed,
        "steps": options.steps,
        "device": starts[-1]["device"],
        "num_starts": len(starts),
        "base": str(BASE),
        "weights": str(weights.absolute()),
        "drawing": {"steps": STEPS, "guidance": GUIDANCE},
        "held_out_loss": {"before": losses[0][1], "after": losses[-1][1]},
        "seconds": times.wall,
        "cpu_seconds": times.cpu,
        "sets": tree,
    }


def write_comparison(file: Path, prompts: PromptSet, drawn: Mapping[str, Pictures]) -> None:
    """Draw the first prompts of each kind before, after and real."""
    chosen = [
        n
        for kind in ALL_BANNER_KINDS
        for n in [n for n, truth in enumerate(prompts.truths) if truth.kind == kind][:COLUMNS_OF_A_KIND]
    ]
    truths = [prompts.truths[n] for n in chosen]
    rows = []
    for label in COLUMNS:
        pictures = prompts.real if label == "real" else drawn[label]["concept_held_out"]
        shown = [pictures[n] for n in chosen]
        rows.append(Row(label, shown, [measurement.is_right for measurement in measure_all(shown, truths)]))
    draw_comparison([caption_of(truth) for truth in truths], rows).save(file)


def _farewell(options: Options, weights: Path) -> str:
    prompt = "a banner with three vertical stripes, black, yellow and red, on blue"
    lines = loading_lines(weights.absolute(), prompt)
    return "\n".join(
        (
            f"{options.output / 'comparison.png'}   held-out prompts: before, after, and real pictures",
            f"{options.output / 'report.json'}      all figures",
            "",
            "The LoRA in plain diffusers:",
            "",
            *(f"    {line}" for line in lines.splitlines()),
        )
    )
