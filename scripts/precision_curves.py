"""Compare LoRA computed in bfloat16 and in float32: held-out loss along the quick start's training, for several seeds.

The draws of a seed and what encoders make of the data are the same in both types, so what differs is how the denoiser
computes. It is told beside what a seed changes. docs/measured_memory.md quotes the figures, and shows the curves.

    python scripts/precision_curves.py --output /tmp/precision --figure docs/images/precision.png
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

from PIL import Image, ImageDraw

import finetrainers
from finetrainers.config import load_config
from finetrainers.quickstart.image import IMAGE
from finetrainers.quickstart.project import write_project

DTYPES = {"float32": "#1f4e9c", "bfloat16": "#d1492e"}
"""Types that are compared, with the colours of their curves."""
ENCODERS = ("vae", "text_encoder", "text_encoder_2")
NUM_HELD_OUT = 16
"""Pictures that the held-out loss is measured on."""
WIDTH, HEIGHT, MARGIN = 900, 520, 60

Curve = list[tuple[int, float]]
"""Held-out loss at steps."""


def main() -> None:
    """Train what has not been trained yet, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs; those that are finished are kept")
    parser.add_argument("--figure", type=Path, help="PNG of the curves")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    runs = {(dtype, seed): trained(options, dtype, seed) for seed in range(options.seeds) for dtype in DTYPES}
    last = {dtype: [runs[dtype, seed][-1][1] for seed in range(options.seeds)] for dtype in DTYPES}
    apart = [abs(one - other) for one, other in zip(*last.values(), strict=True)]
    figures = {
        "steps": options.steps,
        "held-out loss before": round(mean(runs["float32", seed][0][1] for seed in range(options.seeds)), 4),
        "held-out loss after": {dtype: [round(loss, 4) for loss in losses] for dtype, losses in last.items()},
        "between types, mean over seeds": round(mean(apart), 5),
        "between seeds, standard deviation": round(stdev(last["float32"]), 5),
    }
    print(json.dumps(figures, indent=1))
    if options.figure is not None:
        draw(runs).save(options.figure)


def trained(options: argparse.Namespace, dtype: str, seed: int) -> Curve:
    """Train the quick start's LoRA, and measure its held-out loss; all seeds train on the data of seed 0."""
    project = replace(IMAGE, output=options.output, device=options.device)
    write_project(project)
    run = options.output / f"{dtype}-{seed}"
    overrides = [
        f"output_dir={run}",
        f"seed={seed}",
        f"model.dtype={dtype}",
        f"model.components={json.dumps({name: {'dtype': 'float32'} for name in ENCODERS})}",
        f"train.steps={options.steps}",
        "schedule={name: constant}",
        "validation.prompts=null",
        f"validation.every={max(options.steps // 5, 1)}",
        f"validation.max_items={NUM_HELD_OUT}",
    ]
    finetrainers.train(load_config(project.config_file, overrides))
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    return [(event["step"], event["held_out_loss"]) for event in events if event["event"] == "validation"]


def draw(runs: dict[tuple[str, int], Curve]) -> Image.Image:
    """Draw held-out loss over steps, one line a run, from the second measurement on: the first is that of no training."""
    runs = {key: curve[1:] for key, curve in runs.items()}
    first, steps = (pick(step for curve in runs.values() for step, _ in curve) for pick in (min, max))
    losses = [loss for curve in runs.values() for _, loss in curve]
    low, high = min(losses), max(losses)
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    canvas = ImageDraw.Draw(image)
    canvas.rectangle((MARGIN, MARGIN, WIDTH - MARGIN, HEIGHT - MARGIN), outline="#888888")
    for (dtype, _), curve in runs.items():
        points = [
            (
                MARGIN + (step - first) / (steps - first) * (WIDTH - 2 * MARGIN),
                HEIGHT - MARGIN - (loss - low) / (high - low) * (HEIGHT - 2 * MARGIN),
            )
            for step, loss in curve
        ]
        canvas.line(points, fill=DTYPES[dtype], width=2)
    canvas.text((MARGIN, MARGIN - 20), "held-out loss of the quick start's LoRA, one line a seed", fill="black")
    for number, (dtype, colour) in enumerate(DTYPES.items()):
        canvas.text((WIDTH - MARGIN - 160, MARGIN + 10 + 16 * number), f"computed in {dtype}", fill=colour)
    for loss, y in ((high, MARGIN), (low, HEIGHT - MARGIN)):
        canvas.text((10, y - 6), f"{loss:.3f}", fill="black")
    for step, x in ((first, MARGIN), (steps, WIDTH - MARGIN - 40)):
        canvas.text((x, HEIGHT - MARGIN + 8), f"step {step}", fill="black")
    return image


if __name__ == "__main__":
    main()
