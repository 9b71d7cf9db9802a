"""Frames that are given beside the clip (LTX-Video from 0.9.5 on): what is drawn, cached, told and refused."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import load_pipeline
from PIL import Image

from finetrainers import train
from finetrainers.batch import Prompt
from finetrainers.conditioning import GivenFrames, build_given_frames
from finetrainers.config import Config, ModelConfig, parse_config
from finetrainers.data.order.draws import uniform
from finetrainers.data.order.order import Order
from finetrainers.distributed.world import alone
from finetrainers.errors import ConfigError
from finetrainers.models import open_model
from finetrainers.sampling.sampler import Sampler, task_of
from finetrainers.testing.model_under_test import ModelUnderTest
from finetrainers.training.build import build_batches
from finetrainers.training.objective import build_objective

SIZE = (17, 64, 64)
TASK = "first-last-frame-to-video"
Tiny = Callable[[str, str], Path]


class Clips(ModelUnderTest):
    """Several clips, so that their sets of given frames differ."""

    captions = ("a red ball on the grass", "a dog", "a cat", "a boat")


def subject(tiny: Tiny, folder: Path, task: str = TASK, kind: type[ModelUnderTest] = Clips) -> ModelUnderTest:
    return kind({"path": str(tiny("ltx_video", "0.9.5")), "task": task, "max_sequence_length": 16}, SIZE, folder)


def batches_of(subject: ModelUnderTest, config: Any) -> Any:
    objective, stop = build_objective(config, subject.model), config.train.steps
    groups = subject.prepared.plan.catalog.groups()
    prepared = replace(
        subject.prepared,
        order=Order(config.seed, config.train.batch_size, groups),
        given_frames=build_given_frames(config, subject.model),
    )
    return list(build_batches(config, prepared, objective=objective, world=alone(), start=0, stop=stop))


def test_sets_belong_to_the_step_and_the_sample_position(tiny: Tiny, tmp_path: Path) -> None:
    """How many frames a sample is given is drawn for its step, and which for its position."""
    clips = subject(tiny, tmp_path)
    settings = {"conditioning": {"kind": "given_frames", "frames": "random"}}
    batches = batches_of(clips, clips.config("run", **settings, train={"steps": 8, "batch_size": 4}))
    sets = torch.stack([batch.prompt.given for batch in batches])  # [8 steps, 4, 3]
    seed, steps = clips.prepared.plan.seed, np.arange(8)
    count = 1 + (uniform(seed, steps, "given count") * 3).astype(int)
    assert sets.sum(2).tolist() == [[own] * 4 for own in count.tolist()]
    first = uniform(seed, steps, "given first") * 3 < count
    assert sets[:, :, 0].tolist() == [[own] * 4 for own in first.tolist()]
    one_of_two = sets[sets[:, :, 1:].sum(2) == 1]
    last = uniform(seed, np.arange(32).reshape(8, 4), "given frame 2") < uniform(
        seed, np.arange(32).reshape(8, 4), "given frame 1"
    )
    assert one_of_two[:, 2].tolist() == torch.from_numpy(last)[sets[:, :, 1:].sum(2) == 1].tolist()
    assert {tuple(row) for row in one_of_two[:, 1:].tolist()} == {(True, False), (False, True)}


def test_micro_batches_keep_the_sets_of_their_rows(tiny: Tiny, tmp_path: Path) -> None:
    clips = subject(tiny, tmp_path)
    section = {"kind": "given_frames", "frames": "random"}
    (batch, *_) = batches_of(clips, clips.config("run", conditioning=section, train={"batch_size": 4}))
    parts = batch.to(torch.device("cpu")).split(3)
    assert torch.equal(torch.cat([part.prompt.given for part in parts]), batch.prompt.given)
    assert [len(part.prompt.given) for part in parts] == [3, 1]


@torch.no_grad()
def test_rows_with_different_sets_do_not_disturb_each_other(tiny: Tiny, tmp_path: Path) -> None:
    clips = subject(tiny, tmp_path)
    batch = batches_of(clips, clips.config("run", train={"batch_size": 4, "micro_batch_size": 4, "steps": 1}))[0]
    sets = torch.tensor([[1, 0, 1], [0, 1, 0], [0, 0, 1], [1, 1, 0]], dtype=torch.bool)
    adapter, told = clips.model.adapter, batch.prompt
    denoiser = clips.model.pretrained.load("transformer")
    sigma = torch.where(sets & torch.tensor([True, False, False]), 0.0, 0.6)
    prompt = Prompt(told.text, told.fps, told.image, sets)
    both = adapter.denoise(denoiser, batch.noise, sigma, prompt)
    for row in range(4):
        rows = slice(row, row + 1)
        one = adapter.denoise(denoiser, batch.noise[rows], sigma[rows], prompt.rows(rows))
        torch.testing.assert_close(both[rows], one, rtol=1e-4, atol=1e-5)
    without = adapter.denoise(denoiser, batch.noise, sigma, Prompt(told.text, told.fps, told.image, torch.zeros_like(sets)))
    assert not any(torch.allclose(both[row], without[row], rtol=1e-2, atol=1e-3) for row in range(4))
    with pytest.raises(AssertionError, match="samples of a step are given equally many later frames"):
        adapter.denoise(
            denoiser, batch.noise, sigma, replace(prompt, given=sets & torch.tensor([[True], [True], [True], [False]]))
        )


@torch.no_grad()
def test_keyframes_are_single_pictures_of_every_latent_frame(tiny: Tiny, tmp_path: Path) -> None:
    """Frame 8 f alone, not the clip's own latent frame, which has seen the frames before."""
    from finetrainers.models.vae import encode_pixels

    clips = subject(tiny, tmp_path)
    batch = batches_of(clips, clips.config("run", train={"steps": 1}))[0]
    vae = clips.model.pretrained.load("vae")
    sample = next(
        n
        for n in range(4)
        if torch.allclose(
            encode_pixels(vae, clips.model.adapter, clips.pixels(n)[:, :1])[0][0, :, 0],
            batch.prompt.image["keyframes"][0, :, 0],
            atol=1e-5,
        )
    )
    for frame in range(3):
        alone, _ = encode_pixels(vae, clips.model.adapter, clips.pixels(sample)[:, [8 * frame]])
        torch.testing.assert_close(batch.prompt.image["keyframes"][0, :, frame], alone[0, :, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "task, kind", [(TASK, "random"), ("image-to-video", "auto"), ("text-to-video", "auto")], ids=["random", "first", "none"]
)
def test_the_held_out_loss_is_the_same_each_time(task: str, kind: str, tiny: Tiny, tmp_path: Path) -> None:
    """A model that all but stands still is measured three times in a run: one value."""
    clips = subject(tiny, tmp_path, task)
    sections = {"conditioning": {"kind": "given_frames", "frames": kind}, "validation": {"every": 1, "held_out": 0.3}}
    config = clips.config("held-out", **sections, optimizer={"lr": 1e-30}, train={"steps": 2})
    train(config)
    text = (config.output_dir / "events.jsonl").read_text()
    values = re.findall(r'"held_out_loss": ([\d.e-]+)', text)
    assert len(values) == 3
    assert len(set(values)) == 1


REFUSED = [
    ("0.9.5", "text-to-video", {"frames": "last"}, "impossible in the task text-to-video; set model.task: first-last"),
    ("0.9.0", "image-to-video", {"frames": "random"}, "supports only the first; set first or none"),
    ("0.9.5", TASK, {"frames": "none"}, "none leaves the task first-last-frame-to-video nothing to start from"),
]


@pytest.mark.parametrize("variant, task, section, message", REFUSED)
def test_what_the_model_or_the_task_cannot_is_refused(
    variant: str, task: str, section: Any, message: str, tiny: Tiny
) -> None:
    with pytest.raises(ConfigError, match=f"^conditioning.frames: .*{message}"):
        given_frames_of(tiny("ltx_video", variant), section, task)


def test_families_with_one_noise_level_are_given_none(tiny_flux: Path) -> None:
    with pytest.raises(ConfigError, match="^conditioning.frames: flux has one noise level for all frames"):
        given_frames_of(tiny_flux, {"frames": "first"})
    assert given_frames_of(tiny_flux, {"frames": "none"}).probability == 0


def test_none_and_a_probability_exclude_each_other(tiny_ltx: Path) -> None:
    with pytest.raises(ConfigError, match="conditioning.probability: .* has no effect with frames: none"):
        given_frames_of(tiny_ltx, {"frames": "none", "probability": 0.5})


@pytest.mark.parametrize(
    "variant, task, expected",
    [
        ("0.9.0", "text-to-video", ("first", 0.1)),
        ("0.9.0", "image-to-video", ("first", 1.0)),
        ("0.9.5", "text-to-video", ("first", 0.1)),
        ("0.9.7", TASK, ("first_and_last", 1.0)),
    ],
)
def test_the_task_decides_what_is_given_by_default(variant: str, task: str, expected: Any, tiny: Tiny) -> None:
    path = tiny("ltx_video", variant)
    given_frames = given_frames_of(path, {}, task)
    assert (given_frames.frames, given_frames.probability) == expected
    assert given_frames_of(path, None, task) == given_frames  # nothing said of them, and no section
    config = config_of(path, None, task)
    shift: Any = build_objective(
        config, open_model(config.model)
    ).noise_levels.shift  # of all releases, also where the scheduler states none
    assert (shift.base_tokens, shift.base_mu, shift.max_tokens, shift.max_mu) == (1024, 0.95, 4096, 2.05)


def test_only_releases_with_keyframes_have_the_task(tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match="model.task: this model of ltx_video has no task 'first-last-frame-to-video'"):
        open_model(ModelConfig(path=str(tiny("ltx_video", "0.9.1")), task=TASK))
    for variant in ("0.9.5", "0.9.7"):
        model = open_model(ModelConfig(path=str(tiny("ltx_video", variant))))
        assert (model.task, model.pipeline_class) == ("text-to-video", "LTXConditionPipeline")


@pytest.mark.parametrize("given", [(), ("image",), ("last_image",), ("image", "last_image")])
def test_requests_are_drawn_from_the_frames_that_they_name(given: tuple[str, ...], tiny: Tiny, tmp_path: Path) -> None:
    from finetrainers.sampling.prompts import make_request

    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    model = open_model(ModelConfig(path=str(tiny("ltx_video", "0.9.5")), task=TASK, dtype="float32", max_sequence_length=16))
    row = {"prompt": "a dog", "num_inference_steps": 1, **dict.fromkeys(given, str(tmp_path / "red.png"))}
    request = make_request(row, "prompt", model, SIZE)
    whole = load_pipeline(model)
    sampler = Sampler(model, {"transformer": whole.transformer, "vae": whole.vae}, torch.device("cpu"))

    def encode(caption: str) -> Any:
        return model.adapter.encode_prompt(whole, [caption], max_length=16, device=torch.device("cpu"))

    arguments = sampler.arguments(request, encode)
    frames = [condition.frame_index for condition in arguments.get("conditions", [])]
    assert frames == [{"image": 0, "last_image": 16}[name] for name in given]
    assert not {"image", "last_image"} & set(arguments)
    assert (arguments["decode_timestep"], arguments["decode_noise_scale"]) == (0.05, 0.025)
    assert task_of(request, model) == TASK
    assert sampler.draw(request, encode, tmp_path / "video").is_file()


def config_of(path: Path, section: Any, task: str | None) -> Config:
    tree = {
        "output_dir": "run",
        "model": {"path": str(path), "task": task},
        "data": [{"path": "data", "buckets": [[1, 64, 64]]}],
        "conditioning": {"kind": "none"} if section is None else {"kind": "given_frames", **section},
    }
    return parse_config(tree)


def given_frames_of(path: Path, section: Any, task: str | None = None) -> GivenFrames:
    config = config_of(path, section, task)
    return build_given_frames(config, open_model(config.model))
