"""Text encoders that see the picture a video starts from: nothing twice, nothing stale, and what the pipeline would see."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import load_pipeline
from PIL import Image
from runs import Tree, config_of, events_of, merged

from finetrainers import encode, train
from finetrainers.config import ModelConfig
from finetrainers.data.cache.store import Cache
from finetrainers.data.catalog.memo import Memo
from finetrainers.encoding.encoder import Encoder
from finetrainers.errors import DataError
from finetrainers.memory.residency import Residency
from finetrainers.models import open_model
from finetrainers.models.hunyuan_video import HunyuanVideo
from finetrainers.sampling.sampler import write_video
from finetrainers.training.prepare import prepare
from finetrainers.training.prepared import Prepared
from finetrainers.training.windows import encode_steps

SIZE = (5, 48, 64)
Seen = list[tuple[str, Image.Image]]


def write_clip(file: Path, caption: str, *, seed: int) -> None:
    blocks = np.random.default_rng(seed).integers(0, 256, (SIZE[0], SIZE[1] // 8, SIZE[2] // 8, 3), np.uint8)
    write_video(file, [Image.fromarray(block.repeat(8, 0).repeat(8, 1)) for block in blocks], 8.0)
    file.with_suffix(".txt").write_text(caption)


@pytest.fixture
def tree(tiny: Callable[[str, str], Path], tmp_path: Path) -> Tree:
    """Clips 0 and 1 are equal, 2 has another caption, 3 other frames."""
    data = tmp_path / "data"
    data.mkdir()
    for number, (caption, seed) in enumerate((("a cat", 0), ("a cat", 0), ("a dog", 0), ("a cat", 3))):
        write_clip(data / f"{number}.mp4", caption, seed=seed)
    return {
        "output_dir": str(tmp_path / "run"),
        "model": {"path": str(tiny("hunyuan_video", "i2v")), "dtype": "float32", "max_sequence_length": 16},
        "data": [{"path": str(data), "buckets": [list(SIZE)]}],
        "tuning": {"kind": "lora", "rank": 2, "alpha": 2},
        "train": {"steps": 2, "batch_size": 4, "micro_batch_size": 2, "device": "cpu"},
        "loader": {"workers": 0},
        "cache": {"path": str(tmp_path / "cache"), "workers": 2},
    }


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Captions that are encoded, with what is seen beside them."""
    pairs: Seen = []
    encode_seen = HunyuanVideo.encode_seen_prompt

    def recording(self: Any, pipeline: Any, captions: Any, images: Any, **options: Any) -> Any:
        pairs.extend(zip(captions, images, strict=True))
        return encode_seen(self, pipeline, captions, images, **options)

    monkeypatch.setattr(HunyuanVideo, "encode_seen_prompt", recording)
    return pairs


def with_prompt(tree: Tree, folder: Path, colour: str) -> Tree:
    """The run with a prompt that starts from a picture of one colour."""
    Image.new("RGB", (70, 50), colour).save(folder / "start.png")
    prompt = {"prompt": "a cat", "image": "start.png", "num_inference_steps": 1}
    (folder / "prompts.json").write_text(json.dumps([prompt]))
    return merged(tree, {"validation": {"prompts": str(folder / "prompts.json")}})


def test_each_pair_of_a_caption_and_a_first_frame_is_encoded_once(tree: Tree, seen: Seen) -> None:
    encode(config_of(tree))
    assert sorted(caption for caption, _ in seen) == ["a cat", "a cat", "a dog"]
    seen.clear()
    encode(config_of(tree))
    assert seen == []


def test_what_is_seen_is_the_first_frame_that_is_trained_on(tree: Tree, seen: Seen) -> None:
    from finetrainers.data.media.files import decode

    prepared = prepare_run(tree)
    jobs = [prepared.plan.job(sample, 0, view=0, caption=0) for sample in (2, 3)]
    wanted = {job.text.caption: decode(Path(job.target.path), job.target.view).pixels[0].numpy() for job in jobs}
    found = [np.asarray(image) for caption, image in seen if caption == "a dog"]
    assert np.array_equal(found[0], wanted["a dog"])
    assert any(np.array_equal(np.asarray(image), wanted["a cat"]) for caption, image in seen if caption == "a cat")


def test_a_changed_clip_has_another_text(tree: Tree, seen: Seen) -> None:
    encode(config_of(tree))
    seen.clear()
    write_clip(Path(tree["data"][0]["path"]) / "3.mp4", "a cat", seed=4)
    encode(config_of(tree))
    assert [caption for caption, _ in seen] == ["a cat"]


def test_a_dropped_caption_still_sees_its_clip(tree: Tree, seen: Seen) -> None:
    data = [{**tree["data"][0], "caption_dropout": 1.0}]
    encode(config_of(merged(tree, {"data": data})))
    assert [caption for caption, _ in seen] == ["", ""]  # one for each content
    assert not np.array_equal(*(np.asarray(image) for _, image in seen))


