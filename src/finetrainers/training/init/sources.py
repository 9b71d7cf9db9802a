"""Where the figures of the recipes come from: what model authors publish, and what guides to training say."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Source:
    """One address, and the figures that are taken from it."""

    address: str
    says: str
    """What of it is used, with its own numbers."""


SOURCES = {
    "flux-subject": Source(
        "https://github.com/huggingface/diffusers/blob/main/examples/dreambooth/README_flux.md",
        "a subject from 3 to 5 pictures: 500 steps of 4, 400 passes or more",
    ),
    "flux-config": Source(
        "https://github.com/ostris/ai-toolkit/blob/main/config/examples/train_lora_flux_24gb.yaml",
        "FLUX.1: rank 16, rate 1e-4, 2000 steps of 1; 500 to 4000 are called good",
    ),
    "kontext-config": Source(
        "https://github.com/ostris/ai-toolkit/blob/main/config/examples/train_lora_flux_kontext_24gb.yaml",
        "FLUX.1 Kontext: rank 16, rate 1e-4, 3000 steps of 1",
    ),
    "kontext-pairs": Source(
        "https://docs.seaart.ai/guide-1/2-seaart-ai-basic-function/2-12-lora-training/kontext-training",
        "20 to 50 pairs; captions that say the difference",
    ),
    "edit-expressions": Source(
        "https://happyin.space/image-generation/lora-fine-tuning-for-editing-models/",
        "an editing model: rank 64, rate 1e-4, 100 passes",
    ),
    "klein": Source(
        "https://github.com/stephen37/workshops",
        "FLUX.2 [klein]: a style with rank 16 in 500 to 800 steps, a character with rank 32 in 800 to 1200",
    ),
    "number-a": Source(
        "https://neuraldrift.io/guides/train-flux-lora", "15 to 50 pictures of a character, 50 to 200 of a style"
    ),
    "number-b": Source("https://opncrafter.space/guide/training-style-loras", "15 to 30 pictures of a style"),
    "cogvideox": Source(
        "https://github.com/huggingface/diffusers/blob/main/examples/cogvideo/README.md",
        "25 clips or more; 50 in 1500 to 2000 steps of 1, 100 in 4000; rank 16 or 32, or 64 for what the base is bad at",
    ),
    "ltx-trainer": Source(
        "https://github.com/Lightricks/LTX-Video-Trainer",
        "LTX-Video: rank 32, rate 2e-4, 1500 steps; an effect from 5 clips",
    ),
    "ltx-effect": Source(
        "https://fal.ai/models/fal-ai/ltx23-video-trainer/llms.txt",
        "a later LTX model: rank 32, 2000 steps, 10 files or more",
    ),
    "ltx-long": Source(
        "https://huggingface.co/peteromallet/testtest_2", "LTX-Video: 135 clips, 17000 steps of 1 (126 passes), rank 128"
    ),
    "wan-config": Source(
        "https://github.com/ostris/ai-toolkit/blob/main/config/examples/train_lora_wan21_14b_24gb.yaml",
        "Wan 2.1: rank 32, rate 1e-4, 2000 steps of 1; pictures alone teach characters, and hardly motion",
    ),
    "hunyuan-style": Source(
        "https://huggingface.co/blog/neph1/hunyuan-lora", "HunyuanVideo: a style from pictures in 100 passes"
    ),
    "control-examples": Source(
        "https://github.com/a-r-r-o-w/finetrainers/tree/main/examples/training/control",
        "rank 128; rates of 2e-5 (Wan) and 3e-5 (CogView4), 0.2 and 0.6 of the usual ones",
    ),
    "control-flux": Source(
        "https://github.com/huggingface/diffusers/tree/main/examples/flux-control", "FLUX.1: rank 64, rate 1e-4"
    ),
    "captions": Source(
        "https://help.scenario.com/en/articles/advanced-captioning",
        "captions by kind: what is in all of them is learned with the word, what varies can be prompted",
    ),
    "motion-captions": Source(
        "https://civitai.com/articles/11942",
        "motion: describe scene and people, and not the motion's details; words for it inside the sentence",
    ),
    "rates": Source(
        "https://chrisg777.github.io/blog/2025/thinky-lora-without-regret/",
        "of language models, in short: the best rate hardly depends on the rank, and large batches are worse",
    ),
}
"""By the name that recipes use. Few are measurements: most say what worked for their author."""
