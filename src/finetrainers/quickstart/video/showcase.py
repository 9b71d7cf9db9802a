"""The quick start of clips: shapes that dissolve, learned by an LTX pipeline that knows moving shapes.

A clip is uint8 [K, H, W, C].
"""

from pathlib import Path

import numpy as np
from diffusers import LTXConditionPipeline
from PIL import Image

from finetrainers.quickstart.drawing import Pixels
from finetrainers.quickstart.language import MAX_TOKENS
from finetrainers.quickstart.showcase import FineTune, Options, Showcase, Words
from finetrainers.quickstart.video.clips import CLIP_SHAPES, FPS, NUM_FRAMES, Clip, clip_caption, render_clip
from finetrainers.quickstart.video.dataset import write_clips
from finetrainers.quickstart.video.effect import render_effect
from finetrainers.quickstart.video.evaluate import BASE_SEED, STEPS, draw_clips
from finetrainers.quickstart.video.measure import measure_clip
from finetrainers.sampling.sampler import write_video

GUIDANCE = 2.0
"""Classifier-free guidance of all clips."""
GRID_COLUMNS, WHITE = 3, 255
ENLARGED = 4
"""How often larger a clip is as a file to look at: there, two by two pixels share a colour."""

LINES = """\
  # All linear layers: attention alone, the default, learns less in so small a model.
  targets: [to_q, to_k, to_v, to_out.0, net.0.proj, net.2, proj_in, proj_out, linear, linear_1, linear_2]
conditioning: {kind: given_frames, frames: none}   # the prompt alone
"""

LOADING = f"""\
import torch
from diffusers import LTXConditionPipeline, utils
pipeline = LTXConditionPipeline.from_pretrained({{base!r}}).to(torch.float32)
pipeline.load_lora_weights({{weights!r}})
utils.export_to_gif(pipeline(prompt={{prompt!r}}, height=64, width=64, num_frames={NUM_FRAMES}, frame_rate={FPS}, \
timesteps=[1000 - 1000 / {STEPS} * n for n in range({STEPS})], guidance_scale={GUIDANCE}, \
max_sequence_length={MAX_TOKENS}).frames[0], "dissolve.gif", fps={FPS:.0f})"""


def frame_grid(pixels: Pixels) -> Pixels:
    """Put the frames of a clip side by side, row by row as one reads, [3 H, 3 W, C]: as large as a cell of the sheet.

    Between two frames there is a white line, on the last pixels of the first one.
    """
    framed = pixels.copy()
    framed[:, -1] = framed[:, :, -1] = WHITE
    rows = [np.concatenate(row, axis=1) for row in np.split(framed, len(framed) // GRID_COLUMNS)]
    return np.concatenate(rows)


def save_clip(stem: Path, pixels: Pixels) -> Path:
    """Write a clip as an mp4 that any player shows, enlarged."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    frames = [Image.fromarray(frame) for frame in pixels.repeat(ENLARGED, axis=1).repeat(ENLARGED, axis=2)]
    return write_video(stem.with_suffix(".mp4"), frames, FPS)


SHOWCASE: Showcase[Clip] = Showcase(
    words=Words(
        drawn="clips",
        known="other clips",
        concept="dissolving shapes",
        sets={
            "base_train": "clips that the base was trained on",
            "base_held_out": "clips of combinations that it was not trained on",
            "concept_train": "dissolving shapes that the LoRA was trained on",
            "concept_held_out": "dissolving shapes of combinations that neither was trained on",
        },
    ),
    fine_tune=FineTune(
        num_frames=NUM_FRAMES,
        rank=16,
        lr="5.0e-3",
        batch_size=32,
        lines=LINES,
        prompt={"num_inference_steps": STEPS, "fps": FPS},
    ),
    base_seed=BASE_SEED,
    render_known=render_clip,
    render_concept=render_effect,
    caption_of=clip_caption,
    write=write_clips,
    pipeline=LTXConditionPipeline,
    draw=draw_clips,
    steps=STEPS,
    guidance=GUIDANCE,
    measure=measure_clip,
    groups=CLIP_SHAPES,
    group_of=lambda clip: clip.shape,
    cell=frame_grid,
    save=save_clip,
    loading=LOADING,
    prompt="a red ring dissolves on black",
)

VIDEO = Options(
    showcase=SHOWCASE,
    base=Path(__file__).parents[1] / "bases" / "video",
    output=Path("quickstart-video-run"),
    steps=800,
    num_train=480,
    num_rehearsal=480,
    num_held_out=64,
    num_prompts=64,
)
