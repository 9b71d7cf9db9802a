"""Measure whether control works as control: edges as the condition of the quick start's base, learned in a few minutes.

Renders scenes whose captions say what there is and not where or how large, trains a LoRA with
``conditioning: {kind: channel_concat, signal: canny}`` on them through an ordinary configuration, and draws held-out scenes
with their own edges, with those of another scene, with none, and with the untrained model. What agrees is measured from the
pixels. docs/trainer/control.md has the figures.

    OMP_NUM_THREADS=1 python scripts/measure_control.py --output /tmp/control
"""

import argparse
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from PIL import Image, ImageDraw

import finetrainers
from finetrainers.data.media.signals import canny
from finetrainers.files.whole import whole_directory, write_whole
from finetrainers.quickstart.comparison import (
    CAPTION_SIZE,
    CELL,
    INK,
    LABEL_SIZE,
    MARGIN,
    MARK_SIZE,
    corner,
    font,
    size_of,
    wrap,
)
from finetrainers.quickstart.drawing import SIZE, Pixels
from finetrainers.quickstart.language import MAX_TOKENS
from finetrainers.quickstart.measure import measure
from finetrainers.quickstart.reading import label_pixels, off_ground, read_ground
from finetrainers.quickstart.scenes import Kind, Scene, Split, render_scene, with_article
from finetrainers.sampling.sample import sample_run

