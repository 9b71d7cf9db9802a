"""Train the quick start's text-to-video base with finetrainers' own full-rank trainer.

Renders captioned clips, writes a random LTXConditionPipeline around an autoencoder (which
train_quickstart_video_autoencoder.py trains) and the constructed text encoder, trains the transformer, measures what it
draws, and writes the base in float16. The same command goes on where a stopped one was;
docs/decisions/0005-quickstart-video.md has what it took.

    OMP_NUM_THREADS=1 nice -n 10 python scripts/train_quickstart_video_base.py --output /tmp/base --vae /tmp/video-vae/vae
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLLTXVideo,
    FlowMatchEulerDiscreteScheduler,
    LTXConditionPipeline,
    LTXVideoTransformer3DModel,
)

import finetrainers
from finetrainers.files.whole import whole_directory, write_whole
from finetrainers.quickstart.base import write_base
from finetrainers.quickstart.drawing import SIZE
from finetrainers.quickstart.language import MAX_TOKENS, T5_DIM, make_t5
from finetrainers.quickstart.video.clips import NUM_FRAMES, render_clip, sample_clip
from finetrainers.quickstart.video.dataset import write_clips
from finetrainers.quickstart.video.evaluate import BASE_SEED, evaluate_clips

HELD_OUT_SEED, PROMPT_SEED = 42, 43
NUM_HELD_OUT, NUM_PROMPTS = 512, 350
HEADS, HEAD_DIM = 4, 32
TRANSFORMER = {
    "num_layers": 6,
    "num_attention_heads": HEADS,
    "attention_head_dim": HEAD_DIM,
    "cross_attention_dim": HEADS * HEAD_DIM,
    "caption_channels": T5_DIM,
}
"""1.8 M parameters: 48 tokens, one a latent pixel."""


def main() -> None:
    """Render, train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of everything that is made")
    parser.add_argument("--vae", type=Path, required=True, help="the autoencoder, as diffusers writes it")
    parser.add_argument("--clips", type=int, default=16_000, help="training clips")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--from", dest="start", type=Path, help="pipeline to start from; by default a random one")
    parser.add_argument("--schedule", default="constant", help="of the learning rate")
    parser.add_argument("--run", default="run", help="name of the run, a folder under --output")
    options = parser.parse_args()
    write_clips(options.output / "train", (render_clip(n, BASE_SEED) for n in range(options.clips)))
    held_out = (render_clip(n, HELD_OUT_SEED, split="held_out") for n in range(NUM_HELD_OUT))
    write_clips(options.output / "held_out", held_out)
    start = options.start or write_start(options.output / "start", options.vae)
    config_file = options.output / f"{options.run}.json"  # JSON is YAML, too
    write_whole(config_file, json.dumps(make_config(options, start), indent=1) + "\n")
    result = finetrainers.train(finetrainers.load_config(config_file))
    pipeline = LTXConditionPipeline.from_pretrained(
        start, transformer=LTXVideoTransformer3DModel.from_pretrained(result.weights / "transformer")
    )
    figures = measure_base(pipeline)
    print(json.dumps(figures, indent=1))
    write_whole(options.output / f"{options.run}-figures.json", json.dumps(figures, indent=1) + "\n")
    write_base(pipeline, options.output / f"{options.run}-base")


def write_start(directory: Path, vae: Path) -> Path:
    """Write the pipeline with a random transformer, unless it is there."""
    if not directory.exists():
        torch.manual_seed(0)
        tokenizer, t5 = make_t5(0)
        autoencoder = AutoencoderKLLTXVideo.from_pretrained(vae).float()
        channels = autoencoder.config.latent_channels
        pipeline = LTXConditionPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
            vae=autoencoder,
            text_encoder=t5,
            tokenizer=tokenizer,
            transformer=LTXVideoTransformer3DModel(in_channels=channels, out_channels=channels, **TRANSFORMER),
        )
        with whole_directory(directory) as temporary:
            pipeline.save_pretrained(temporary)
    return directory


def make_config(options: argparse.Namespace, start: Path) -> dict[str, object]:
    """Return what any user would write."""
    bucket = {"buckets": [[NUM_FRAMES, SIZE, SIZE]]}
    return {
        "output_dir": str(options.output / options.run),
        "model": {"path": str(start), "dtype": "float32", "max_sequence_length": MAX_TOKENS},
        "data": [{"path": str(options.output / "train"), **bucket, "caption_dropout": 0.1}],
        "tuning": {"kind": "full"},
        "conditioning": {"kind": "given_frames", "frames": "none"},
        "optimizer": {"lr": options.lr, "beta2": 0.99, "weight_decay": 0.01},
        "schedule": {"name": options.schedule, "warmup_steps": 300},
        "train": {
            "steps": options.steps,
            "batch_size": options.batch,
            "micro_batch_size": options.batch,
            "ema_decay": 0.999,
        },
        "loader": {"workers": 1, "prefetch": 4},
        "cache": {"path": str(options.output / "cache"), "batch_size": 32},
        "checkpoint": {"every": 500},
        "validation": {
            "every": 1000,
            "data": [{"path": str(options.output / "held_out"), **bucket}],
            "max_items": 128,
            "noise_levels": 4,
        },
        "track": {"every": 50},
    }


def measure_base(pipeline: LTXConditionPipeline) -> dict[str, object]:
    """Draw prompts of both splits, with guidance and without, and say what is right."""
    return {
        f"{split} {guidance}": asdict(
            evaluate_clips(
                pipeline, [sample_clip(n, PROMPT_SEED, split=split) for n in range(NUM_PROMPTS)], guidance=guidance
            )[0]
        )
        for split in ("held_out", "train")
        for guidance in (1.0, 2.0)
    }


if __name__ == "__main__":
    main()