def test_a_clip_that_cannot_be_decoded_is_named_once(tree: Tree, seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    import finetrainers.encoding.decoding as encoding

    decode = encoding.decode

    def failing(path: Path, view: Any) -> Any:
        if Path(path).name == "3.mp4":
            raise DataError(f"{path}: torn")
        return decode(path, view)

    monkeypatch.setattr(encoding, "decode", failing)
    with pytest.raises(DataError, match=r"1 bad sample:\n.*3\.mp4: torn"):
        encode(config_of(tree))
    skipping = merged(tree, {"data": [{**tree["data"][0], "on_error": "skip"}], "train": {"batch_size": 2}})
    shutil.rmtree(tree["cache"]["path"])
    seen.clear()
    train(config_of(skipping))
    assert sorted(caption for caption, _ in seen) == ["a cat", "a dog"]
    (run,) = (event for event in events_of(tree["output_dir"]) if event["event"] == "run")
    assert run["num_bad"] == 1


def test_a_prompt_is_encoded_with_its_picture(tree: Tree, seen: Seen, tmp_path: Path) -> None:
    """As the pipeline encodes it itself, but for hidden padding; another picture under the same name is another text."""
    red = with_prompt(tree, tmp_path, "red")
    prepared = prepare_run(red)
    (request,) = prepared.requests
    stored, _ = prepared.encoder.cache.read("text", prepared.plan.text_job(request.prompt, request.image).key)
    pipeline = load_pipeline(prepared.model)
    picture = Image.open(tmp_path / "start.png").convert("RGB")
    with torch.no_grad():
        embeds, pooled, mask = pipeline.encode_prompt(picture, "a cat", max_sequence_length=16, image_embed_interleave=4)
    assert torch.equal(stored["prompt_embeds"], embeds[0] * mask[0, :, None])
    assert not mask.all()
    assert torch.equal(stored["pooled_prompt_embeds"], pooled[0])
    assert torch.equal(stored["prompt_attention_mask"], mask[0])
    seen.clear()
    encode(config_of(with_prompt(tree, tmp_path, "blue")))
    assert [(caption, image.getpixel((0, 0))) for caption, image in seen] == [("a cat", (0, 0, 255))]


def test_validation_draws_with_what_was_encoded(tree: Tree, seen: Seen, tmp_path: Path) -> None:
    """Text encoders are loaded once, before the first step."""
    train(config_of(with_prompt(tree, tmp_path, "red")))
    assert len(seen) == 4
    assert [event["samples"] for event in events_of(tree["output_dir"]) if event["event"] == "validation"] == [
        ["00.mp4"]
    ] * 2


def test_a_small_cache_is_filled_in_windows(tree: Tree, seen: Seen) -> None:
    """What is seen counts: each sample has a text of its own."""
    pair = {"train": {"batch_size": 1, "micro_batch_size": 1, "steps": 4}}
    train(config_of(merged(tree, pair)))
    sizes = [entry.bytes for entry in Cache(Path(tree["cache"]["path"])).entries()]
    shutil.rmtree(tree["cache"]["path"])
    seen.clear()
    limit = 0.6 * sum(sizes)
    small = {"cache": {"max_gb": limit / 1e9}, "output_dir": tree["output_dir"] + "-small"}
    train(config_of(merged(merged(tree, pair), small)))
    assert len(seen) >= 3
    assert sum(entry.bytes for entry in Cache(Path(tree["cache"]["path"])).entries()) <= limit


def test_models_that_take_the_picture_differently_share_no_text(tree: Tree, tmp_path: Path) -> None:
    """Same encoders, but every second or every fourth image token."""
    folder = tmp_path / "model"
    shutil.copytree(tree["model"]["path"], folder)
    one = identity_of_text(folder, tmp_path)
    file = folder / "transformer" / "config.json"
    file.write_text(file.read_text().replace("token_replace", "latent_concat"))
    assert identity_of_text(folder, tmp_path) != one


def prepare_run(tree: Tree) -> Prepared:
    """The run, encoded."""
    config = config_of(tree)
    model = open_model(config.model)
    prepared = prepare(config, model, torch.device("cpu"), progress=lambda *_: None, warn=lambda _: None)
    return encode_steps(prepared, config, 0)[0]


def identity_of_text(folder: Path, root: Path) -> str:
    model, nothing = open_model(ModelConfig(path=str(folder))), config_of_cache(root)
    encoder = Encoder(
        model, Cache(root), Memo(root / "memo.sqlite"), nothing, Residency(model, torch.device("cpu")), print, warn=print
    )
    return encoder.identities()[1]


def config_of_cache(root: Path) -> Any:
    from finetrainers.config import CacheConfig

    return CacheConfig(path=root)
