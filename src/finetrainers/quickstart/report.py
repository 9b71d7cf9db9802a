"""report.json and what is printed at the end: every figure for the base, for the LoRA, for real data and for chance."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from finetrainers.quickstart.drawing import Pixels
from finetrainers.quickstart.evidence import Sets, figures, shuffled
from finetrainers.quickstart.showcase import Options, Showcase

VERSION = 1
COLUMNS = ("before", "after", "real")
Drawn = Mapping[str, Sequence[Pixels]]
"""Pictures or clips of each set of prompts."""
Tree = dict[str, Any]  # a JSON object, as docs/quickstart_measures.md describes it


def set_figures(showcase: Showcase[Any], sets: Sets, before: Drawn, after: Drawn) -> Tree:
    """Measure what was generated against its own captions and, for the floor, against others of the set."""
    tree: Tree = {}
    for name, prompts in sets.items():
        pictures = dict(zip(COLUMNS, (before[name], after[name], prompts.real), strict=True))
        truths = {"captions": prompts.truths, "shuffled": shuffled(prompts.truths)}
        tree[name] = {"what": prompts.what} | {
            kind: {column: asdict(figures(showcase, shown, own)) for column, shown in pictures.items()}
            for kind, own in truths.items()
        }
    return tree


def summary(report: Tree, drawn: str) -> str:
    """Write the figures as a table; ``drawn`` is what pictures or clips are called."""
    sets: Mapping[str, Tree] = report["sets"]
    width = max(len(tree["what"]) for tree in sets.values())
    head = f"{'':{width}}  {'base':>7} {'LoRA':>7} {f'real {drawn}':>14} {'shuffled captions':>18}"
    lines = [
        f"{tree['what']:{width}}  {_right(tree, 'before')} {_right(tree, 'after')} {_right(tree, 'real'):>14} "
        f"{tree['shuffled']['after']['right']:>17.1f}%"
        for tree in sets.values()
    ]
    count = next(iter(sets.values()))["captions"]["before"]["count"]
    before, after = report["held_out_loss"]["before"], report["held_out_loss"]["after"]
    wall, cpu = (sum(report[key][stage] for stage in ("encode", "train")) for key in ("seconds", "cpu_seconds"))
    title = f"{drawn.capitalize()} that match their caption in every respect, of {count} prompts each:"
    return "\n".join(
        (
            title,
            "",
            head,
            *lines,
            "",
            f"Held-out loss: {before:.4f} before, {after:.4f} after {report['steps']} steps.",
            f"The fine-tune took {wall:.0f} s ({cpu:.0f} CPU-seconds) on {report['device']}.",
        )
    )


def _right(tree: Tree, column: str) -> str:
    return f"{tree['captions'][column]['right']:>6.1f}%"


def loading_lines(options: Options, weights: Path) -> str:
    """Write five lines of Python that generate with the LoRA in plain diffusers."""
    showcase = options.showcase
    return showcase.loading.format(base=str(options.base), weights=str(weights), prompt=showcase.prompt)
