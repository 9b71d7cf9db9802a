"""report.json and what is printed at the end: every figure for the base, for the LoRA, for real pictures and for chance."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from finetrainers.quickstart.drawing import Pixels
from finetrainers.quickstart.evaluate import STEPS
from finetrainers.quickstart.evidence import GUIDANCE, PromptSet, figures, shuffled
from finetrainers.quickstart.language import MAX_TOKENS
from finetrainers.quickstart.project import BASE

VERSION = 1
COLUMNS = ("before", "after", "real")
Pictures = Mapping[str, Sequence[Pixels]]
"""Of each set of prompts."""
Tree = dict[str, Any]  # a JSON object, as docs/quickstart.md describes it

LOADING = """\
import torch
from diffusers import FluxPipeline
pipeline = FluxPipeline.from_pretrained({base!r}).to(torch.float32)
pipeline.load_lora_weights({weights!r})
pipeline({prompt!r}, {arguments}).images[0].save("banner.png")"""


def set_figures(sets: Mapping[str, PromptSet], before: Pictures, after: Pictures) -> Tree:
    """Measure each set's pictures against their own captions and, for the floor, against those of their neighbours."""
    tree: Tree = {}
    for name, prompts in sets.items():
        pictures = dict(zip(COLUMNS, (before[name], after[name], prompts.real), strict=True))
        tree[name] = {
            "what": prompts.what,
            "captions": {column: asdict(figures(shown, prompts.truths)) for column, shown in pictures.items()},
            "shuffled": {column: asdict(figures(shown, shuffled(prompts.truths))) for column, shown in pictures.items()},
        }
    return tree


def summary(report: Tree) -> str:
    """Write the figures as a table."""
    sets: Mapping[str, Tree] = report["sets"]
    width = max(len(tree["what"]) for tree in sets.values())
    head = f"{'':{width}}  {'base':>7} {'LoRA':>7} {'real pictures':>14} {'shuffled captions':>18}"
    lines = [
        f"{tree['what']:{width}}  {_right(tree, 'before')} {_right(tree, 'after')} {_right(tree, 'real'):>14} "
        f"{tree['shuffled']['after']['right']:>17.1f}%"
        for tree in sets.values()
    ]
    count = next(iter(sets.values()))["captions"]["before"]["count"]
    before, after = report["held_out_loss"]["before"], report["held_out_loss"]["after"]
    wall, cpu = (sum(report[key][stage] for stage in ("encode", "train")) for key in ("seconds", "cpu_seconds"))
    return "\n".join(
        (
            f"Pictures that show all that their captions say, as measured from the pixels, of {count} prompts each:",
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


def loading_lines(weights: Path, prompt: str) -> str:
    """Write five lines of Python that draw a prompt with the LoRA in plain diffusers."""
    size = "height=64, width=64"
    guidance = f'true_cfg_scale={GUIDANCE}, negative_prompt=""'
    arguments = f"{size}, num_inference_steps={STEPS}, max_sequence_length={MAX_TOKENS}, {guidance}"
    return LOADING.format(base=str(BASE), weights=str(weights), prompt=prompt, arguments=arguments)
