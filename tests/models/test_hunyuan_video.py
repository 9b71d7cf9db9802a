"""What HunyuanVideo alone has: a prompt template that is counted in tokens, and pictures that are encoded alone."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from cases import CAPTION, load_pipeline
from diffusers.pipelines.hunyuan_video import pipeline_hunyuan_video, pipeline_hunyuan_video_image2video
from PIL import Image

from finetrainers.config import ModelConfig
from finetrainers.errors import ConfigError
from finetrainers.models import Model, open_model
from finetrainers.models.vae import encode_pixels
from finetrainers.sampling.prompts import make_request

SIZE = (9, 48, 64)
LONG = " ".join(["a red ball"] * 20)
PIPELINES = {"t2v": pipeline_hunyuan_video, "i2v": pipeline_hunyuan_video_image2video}


@pytest.fixture
def make(tiny: Callable[[str, str], Path]) -> Callable[..., Model]:
    def open_tiny(variant: str, **options: Any) -> Model:
        path = str(tiny("hunyuan_video", variant))
        return open_model(ModelConfig(path=path, dtype="float32", max_sequence_length=16, **options))

    return open_tiny


@pytest.mark.parametrize("variant", PIPELINES)
def test_the_template_has_the_tokens_that_the_pipeline_counts_on(variant: str, make: Callable[..., Model]) -> None:
    template = _template(PIPELINES[variant])
    tokenizer = make(variant).pretrained.load("tokenizer")
    ids = tokenizer(template["template"].format(CAPTION))["input_ids"]
    tokens = tokenizer.convert_ids_to_tokens(ids)
    first = template["crop_start"]
    assert tokens[first - 4 : first - 1] == ["<|start_header_id|>", "user", "<|end_header_id|>"]
    assert tokenizer.decode(ids[first:]).startswith(CAPTION)
    if variant == "i2v":
        assert tokens[template["image_emb_start"]] == "<image>"
        assert template["image_emb_end"] - template["image_emb_start"] == template["image_emb_len"]


def test_transformers_still_splits_llama_3_as_llama_2(make: Callable[..., Model]) -> None:
    """Once this fails, finetrainers.compat.tokenizers can go."""
    from transformers import LlamaTokenizerFast

    pretrained = make("t2v").pretrained
    assert pretrained.index["tokenizer"] == ["transformers", "LlamaTokenizerFast"]
    theirs = LlamaTokenizerFast.from_pretrained(pretrained.config.path, subfolder="tokenizer")
    ours = pretrained.load("tokenizer")
    assert ours.decode(ours(CAPTION, add_special_tokens=False)["input_ids"]) == CAPTION
    assert theirs.decode(theirs(CAPTION, add_special_tokens=False)["input_ids"]) != CAPTION


@torch.no_grad()
@pytest.mark.parametrize("variant", ["i2v", "i2v-33ch"])
def test_captions_that_are_cut_are_encoded_as_the_pipeline_does_it_alone(variant: str, make: Callable[..., Model]) -> None:
    model = make(variant)
    pipeline = load_pipeline(model)
    images = [Image.new("RGB", (64, 48), colour) for colour in ("red", "blue")]
    text = model.encode_text(pipeline, [LONG, CAPTION], images, device=torch.device("cpu"))
    step = {"i2v": 4, "i2v-33ch": 2}[variant]
    for row, (caption, image) in enumerate(zip((LONG, CAPTION), images, strict=True)):
        alone = pipeline.encode_prompt(image, caption, max_sequence_length=16, image_embed_interleave=step)
        assert torch.equal(text["prompt_embeds"][row], alone[0][0])
        assert torch.equal(text["prompt_attention_mask"][row], alone[2][0])
    assert text["prompt_embeds"].shape[1] == 576 // step + 16 - 4


@torch.no_grad()
def test_the_first_frame_of_a_clip_has_other_latents_than_the_frame_alone(make: Callable[..., Model]) -> None:
    """Why pictures are encoded alone: the norms of this VAE look at all frames."""
    model = make("i2v")
    pipeline = load_pipeline(model)
    pixels = torch.randint(0, 256, (1, *SIZE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    clip, _ = encode_pixels(pipeline.vae, model.adapter, pixels)
    alone = model.adapter.encode_image(pipeline, pixels, task="image-to-video")["image_latents"]
    assert alone.shape == clip[:, :, :1].shape
    assert (alone - clip[:, :, :1]).abs().max() > 0.1


@pytest.mark.parametrize(
    "variant, task", [("t2v", "image-to-video"), ("i2v", "text-to-video"), ("i2v-33ch", "text-to-video")]
)
def test_a_model_does_the_task_it_was_made_for_and_no_other(variant: str, task: str, make: Callable[..., Model]) -> None:
    own = {"text-to-video", "image-to-video"} - {task}
    assert {make(variant).task} == own
    assert {make(variant, family="hunyuan_video").task} == own
    with pytest.raises(ConfigError, match=f"has no task '{task}'; it has {own.pop()}"):
        make(variant, task=task)


@pytest.mark.parametrize("variant", ["i2v", "i2v-33ch"])
def test_a_prompt_has_to_name_its_picture(variant: str, make: Callable[..., Model]) -> None:
    with pytest.raises(ConfigError, match="has no image, from which image-to-video starts"):
        make_request({"prompt": CAPTION}, "here", make(variant), SIZE)


def test_only_the_model_that_replaces_tokens_gives_its_first_frame(make: Callable[..., Model]) -> None:
    given = {
        variant: (model := make(variant)).adapter.gives_first_frame(model.task) for variant in ("t2v", "i2v", "i2v-33ch")
    }
    assert given == {"t2v": False, "i2v": True, "i2v-33ch": False}


def _template(module: ModuleType) -> dict[str, Any]:
    template: dict[str, Any] = module.DEFAULT_PROMPT_TEMPLATE
    return template
