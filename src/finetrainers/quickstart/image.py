"""The quick start of pictures: banners, learned by a FluxPipeline that knows scenes.

A picture is uint8 [H, W, C].
"""

from collections.abc import Iterable
from pathlib import Path

from diffusers import FluxPipeline
from PIL import Image

from finetrainers.quickstart.concept import ALL_BANNER_KINDS, render_banner
from finetrainers.quickstart.drawing import Pixels
from finetrainers.quickstart.evaluate import BASE_SEED, STEPS, Truth, caption_of, draw
from finetrainers.quickstart.language import MAX_TOKENS
from finetrainers.quickstart.measure import measure
from finetrainers.quickstart.scenes import render_scene
from finetrainers.quickstart.showcase import FineTune, Options, Showcase, Words

GUIDANCE = 2.0
"""Classifier-free guidance of all pictures; docs/decisions/0003-quickstart-base.md has what other values give."""

TARGETS = """\
  # All linear layers: attention alone, the default, learns less in so small a model.
  targets: [to_q, to_k, to_v, to_out.0, add_q_proj, add_k_proj, add_v_proj, to_add_out, proj_mlp, proj_out, net.0.proj,
    net.2, linear, x_embedder, context_embedder]
"""

LOADING = f"""\
import torch
from diffusers import FluxPipeline
pipeline = FluxPipeline.from_pretrained({{base!r}}).to(torch.float32)
pipeline.load_lora_weights({{weights!r}})
pipeline({{prompt!r}}, height=64, width=64, num_inference_steps={STEPS}, max_sequence_length={MAX_TOKENS}, \
true_cfg_scale={GUIDANCE}, negative_prompt="").images[0].save("banner.png")"""


def write_pictures(directory: Path, rendered: Iterable[tuple[Pixels, Truth]]) -> None:
    """Write pictures as 0000.png and so on, each with its caption in a .txt of the same name."""
    directory.mkdir(parents=True, exist_ok=True)
    for n, (pixels, truth) in enumerate(rendered):
        Image.fromarray(pixels).save(directory / f"{n:04d}.png")
        (directory / f"{n:04d}.txt").write_text(caption_of(truth) + "\n", encoding="utf-8")


SHOWCASE: Showcase[Truth] = Showcase(
    words=Words(
        drawn="pictures",
        known="scenes",
        concept="banners",
        sets={
            "base_train": "scenes that the base was trained on",
            "base_held_out": "scenes of combinations that it was not trained on",
            "concept_train": "banners that the LoRA was trained on",
            "concept_held_out": "banners of colours that neither was trained on",
        },
    ),
    fine_tune=FineTune(
        num_frames=1, rank=16, lr="1.0e-2", batch_size=32, lines=TARGETS, prompt={"num_inference_steps": STEPS}
    ),
    base_seed=BASE_SEED,
    render_known=render_scene,
    render_concept=render_banner,
    caption_of=caption_of,
    write=write_pictures,
    pipeline=FluxPipeline,
    draw=draw,
    steps=STEPS,
    guidance=GUIDANCE,
    measure=measure,
    groups=ALL_BANNER_KINDS,
    group_of=lambda truth: truth.kind,
    cell=lambda pixels: pixels,
    save=None,
    loading=LOADING,
    prompt="a banner with three vertical stripes, black, yellow and red, on blue",
)

IMAGE = Options(
    showcase=SHOWCASE,
    base=Path(__file__).parent / "bases" / "image",
    output=Path("quickstart-run"),
    steps=1000,
    num_train=960,
    num_rehearsal=960,
    num_held_out=64,
    num_prompts=128,
)
