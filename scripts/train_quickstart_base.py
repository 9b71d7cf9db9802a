"""Train the quick start's text-to-image base with finetrainers' own full-rank trainer.

Renders captioned scenes, writes a random FluxPipeline around the shipped autoencoder and the constructed text encoders,
trains the transformer, measures what it draws, and writes the base in float16. The same command goes on where a stopped
one was; docs/decisions/0003-quickstart-base.md has what it took.

    OMP_NUM_THREADS=1 nice -n 5 python scripts/train_quickstart_base.py --output /tmp/base
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from PIL import Image

import finetrainers
from finetrainers.files.whole import whole_directory, write_whole
from finetrainers.quickstart.base import write_base
from finetrainers.quickstart.drawing import SIZE
from finetrainers.quickstart.evaluate import BASE_SEED, caption_of, evaluate
from finetrainers.quickstart.language import CLIP_DIM, MAX_TOKENS, T5_DIM, make_clip, make_t5
from finetrainers.quickstart.scenes import Split, render_scene, sample_scene

HELD_OUT_SEED, PROMPT_SEED = 22, 23
NUM_HELD_OUT = 512
VAE = Path(finetrainers.__file__).parent / "quickstart/bases/image/vae"
TRANSFORMER = {
    "in_channels": 64,
    "num_layers": 2,
    "num_single_layers": 4,
    "num_attention_heads": 4,
    "attention_head_dim": 32,
    "joint_attention_dim": T5_DIM,
    "pooled_projection_dim": CLIP_DIM,
    "axes_dims_rope": (4, 14, 14),
    "guidance_embeds": False,
}
"""2.4 M parameters: 16 image tokens of 2x2 latents, and 16 text tokens."""


def main() -> None:
    """Render, train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of everything that is made")
    parser.add_argument("--scenes", type=int, default=50_000, help="training pictures")
    parser.add_argument("--steps", type=int, default=40_000)
    parser.add_argument("--lr", type=float, default=2.5e-3)
    parser.add_argument("--from", dest="start", type=Path, help="pipeline to start from; by default a random one")
    parser.add_argument("--schedule", default="constant", help="of the learning rate")
    parser.add_argument("--run", default="run", help="name of the run, a folder under --output")
    options = parser.parse_args()
    write_scenes(options.output / "train", "train", options.scenes, BASE_SEED)
    write_scenes(options.output / "held_out", "held_out", NUM_HELD_OUT, HELD_OUT_SEED)
    start = options.start or write_start(options.output / "start")
    config = make_config(options, start)
    config_file = options.output / f"{options.run}.json"  # JSON is YAML, too
    write_whole(config_file, json.dumps(config, indent=1) + "\n")
    result = finetrainers.train(finetrainers.load_config(config_file))
    pipeline = FluxPipeline.from_pretrained(
        start, transformer=FluxTransformer2DModel.from_pretrained(result.weights / "transformer")
    )
    figures = {
        f"{split} {guidance}": asdict(
            evaluate(pipeline, [sample_scene(n, PROMPT_SEED, split=split) for n in range(500)], guidance=guidance)[0]
        )
        for split in ("held_out", "train")
        for guidance in (1.0, 2.0)
    }
    print(json.dumps(figures, indent=1))
    write_whole(options.output / f"{options.run}-figures.json", json.dumps(figures, indent=1) + "\n")
    write_base(pipeline, options.output / f"{options.run}-base")


def write_scenes(directory: Path, split: Split, count: int, seed: int) -> None:
    """Write pictures and metadata.jsonl, unless they are there."""
    if directory.exists():
        return
    with whole_directory(directory) as temporary, (temporary / "metadata.jsonl").open("w", encoding="utf-8") as metadata:
        for n in range(count):
            pixels, scene = render_scene(n, seed, split=split)
            name = f"{n // 1000:03d}/{n % 1000:03d}.png"
            (temporary / name).parent.mkdir(exist_ok=True)
            Image.fromarray(pixels).save(temporary / name, compress_level=1)
            metadata.write(json.dumps({"file_name": name, "caption": caption_of(scene)}) + "\n")


def write_start(directory: Path) -> Path:
    """Write the pipeline with a random transformer, unless it is there."""
    if not directory.exists():
        torch.manual_seed(0)
        (tokenizer, clip), (tokenizer_2, t5) = make_clip(0), make_t5(0)
        pipeline = FluxPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
            vae=AutoencoderKL.from_pretrained(VAE).float(),
            text_encoder=clip,
            tokenizer=tokenizer,
            text_encoder_2=t5,
            tokenizer_2=tokenizer_2,
            transformer=FluxTransformer2DModel(**TRANSFORMER),
        )
        with whole_directory(directory) as temporary:
            pipeline.save_pretrained(temporary)
    return directory


def make_config(options: argparse.Namespace, start: Path) -> dict[str, object]:
    """Return what any user would write."""
    bucket = {"buckets": [[1, SIZE, SIZE]]}
    return {
        "output_dir": str(options.output / options.run),
        "model": {"path": str(start), "dtype": "float32", "max_sequence_length": MAX_TOKENS},
        "data": [{"path": str(options.output / "train"), **bucket, "caption_dropout": 0.1}],
        "tuning": {"kind": "full"},
        "optimizer": {"lr": options.lr, "beta2": 0.99, "weight_decay": 0.01},
        "schedule": {"name": options.schedule, "warmup_steps": 300},
        "train": {"steps": options.steps, "batch_size": 64, "micro_batch_size": 64, "ema_decay": 0.999},
        "loader": {"workers": 1, "prefetch": 4},
        "cache": {"path": str(options.output / "cache"), "batch_size": 32},
        "checkpoint": {"every": 1000},
        "validation": {
            "every": 1000,
            "data": [{"path": str(options.output / "held_out"), **bucket}],
            "max_items": 128,
            "noise_levels": 4,
        },
        "track": {"every": 50},
    }


if __name__ == "__main__":
    main()