BASE = Path(finetrainers.__file__).parent / "quickstart/bases/image"
KINDS: tuple[Kind, ...] = ("single", "pair")
"""Scenes whose layout differs most from one to the next."""
LOW, HIGH = 50.0, 100.0
"""Canny's thresholds. Colours of one brightness have no edge between them: so 12 % of the scenes have none at all, and with
the defaults, 100 and 200, 23 %."""
TARGETS = [
    *("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
    *("proj_mlp", "proj_out", "net.0.proj", "net.2", "linear", "context_embedder"),
]
"""All linear layers, as the quick start has them, but the widened one, which is trained in full."""
STEPS = 16
"""Denoising steps of each picture."""
NUM_SHOWN = 8
"""Held-out scenes in control.png."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Item:
    """A rendered scene and its picture on the disk."""

    scene: Scene
    pixels: Pixels
    file: Path


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far a picture [H, W, C] agrees with the control and the scene of an item; each in 0..1."""

    edge_precision: float
    """Part of the picture's edge pixels that have one of the control no further than a pixel away, diagonals included."""
    edge_recall: float
    """Part of the control's edge pixels that have one of the picture as near."""
    edge_f1: float
    """Harmonic mean of the two; 0 where either has no edges."""
    overlap: float
    """Intersection over union of what is not ground, with the same of the scene."""
    placed: float
    """1 where all things are in the places of the scene, and nothing else is: shapes and colours, too."""
    right: float
    """1 where, beside that, their sizes and the ground are right."""


def edges_of(pixels: Pixels) -> Mask:
    """Find the edges of a picture [H, W, C] as the control is made."""
    return np.asarray(canny(torch.tensor(pixels)[None], low=LOW, high=HIGH)[0, :, :, 0].numpy() > 0)


def widened(mask: Mask) -> Mask:
    """Add all eight neighbours of each pixel."""
    padded = np.pad(mask, 1)
    rows, columns = mask.shape
    return np.logical_or.reduce([padded[y : y + rows, x : x + columns] for y in range(3) for x in range(3)])


def edge_scores(found: Mask, wanted: Mask) -> tuple[float, float, float]:
    """Return precision, recall and F1 of edge pixels, within one pixel; all 0 where either mask is empty."""
    if not found.any() or not wanted.any():
        return 0.0, 0.0, 0.0
    precision, recall = float(widened(wanted)[found].mean()), float(widened(found)[wanted].mean())
    return precision, recall, 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def overlap_of(pixels: Pixels, others: Pixels) -> float:
    """Return intersection over union of what is not ground in two pictures; 0 where neither shows anything."""
    labels = label_pixels(pixels), label_pixels(others)
    one, other = (off_ground(each, read_ground(each)) for each in labels)
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 0.0


def agreement(pixels: Pixels, item: Item) -> Agreement:
    """Compare a picture with an item's control and scene."""
    checked = measure(pixels, item.scene)
    return Agreement(
        *edge_scores(edges_of(pixels), edges_of(item.pixels)),
        overlap=overlap_of(pixels, item.pixels),
        placed=float(checked.checks["place"] and checked.checks["count"]),
        right=float(checked.is_right),
    )


def mean_of(measured: Sequence[Agreement]) -> dict[str, float]:
    """Average each figure."""
    return {
        field.name: round(float(np.mean([getattr(one, field.name) for one in measured])), 4) for field in fields(Agreement)
    }


def caption_without_layout(scene: Scene) -> str:
    """Name shapes and colours, and neither places nor sizes."""
    things = " and ".join(f"{with_article(thing.colour)} {thing.shape}" for thing in scene.things)
    return f"{things} on {scene.ground}"


def write_items(directory: Path, count: int, *, seed: int, split: Split) -> list[Item]:
    """Write the first scenes of a split that have edges, each with its caption beside it, unless they are there."""
    items: list[Item] = []
    index = 0
    while len(items) < count:
        pixels, scene = render_scene(index, seed, split=split, kinds=KINDS)
        index += 1
        if edges_of(pixels).any():
            items.append(Item(scene, pixels, directory / f"{len(items):04d}.png"))
    if not directory.exists():
        with whole_directory(directory) as temporary:
            for item in items:
                Image.fromarray(item.pixels).save(temporary / item.file.name)
                (temporary / item.file.with_suffix(".txt").name).write_text(caption_without_layout(item.scene) + "\n")
    return items


def make_config(options: argparse.Namespace) -> dict[str, Any]:
    """Return what any user would write."""
    output: Path = options.output
    return {
        "output_dir": str(output / "run"),
        "seed": options.seed,
        "model": {"path": str(BASE), "dtype": "float32", "max_sequence_length": MAX_TOKENS},
        "data": [{"path": str(output / "train"), "buckets": [[1, SIZE, SIZE]], "caption_dropout": 0.1}],
        "conditioning": {
            "kind": "channel_concat",
            "signal": "canny",
            "canny_low": LOW,
            "canny_high": HIGH,
            "probability": 0.9,
        },
        "tuning": {"kind": "lora", "rank": options.rank, "alpha": options.rank, "targets": TARGETS},
        "optimizer": {"lr": options.lr},
        "schedule": {"name": "cosine", "warmup_steps": options.steps // 20},
        "train": {"steps": options.steps, "batch_size": options.batch, "micro_batch_size": options.batch, "device": "cpu"},
        "loader": {"workers": 0},
        "cache": {"path": str(output / "cache"), "batch_size": 32},
        "track": {"every": 10},
    }


def draw(
    run: Path, items: Sequence[Item], controls: Sequence[Item | None], *, seed: int, use_base: bool = False
) -> list[Pixels]:
    """Draw the items' captions with the controls of some items, or with none; the noise depends on seed and number."""
    prompts = [
        {
            "prompt": caption_without_layout(item.scene),
            "num_inference_steps": STEPS,
            "seed": seed * 1_000_003 + number,
            "control": None if control is None else str(control.file),
        }
        for number, (item, control) in enumerate(zip(items, controls, strict=True))
    ]
    files = sample_run(run, prompts, use_base=use_base, device="cpu")
    return [np.asarray(Image.open(file).convert("RGB")) for file in files]


def through_autoencoder(items: Iterable[Item]) -> list[Pixels]:
    """Encode and decode the items' own pictures: what draws through this autoencoder cannot be expected to do better."""
    vae = AutoencoderKL.from_pretrained(BASE / "vae").float()
    pictures = []
    for item in items:
        x = torch.from_numpy(item.pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.no_grad():
            decoded = vae.decode(vae.encode(x).latent_dist.mode()).sample[0]
        pictures.append(((decoded.permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy())
    return pictures


def draw_sheet(items: Sequence[Item], rows: Sequence[tuple[str, Sequence[Pixels]]]) -> Image.Image:
    """Put rows of pictures below their captions, each with its edge F1."""
    canvas = Image.new("RGB", size_of(len(items), len(rows)), "white")
    pen = ImageDraw.Draw(canvas)
    for column, item in enumerate(items):
        x, y = corner(0, column)
        pen.multiline_text(
            (x, y - 10), wrap(caption_without_layout(item.scene)), INK, font(CAPTION_SIZE), anchor="ld", spacing=5
        )
        for row, (_, pictures) in enumerate(rows):
            x, y = corner(row, column)
            canvas.paste(Image.fromarray(pictures[column]).resize((CELL, CELL), Image.Resampling.NEAREST), (x, y))
            if row:  # the first is the control itself
                score = edge_scores(edges_of(pictures[column]), edges_of(item.pixels))[2]
                pen.text((x, y + CELL + 4), f"edges {score:.2f}", INK, font(MARK_SIZE), anchor="la")
    for row, (label, _) in enumerate(rows):
        pen.text((MARGIN, corner(row, 0)[1] + CELL // 2), label, INK, font(LABEL_SIZE), anchor="lm")
    return canvas.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1)  # the default turns pink to grey


def main() -> None:
    """Render, train, draw, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of everything that is made")
    parser.add_argument("--seed", type=int, default=0, help="of the scenes, the training and the noise")
    parser.add_argument("--scenes", type=int, default=960, help="pictures to learn from")
    parser.add_argument("--held-out", type=int, default=48, help="pictures to draw")
    parser.add_argument("--steps", type=int, default=1100, help="optimizer steps")
    parser.add_argument("--batch", type=int, default=16, help="pictures of a step")
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--rank", type=int, default=16)
    options = parser.parse_args()
    began = time.process_time()
    write_items(options.output / "train", options.scenes, seed=1000 + options.seed, split="train")
    items = write_items(options.output / "held_out", options.held_out, seed=2000 + options.seed, split="held_out")
    config_file = options.output / "config.json"  # JSON is YAML, too
    write_whole(config_file, json.dumps(make_config(options), indent=1) + "\n")
    finetrainers.train(finetrainers.load_config(config_file))
    trained = time.process_time()
    report, drawn = measure_run(options.output / "run", items, seed=options.seed)
    seconds = {"train": trained - began, "draw_and_measure": time.process_time() - trained}
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    facts = {
        "options": settings,
        "cpu_seconds": {key: round(value, 1) for key, value in seconds.items()},
        "agreement": report,
    }
    write_whole(options.output / "report.json", json.dumps(facts, indent=1) + "\n")
    shown = items[:NUM_SHOWN]
    control = [np.repeat(edges_of(item.pixels)[..., None] * np.uint8(255), 3, axis=2) for item in shown]
    rows = [("control", control), ("before", drawn["untrained"]), ("after", drawn["right control"])]
    draw_sheet(shown, [*rows, ("real", [item.pixels for item in shown])]).save(options.output / "control.png", optimize=True)
    print(json.dumps(facts, indent=1))


def measure_run(
    run: Path, items: Sequence[Item], *, seed: int
) -> tuple[dict[str, dict[str, float]], dict[str, list[Pixels]]]:
    """Draw held-out items in all ways; return mean figures of each way, and the pictures."""
    others = [*items[1:], items[0]]
    drawn = {
        "right control": draw(run, items, items, seed=seed),
        "shuffled control": draw(run, items, others, seed=seed),
        "no control": draw(run, items, [None] * len(items), seed=seed),
        "untrained": draw(run, items, items, seed=seed, use_base=True),
        "real, through the autoencoder": through_autoencoder(items),
        "real pictures of other items": [other.pixels for other in others],
    }
    report = {
        way: mean_of([agreement(*pair) for pair in zip(pictures, items, strict=True)]) for way, pictures in drawn.items()
    }
    against = [agreement(*pair) for pair in zip(drawn["shuffled control"], others, strict=True)]
    return {**report, "shuffled control, against that control": mean_of(against)}, drawn


if __name__ == "__main__":
    main()
