"""The quick start: what any user would do, each step as the command that does it, and then the evidence."""

import json
import resource
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetrainers.distributed.launch import refuse_further_processes
from finetrainers.distributed.world import pick_device
from finetrainers.files.whole import to_json, write_whole
from finetrainers.quickstart.comparison import Row, draw_comparison
from finetrainers.quickstart.evidence import PromptSet, draw_sets, make_sets, measure_all
from finetrainers.quickstart.project import write_project
from finetrainers.quickstart.report import COLUMNS, VERSION, Drawn, Tree, loading_lines, set_figures, summary
from finetrainers.quickstart.showcase import Options
from finetrainers.sampling.sample import find_weights
from finetrainers.training.console.bar import Stages
from finetrainers.training.report import read_events

COLUMNS_OF_A_GROUP = 2
"""Prompts of each group in comparison.png: the first of the set, whatever their pictures look like."""
LABELS = {"before": "before LoRA", "after": "after LoRA", "real": "target"}
"""What comparison.png calls its rows."""

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
    refuse_further_processes()
    times, words = Times(), options.showcase.words
    write_project(options)
    report_file = options.output / "report.json"
    if report_file.exists():
        say(f"{report_file} is there: nothing is left to do; remove {options.output} to start again.\n")
        say(summary(json.loads(report_file.read_text(encoding="utf-8")), words.drawn))
        return 0
    say(f"{options.num_train} {words.concept} to learn from, with captions: {options.output / 'data' / 'train'}")
    for name in ("encode", "train"):
        arguments = [name, str(options.config_file)]
        say(f"\n$ {shlex.join(['finetrainers', *arguments])}")
        with times.stage(name):
            status = command(arguments)
        if status:
            return status
    say(f"\nGenerating and measuring {4 * options.num_prompts} prompts in plain diffusers, without the LoRA and with it")
    weights = find_weights(options.run, options.steps)
    report = gather_evidence(options, weights, times)
    write_whole(report_file, to_json(report, indent=1) + "\n")
    say(f"\n{summary(report, words.drawn)}\n\n{_farewell(options, weights)}")
    return 0


def gather_evidence(options: Options, weights: Path, times: Times) -> Tree:
    """Draw, measure, write what there is to see; return the report."""
    sets, showcase = make_sets(options), options.showcase
    total = 2 * sum(len(prompts.truths) for prompts in sets.values())
    with times.stage("evidence"), _counter(total) as tell:
        drawn = {
            column: draw_sets(options, sets, lora, device=pick_device(options.device), tell=tell)
            for column, lora in (("before", None), ("after", weights))
        }
        tree = set_figures(showcase, sets, drawn["before"], drawn["after"])
    shown = write_comparison(options, sets["concept_held_out"], drawn)
    losses = json.loads((options.run / "report.json").read_text(encoding="utf-8"))["held_out_losses"]
    starts = read_events(options.run, {"run"})
    return {
        "version": VERSION,
        "seed": options.seed,
        "steps": options.steps,
        "device": starts[-1]["device"],
        "num_starts": len(starts),
        "base": str(options.base),
        "weights": str(weights.absolute()),
        "drawing": {"steps": showcase.steps, "guidance": showcase.guidance},
        "held_out_loss": {"before": losses[0][1], "after": losses[-1][1]},
        "seconds": times.wall,
        "cpu_seconds": times.cpu,
        "sets": tree,
        "shown": shown,
    }


@contextmanager
def _counter(total: int) -> Iterator[Callable[[int], None]]:
    """Show how many of the prompts are drawn; yield what takes how many more are."""
    done = 0

    def tell(count: int) -> None:
        nonlocal done
        done += count
        stages.show("generate samples", done, total)

    with closing(Stages()) as stages:
        tell(0)
        yield tell


def write_comparison(options: Options, prompts: PromptSet[Any], drawn: Mapping[str, Drawn]) -> list[Tree]:
    """Show the first prompts of each group before, after and real; clips become files of their own as well.

    Returns the checks of each picture, by column, with its caption.
    """
    showcase = options.showcase
    chosen = [
        n
        for group in showcase.groups
        for n in [n for n, truth in enumerate(prompts.truths) if showcase.group_of(truth) == group][:COLUMNS_OF_A_GROUP]
    ]
    truths = [prompts.truths[n] for n in chosen]
    captions = [showcase.caption_of(truth) for truth in truths]
    rows, told = [], [Tree(caption=caption) for caption in captions]
    for label in COLUMNS:
        pictures = prompts.real if label == "real" else drawn[label]["concept_held_out"]
        shown = [pictures[n] for n in chosen]
        found = measure_all(showcase, shown, truths)
        rows.append(Row(LABELS[label], [showcase.cell(pixels) for pixels in shown], [one.faults for one in found]))
        for tree, one in zip(told, found, strict=True):
            tree[label] = dict(one.checks)
        if showcase.save is not None:
            for n, pixels in enumerate(shown, 1):
                showcase.save(options.output / showcase.words.drawn / f"{n}-{label}", pixels)
    draw_comparison(captions, rows).save(options.output / "comparison.png")
    return told


def _farewell(options: Options, weights: Path) -> str:
    drawn, lines = options.showcase.words.drawn, loading_lines(options, weights.absolute())
    single = [] if options.showcase.save is None else [f"{options.output / drawn}            the same as files of their own"]
    return "\n".join(
        (
            f"{options.output / 'comparison.png'}   held-out prompts: before, after, and real {drawn}",
            *single,
            f"{options.output / 'report.json'}      all figures",
            "",
            "The LoRA in plain diffusers:",
            "",
            *(f"    {line}" for line in lines.splitlines()),
        )
    )
