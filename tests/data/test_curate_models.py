"""Captions and scores of models of transformers, with tiny random ones that are saved to local folders."""

from pathlib import Path

import numpy as np
import pytest
import torch
from curating import config_of, noise, report_of, run
from PIL import Image
from safetensors.torch import save_file
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    BlipProcessor,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from finetrainers.data.curate.prepare import prepare
from finetrainers.errors import ConfigError
from finetrainers.testing.tokenizers import make_llama_tokenizer

SIDE = 28
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {**SMALL, "image_size": SIDE, "patch_size": 14, "initializer_range": 0.5}
CHAT = "{% for part in messages[0].content %}{{ part.text if part.type == 'text' else '<image>' }}{% endfor %}"


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    for seed in range(3):
        Image.fromarray(noise(seed, 48, 48)).save(folder / f"{seed}.png")
    (folder / "0.txt").write_text("mine")
    return folder


def save(folder: Path, *parts: object) -> str:
    for part in parts:
        part.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    labels = {"id2label": {0: "normal", 1: "nsfw", 2: "drawing"}, "label2id": {"normal": 0, "nsfw": 1, "drawing": 2}}
    model = ViTForImageClassification(ViTConfig(**VISION, **labels))
    return save(tmp_path_factory.mktemp("vit"), model, ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    model = CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION, projection_dim=8))
    size = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    return save(tmp_path_factory.mktemp("clip"), model, CLIPImageProcessorPil(**size))


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    tokenizer = make_llama_tokenizer(["What is this? blobs of many colors"])
    text = LlamaConfig(vocab_size=len(tokenizer), **SMALL, num_key_value_heads=1, initializer_range=0.5)
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    config = LlavaConfig(vision_config=CLIPVisionConfig(**VISION), text_config=text, image_token_index=image_token)
    size = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    processor = LlavaProcessor(
        CLIPImageProcessorPil(**size),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    )
    return save(tmp_path_factory.mktemp("llava"), LlavaForConditionalGeneration(config), processor)


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    tokenizer = make_llama_tokenizer(["a photo of blobs of many colors"])
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "sep_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    text = {**SMALL, "vocab_size": len(tokenizer), "encoder_hidden_size": 16, "initializer_range": 0.5, **ids}
    config = BlipConfig(text_config=text, vision_config=VISION, projection_dim=16, image_text_hidden_size=16)
    processor = BlipProcessor(BlipImageProcessorPil(size={"height": SIDE, "width": SIDE}), tokenizer)
    return save(tmp_path_factory.mktemp("blip"), BlipForConditionalGeneration(config), processor)


def test_a_classifier_gives_the_probabilities_of_its_labels(raw: Path, vit: str, tmp_path: Path) -> None:
    step = {"kind": "classify", "model": {"path": vit}, "scores": {"nsfw": "nsfw", "drawn": "drawing"}}
    rows = run(raw, tmp_path / "out", step, {"kind": "keep", "where": "nsfw + drawn <= 1"})
    model, processor = ViTForImageClassification.from_pretrained(vit), ViTImageProcessorPil.from_pretrained(vit)
    pictures = [Image.open(raw / f"{seed}.png") for seed in range(3)]
    wanted = model(**processor(images=pictures, return_tensors="pt")).logits.softmax(-1).detach().numpy()
    np.testing.assert_allclose([[row["nsfw"], row["drawn"]] for row in rows], wanted[:, 1:], atol=1e-4)
    assert np.ptp(wanted[:, 1]) > 1e-3


def test_a_label_that_a_model_has_not_is_told_before_anything_is_read(raw: Path, vit: str, tmp_path: Path) -> None:
    step = {"kind": "classify", "model": {"path": vit}, "scores": {"nsfw": "porn"}}
    with pytest.raises(ConfigError, match=r"steps.0.scores.nsfw: .* no label 'porn'; it has normal, nsfw, drawing"):
        prepare(config_of(raw, tmp_path / "out", step))
    with pytest.raises(ConfigError, match=r"steps.0.model.path: .* cannot be used"):
        prepare(config_of(raw, tmp_path / "out", {**step, "model": {"path": str(tmp_path)}}))
    assert not (tmp_path / "out").exists()


def test_a_head_on_clip_gives_the_aesthetic_score(raw: Path, clip: str, tmp_path: Path) -> None:
    head = {"weight": torch.randn(1, 8), "bias": torch.randn(1)}
    save_file(head, tmp_path / "head.safetensors")
    torch.save(head, tmp_path / "head.pth")
    step = {"kind": "aesthetic", "model": {"path": clip}}
    rows = run(raw, tmp_path / "a", {**step, "head": str(tmp_path / "head.safetensors")})
    same = run(raw, tmp_path / "b", {**step, "head": str(tmp_path / "head.pth")})
    model, processor = CLIPVisionModelWithProjection.from_pretrained(clip), CLIPImageProcessorPil.from_pretrained(clip)
    pictures = [Image.open(raw / f"{seed}.png") for seed in range(3)]
    embeddings = model(**processor(images=pictures, return_tensors="pt")).image_embeds.detach()
    wanted = (embeddings / embeddings.norm(dim=-1, keepdim=True)) @ head["weight"].T + head["bias"]
    assert [row["aesthetic"] for row in rows] == pytest.approx(wanted[:, 0].tolist(), abs=1e-3)
    assert same == rows
    torch.save({"weight": torch.zeros(1, 9), "bias": torch.zeros(1)}, tmp_path / "wide.pth")
    with pytest.raises(ConfigError, match=r"steps.0.head: .*wide.pth holds no weight \[1, 8\]"):
        prepare(config_of(raw, tmp_path / "c", {**step, "head": str(tmp_path / "wide.pth")}))


def test_a_chat_model_writes_captions_where_there_are_none(raw: Path, llava: str, tmp_path: Path) -> None:
    step = {"kind": "caption", "model": {"path": llava}, "prompt": "What is this?", "max_tokens": 4}
    rows = run(raw, tmp_path / "out", step)
    assert rows[0]["caption"] == "mine"
    assert rows[1]["caption"] != rows[2]["caption"]
    assert not any("What is this" in row["caption"] or "<image>" in row["caption"] for row in rows)
    replaced = run(raw, tmp_path / "replaced", {**step, "replace": True})
    assert [row["caption"] for row in replaced[1:]] == [row["caption"] for row in rows[1:]]
    assert replaced[0]["caption"] != "mine"


def test_a_model_without_a_chat_template_goes_on_with_the_prompt(raw: Path, blip: str, tmp_path: Path) -> None:
    rows = run(raw, tmp_path / "out", {"kind": "caption", "model": {"path": blip}, "prompt": "a photo of", "max_tokens": 4})
    assert rows[0]["caption"] == "mine"
    assert all(row["caption"] for row in rows)
    assert report_of(tmp_path / "out")["captioned"] == 3
