"""Control training from end to end: what plain diffusers does with the export, frames of clips, validation, errors.

The first step, resuming and continuing are part of the contract suite, which runs over all families.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from runs import adapter_file, card_lines, config_of, events_of, flux_tree, write_pictures
from safetensors.torch import load_file
from torch import Tensor, nn

import finetrainers
from finetrainers.batch import Batch, Medium
from finetrainers.conditioning import build_conditioning
from finetrainers.config import ChannelConcatConfig, DataConfig
from finetrainers.data.cache.store import Cache
from finetrainers.data.conditions import CONTROL
from finetrainers.data.media.files import decode
from finetrainers.data.media.signals import luma
from finetrainers.distributed.world import alone
from finetrainers.errors import ConfigError, DataError
from finetrainers.models import open_model
from finetrainers.models.vae import encode_pixels, encode_video, scale_pixels
from finetrainers.sampling.sample import sample_run
from finetrainers.sampling.sampler import decode_control, write_video
from finetrainers.testing.model_under_test import FULL, LORA, ModelUnderTest
from finetrainers.training.build import build_batches
from finetrainers.training.objective import build_objective
from finetrainers.training.paths import absolute
from finetrainers.training.prepare import prepare
from finetrainers.training.prepared import Prepared
from finetrainers.training.validation.validate import HeldOut
from finetrainers.training.windows import encode_steps

GRAY = {"kind": "channel_concat", "signal": "gray"}
CPU = torch.device("cpu")


def ignore(*_: object) -> None:
    """Take progress and warnings."""


# -- what is exported -------------------------------------------------------------------------------------------------


def without_noise(folder: Path, target: Path) -> Path:
    """Copy a pipeline, and let its VAE answer no deviation and no shift.

    CogView4ControlPipeline draws the control's posterior from the global generator and forgets the shift, which is 0 in
    the published VAE (diffusers 0.42).
    """
    import diffusers

    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
    channels = pipeline.vae.config.latent_channels
    with torch.no_grad():
        pipeline.vae.encoder.conv_out.weight[channels:] = 0.0
        pipeline.vae.encoder.conv_out.bias[channels:] = -60.0
    pipeline.vae.register_to_config(shift_factor=0.0)
    pipeline.save_pretrained(target)
    return target


@pytest.mark.filterwarnings("ignore:`torch_dtype` is deprecated:FutureWarning")  # pipelines of diffusers 0.38 take no other
@pytest.mark.parametrize("tuning", [LORA, FULL], ids=["lora", "full"])
@pytest.mark.parametrize(("family", "variant"), [("flux", "dev"), ("cogview4", "6b")])
def test_the_control_pipelines_of_diffusers_draw_what_our_sampler_draws(
    family: str, variant: str, tuning: dict[str, Any], tiny: Callable[[str, str], Path], tmp_path: Path
) -> None:
    """The card's lines are run as they stand; the pipeline gets the picture and the seed, and nothing else of ours."""
    model = tiny(family, variant) if family == "flux" else without_noise(tiny(family, variant), tmp_path / "model")
    subject = ModelUnderTest({"path": str(model), "max_sequence_length": 16}, (1, 64, 64), tmp_path, GRAY)
    config = subject.config("run", tuning)
    result = finetrainers.train(config)
    request = {"prompt": "a dog", "control": subject.picture(), "num_inference_steps": 2, "guidance_scale": 1.0, "seed": 5}
    ours = np.asarray(Image.open(sample_run(config.output_dir, [request], device="cpu")[0]))

    settings = json.loads((result.weights / "transformer" / "config.json").read_text())
    base = json.loads((model / "transformer" / "config.json").read_text())
    assert settings["in_channels"] == 2 * base["in_channels"]
    assert settings["out_channels"] == base["in_channels"]

    names: dict[str, Any] = {}
    exec(card_lines(result.weights), names)  # noqa: S102 - the lines that the card tells users to type
    pipeline = names["pipeline"]
    assert type(pipeline).__name__ == {"flux": "FluxControlPipeline", "cogview4": "CogView4ControlPipeline"}[family]
    pipeline.set_progress_bar_config(disable=True)
    gray = Image.open(subject.picture()).convert("L").convert("RGB")
    drawn = {
        name: np.asarray(
            pipeline(
                prompt="a dog",
                control_image=picture,
                height=64,
                width=64,
                num_inference_steps=2,
                guidance_scale=1.0,
                max_sequence_length=16,
                generator=torch.Generator().manual_seed(5),
            ).images[0]
        )
        for name, picture in (("gray", gray), ("black", Image.new("RGB", (64, 64))))
    }
    assert np.abs(drawn["gray"].astype(int) - ours).max() <= 1  # one is rounded where the other is not
    assert np.abs(drawn["black"].astype(int) - ours).max() > 8


def test_weights_of_another_shape_are_refused(tiny_flux: Path, tmp_path: Path) -> None:
    subject = ModelUnderTest({"path": str(tiny_flux), "max_sequence_length": 16}, (1, 64, 64), tmp_path, GRAY)
    weights = finetrainers.train(subject.config("run", train={"steps": 1})).weights
    with pytest.raises(ConfigError, match=r"tuning.start_from: .* does not fit: \d+ tensors are others or missing, such as"):
        finetrainers.train(subject.config("other", {**LORA, "rank": 3, "start_from": str(weights)}))
    with pytest.raises(
        ConfigError, match=r"tuning.start_from: .* was trained with lora_alpha: 6.0, not 5.0, and would count"
    ):
        finetrainers.train(subject.config("scale", {**LORA, "alpha": 5, "start_from": str(weights)}))
    with pytest.raises(ConfigError, match="tuning.start_from: there is no folder"):
        finetrainers.train(subject.config("none", {**LORA, "start_from": str(tmp_path / "nowhere")}))
    with pytest.raises(ConfigError, match=r"tuning.start_from: .* does not fit"):
        finetrainers.train(subject.config("full", {**FULL, "start_from": str(weights)}))
    plain = ModelUnderTest({"path": str(tiny_flux), "max_sequence_length": 16}, (1, 64, 64), tmp_path / "plain")
    with pytest.raises(ConfigError, match=r"does not fit: 2 tensors are others or missing, such as x_embedder.bias"):
        finetrainers.train(plain.config("without", {**LORA, "start_from": str(weights)}))
    other = finetrainers.train(plain.config("run", train={"steps": 1})).weights
    with pytest.raises(ConfigError, match=r"does not fit: 2 tensors are others or missing, such as x_embedder.bias"):
        finetrainers.train(subject.config("with", {**LORA, "start_from": str(other)}))


def test_a_run_goes_on_when_what_it_began_from_is_gone(tiny_flux: Path, tmp_path: Path) -> None:
    subject = ModelUnderTest({"path": str(tiny_flux), "max_sequence_length": 16}, (1, 64, 64), tmp_path, GRAY)
    weights = finetrainers.train(subject.config("run", train={"steps": 1})).weights
    tuning = {**LORA, "start_from": str(weights)}
    finetrainers.train(subject.config("on", tuning, train={"steps": 1}))
    shutil.rmtree(weights)
    assert finetrainers.train(subject.config("on", tuning, train={"steps": 2})).steps == 2


def test_a_model_that_has_a_control_already_is_refused(tiny_flux: Path, tmp_path: Path) -> None:
    """Such as FLUX.1-Depth-dev, whose input is twice as wide."""
    model = tmp_path / "model"
    shutil.copytree(tiny_flux, model)
    file = model / "transformer" / "config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({**settings, "in_channels": 2 * settings["in_channels"]}))
    with pytest.raises(
        ConfigError, match=r"model.path: .* takes 32 channels, where noisy latents have 16: it has a control"
    ):
        finetrainers.train(config_of(flux_tree(model, write_pictures(tmp_path / "m", 2), tmp_path, conditioning=GRAY)))


def test_the_card_says_what_the_control_is(tiny_flux: Path, tmp_path: Path) -> None:
    section = {**GRAY, "signal": "blur", "blur_sigma": 3.0}
    weights = finetrainers.train(
        ModelUnderTest({"path": str(tiny_flux)}, (1, 64, 64), tmp_path, section).config("run")
    ).weights
    text = (weights / "README.md").read_text()
    assert '| Conditioning | kind: "channel_concat", signal: "blur", blur_sigma: 3.0, frames: "full", mask: false' in text
    assert "- control\n" in text.split("---")[1]
    assert "canny" not in text
    assert str(tiny_flux) not in (weights / "transformer" / "config.json").read_text()


def test_lora_may_not_adapt_the_widened_layer(tiny_flux: Path, tmp_path: Path) -> None:
    subject = ModelUnderTest({"path": str(tiny_flux)}, (1, 64, 64), tmp_path, GRAY)
    with pytest.raises(ConfigError, match=r"tuning.targets: .*x_embedder, which conditioning trains in full; leave it out"):
        subject.trainer({**LORA, "targets": ["to_q", "x_embedder"]})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_norms_train_too_and_change_no_bit_at_first(dtype: str, tiny_flux: Path, tmp_path: Path) -> None:
    section = {"path": str(tiny_flux), "dtype": dtype}
    plain = ModelUnderTest(section, (1, 64, 64), tmp_path / "plain")
    control = ModelUnderTest(section, (1, 64, 64), tmp_path / "control", {**GRAY, "train_norms": True})
    trainer = control.trainer()
    assert torch.equal(trainer.micro_losses(control.batch), plain.trainer().micro_losses(plain.batch))
    trained = {name for name, parameter in trainer.denoiser.named_parameters() if parameter.requires_grad}
    beside = {name for name in trained if "lora" not in name}
    assert {"x_embedder.weight", "x_embedder.bias"} < beside
    assert {name.split(".")[-2] for name in beside} == {"x_embedder", "norm_q", "norm_k", "norm_added_q", "norm_added_k"}
    with trainer.update.masters():
        before = {name: trainer.denoiser.get_parameter(name).detach().clone() for name in beside}
    trainer.train_step(control.batch)
    with trainer.update.masters():
        after = dict(trainer.denoiser.named_parameters())
    assert all(parameter.dtype == torch.float32 for parameter in before.values())
    assert all(not torch.equal(after[name], parameter) for name, parameter in before.items())


def test_norms_without_weights_are_refused(tiny: Callable[[str, str], Path], tmp_path: Path) -> None:
    section = {"path": str(tiny("cogview4", "6b"))}
    with pytest.raises(ConfigError, match="conditioning.train_norms: CogView4Transformer2DModel has no weights in norms"):
        ModelUnderTest(section, (1, 64, 64), tmp_path, {**GRAY, "train_norms": True}).prepared  # noqa: B018 - before it encodes
    assert not list(tmp_path.rglob("*.safetensors"))


# -- frames of clips --------------------------------------------------------------------------------------------------


def write_clip(file: Path, frames: int, *, seed: int = 0) -> Path:
    """Write noise in blocks; a still where there is one frame."""
    file.parent.mkdir(parents=True, exist_ok=True)
    blocks = np.random.default_rng(seed).integers(0, 256, (frames, 8, 8, 3), np.uint8)
    pictures = [Image.fromarray(block.repeat(8, 0).repeat(8, 1)) for block in blocks]
    if frames == 1:
        pictures[0].save(file.with_suffix(".png"))
        return file.with_suffix(".png")
    return write_video(file.with_suffix(".mp4"), pictures, 8.0)


def prepared_clips(
    model: Path, root: Path, conditioning: dict[str, Any], *, control_frames: int | None, size: int = 17
) -> Any:
    """Configuration and prepared run of two clips of ``size`` frames, each with a control of its own or none."""
    for number in range(2):
        write_clip(root / "media" / str(number), size, seed=number)
        (root / "media" / f"{number}.txt").write_text("a ball")
        if control_frames is not None:
            write_clip(root / "controls" / str(number), control_frames, seed=10 + number)
    data = {"path": str(root / "media"), "buckets": [[size, 64, 64]]}
    if control_frames is not None:
        data["control_path"] = str(root / "controls")
    train = {"steps": 8, "batch_size": 2, "micro_batch_size": 1, "device": "cpu"}
    tree = flux_tree(model, root / "media", root, conditioning=conditioning, train=train)
    config = config_of({**tree, "data": [data]})
    opened = open_model(config.model)
    prepared = prepare(config, opened, CPU, progress=ignore, warn=ignore)
    return config, encode_steps(prepared, config, 0)[0]


def first_batches(config: Any, prepared: Prepared, count: int) -> list[Batch]:
    objective = build_objective(config, prepared.model)
    return list(build_batches(config, prepared, objective=objective, world=alone(), start=0, stop=count))


def channels_of(config: Any, batch: Batch) -> torch.Tensor:
    """What the denoiser sees beside the noisy latents, [B, E, F, H, W]."""
    x, _ = build_conditioning(config.conditioning).model_input(batch.latents, batch)
    assert torch.equal(x[:, : batch.latents.shape[1]], batch.latents)
    return x[:, batch.latents.shape[1] :]


FAMILIES = [("ltx_video", "0.9.0", 8), ("wan", "2.1-t2v", 4), ("cogvideox", "1.5-5b", 4), ("hunyuan_video", "t2v", 4)]
"""Families with VAEs that compress time, and the frames of one latent frame."""


@pytest.mark.parametrize("control_frames", [None, 1, 9, 17, 25], ids=lambda n: f"control of {n}")
@pytest.mark.parametrize("kind", ["full", "index", "prefix", "random", "first_and_last"])
def test_the_frames_that_are_shown_are_the_controls_and_all_others_are_zero(
    kind: str, control_frames: int | None, tiny: Callable[[str, str], Path], tmp_path: Path
) -> None:
    """17 frames are three latent frames of LTX-Video; 9 are two of them, 25 are more than the bucket has."""
    index = {"frame_index": 1} if kind == "index" else {}
    signal = {"signal": "gray" if control_frames is None else "files"}
    section = {"kind": "channel_concat", "frames": kind, "mask": True, **signal, **index}
    if kind == "index" and control_frames == 1:  # nothing to see there
        with pytest.raises(DataError, match="has 1 frames, but the latent frame of conditioning.frame_index needs 9"):
            prepared_clips(tiny("ltx_video", "0.9.0"), tmp_path, section, control_frames=control_frames)
        return
    config, prepared = prepared_clips(tiny("ltx_video", "0.9.0"), tmp_path, section, control_frames=control_frames)
    available = {None: 3, 1: 1, 9: 2, 17: 3, 25: 3}[control_frames]
    seen = set()
    for batch in first_batches(config, prepared, 4):
        assert isinstance(batch.media["control"], Medium)
        channels = channels_of(config, batch)
        latents, mask = channels[:, :-1], channels[:, -1]
        for row in range(2):
            shown = tuple(int(m) for m in mask[row, :, 0, 0])
            assert torch.equal(mask[row], torch.tensor(shown, dtype=torch.float32)[:, None, None].expand_as(mask[row]))
            has_pixels = tuple(int(frame.abs().sum() > 0) for frame in latents[row].unbind(1))
            assert has_pixels == shown
            assert not any(shown[available:])
            seen.add(shown)
    possible = {
        "full": {(1, 1, 1)},
        "index": {(0, 1, 0)},
        "prefix": {(1, 0, 0), (1, 1, 0), (1, 1, 1)},
        "random": {(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1)},
        "first_and_last": {(1, 0, 1)},
    }[kind]
    assert seen <= {tuple(bit * (place < available) for place, bit in enumerate(shown)) for shown in possible}
    assert len(seen) > 1 or len(possible) == 1 or available == 1


@pytest.mark.parametrize("num_latents", [3, 4])
@pytest.mark.parametrize(("family", "variant", "frame_step"), FAMILIES)
def test_a_shorter_control_begins_with_its_clip(
    family: str, variant: str, frame_step: int, num_latents: int, tiny: Callable[[str, str], Path], tmp_path: Path
) -> None:
    """CogVideoX 1.5 puts a copy of the first latent frame before an odd number of them: before the control's, too."""
    section = {"kind": "channel_concat", "signal": "files", "mask": True}
    size = 1 + (num_latents - 1) * frame_step
    half = {"control_frames": 1 + frame_step, "size": size}
    config, prepared = prepared_clips(tiny(family, variant), tmp_path / "half", section, **half)
    adapter = prepared.model.adapter
    assert adapter.grid.vae_frame_step == frame_step
    padding = num_latents % 2 if family == "cogvideox" else 0
    (batch,) = first_batches(config, prepared, 1)
    channels = channels_of(config, batch)
    shown = [1.0] * (padding + 2) + [0.0] * (num_latents - 2)
    assert channels[:, -1, :, 0, 0].tolist() == [shown] * 2
    job = prepared.plan.step(prepared.order, 0)[0]
    pixels = decode(Path(job.media["control"].path), job.media["control"].view).pixels
    mean = encode_video(prepared.model.pretrained.load("vae"), adapter, scale_pixels(pixels[None]))[0][0]
    cached = prepared.encoder.cache.read("latents", job.media["control"].key)[0]["mean"]
    torch.testing.assert_close(cached, mean)
    latents = batch.media["control"].latents[0, :, padding : padding + 2]
    assert torch.equal(batch.media["control"].latents[0, :, :padding], latents[:, :1].expand(-1, padding, -1, -1))
    assert latents.all()
    assert not batch.media["control"].latents[0, :, padding + 2 :].any()
    config, prepared = prepared_clips(tiny(family, variant), tmp_path / "still", section, control_frames=1, size=size)
    (batch,) = first_batches(config, prepared, 1)
    assert batch.media["control"].mask.tolist() == [[1.0] * (padding + 1) + [0.0] * (num_latents - 1)] * 2


@pytest.mark.parametrize(("kind", "shown"), [("index", [0, 0, 1, 0]), ("first_and_last", [1, 1, 0, 1])])
def test_frames_are_counted_without_padding(
    kind: str, shown: list[int], tiny: Callable[[str, str], Path], tmp_path: Path
) -> None:
    """Nine frames are three latent frames of CogVideoX 1.5, and a copy of the first one before them."""
    section = {**GRAY, "frames": kind, **({"frame_index": 1} if kind == "index" else {})}
    config, prepared = prepared_clips(tiny("cogvideox", "1.5-5b"), tmp_path, section, control_frames=None, size=9)
    (batch,) = first_batches(config, prepared, 1)
    assert batch.media["control"].mask.tolist() == [shown] * 2
    section = {**GRAY, "frames": "index", "frame_index": 3}
    with pytest.raises(ConfigError, match="conditioning.frame_index: 3 is beyond the last latent frame.* possible is 2"):
        prepared_clips(tiny("cogvideox", "1.5-5b"), tmp_path / "beyond", section, control_frames=None, size=9)


def test_a_wrong_function_is_no_fault_of_the_media(tiny_flux: Path, tmp_path: Path) -> None:
    """Neither this function mended, nor a run without it, remembers what it did."""
    file, media = tmp_path / "mine.py", write_pictures(tmp_path / "media", 2)
    tree = flux_tree(tiny_flux, media, tmp_path, conditioning={**GRAY, "signal": f"{file}:mine"}, train={"steps": 1})
    tree["data"][0]["on_error"] = "skip"
    file.write_text("def mine(frames):\n    return frames.float()\n")
    with pytest.raises(ConfigError, match=r"conditioning.signal: .*mine.py:mine returned torch.float32"):
        finetrainers.train(config_of(tree))
    file.write_text("def mine(frames):\n    return frames / 0 + undefined\n")
    with pytest.raises(
        ConfigError, match=r"conditioning.signal: .* failed on .*media/0\d.png: NameError: .*fix the function"
    ):
        finetrainers.train(config_of(tree))
    file.write_text("def mine(frames):\n    return 255 - frames\n")
    assert finetrainers.train(config_of(tree)).report["bad_samples"] == []
    plain = {**tree, "conditioning": {}, "output_dir": str(tmp_path / "plain")}
    assert finetrainers.train(config_of(plain)).report["bad_samples"] == []


def test_what_is_shown_belongs_to_the_position(tiny: Callable[[str, str], Path], tmp_path: Path) -> None:
    """Batches of one and of two show the same samples the same frames; dropout shows none of some."""
    section = {**GRAY, "frames": "random", "probability": 0.5}
    config, prepared = prepared_clips(tiny("ltx_video", "0.9.0"), tmp_path, section, control_frames=None)
    batches = first_batches(config, prepared, 8)
    rows = {int(p): row for batch in batches for p, row in zip(batch.positions, batch.media["control"].mask, strict=True)}  # type: ignore[union-attr]
    one = config.model_copy(update={"train": config.train.model_copy(update={"batch_size": 1, "steps": 16})})
    alone = encode_steps(prepare(one, prepared.model, CPU, progress=ignore, warn=ignore), one, 0)[0]
    for batch in first_batches(one, alone, 16):
        assert torch.equal(batch.media["control"].mask[0], rows[int(batch.positions[0])])
    dropped = sum(not row.any() for row in rows.values())
    assert 0 < dropped < len(rows) == 16


@pytest.mark.parametrize("has_files", [False, True], ids=["computed", "files"])
def test_control_and_media_share_crop_and_flip(has_files: bool, tiny_flux: Path, tmp_path: Path) -> None:
    """What the cache holds for the control is the signal of exactly those pixels that the media's latents are of."""
    media = write_pictures(tmp_path / "media", 3, size=(96, 160))
    section = GRAY
    data: dict[str, Any] = {"path": str(media), "buckets": [[1, 64, 64]], "resize": "random_crop", "horizontal_flip": True}
    if has_files:
        section = {**GRAY, "signal": "files"}
        data["control_path"] = str(tmp_path / "gray")
        (tmp_path / "gray").mkdir()
        for file in media.glob("*.png"):
            Image.open(file).convert("L").save(tmp_path / "gray" / file.name)
    config = config_of({**flux_tree(tiny_flux, media, tmp_path, conditioning=section), "data": [data]})
    prepared = encode_steps(prepare(config, open_model(config.model), CPU, progress=ignore, warn=ignore), config, 0)[0]
    cache, vae = prepared.encoder.cache, prepared.model.pretrained.load("vae")
    jobs = [job for step in range(4) for job in prepared.plan.step(prepared.order, step)]
    assert {(job.target.view.flip, job.target.view.crop != (0.5, 0.5)) for job in jobs} == {(False, True), (True, True)}
    for job in jobs:
        gray = luma(decode(Path(job.target.path), job.target.view).pixels)[..., None].expand(-1, -1, -1, 3)
        for pixels, is_close in ((gray, True), (gray.flip(2), False)):
            mean, _ = encode_pixels(vae, prepared.model.adapter, pixels[None])
            cached = cache.read("latents", job.media["control"].key)[0]["mean"]
            difference = (cached - mean[0]).abs().mean() / mean.abs().mean()
            assert difference < 0.1 if is_close else difference > 0.3  # Pillow rounds scaled colours and greys apart


@pytest.mark.parametrize(("probability", "dropout"), [(1.0, 0.0), (0.9, 0.1), (0.7, 0.3), (0.3, 0.7), (0.05, 0.95)])
def test_a_control_is_shown_with_its_probability_by_the_draws_of_earlier_versions(
    probability: float, dropout: float
) -> None:
    """Where they left it out as often, to the last of the draws that are near."""
    section = ChannelConcatConfig(kind="channel_concat", signal="gray", probability=probability)
    near = round(dropout * 2**24) + torch.arange(-5, 6)
    u = (torch.cat([near, torch.arange(0, 2**24, 9973)]).clamp(0, 2**24 - 1).double() / 2**24)[:, None]
    shown = build_conditioning(section).frames["control"].at(u, frames=1, available=torch.ones(len(u)).long())
    assert torch.equal(shown[:, 0] == 1, u[:, 0] >= dropout)
    assert float(shown.mean()) == pytest.approx(probability, abs=0.01)


def test_held_out_items_are_shown_their_control_whatever_the_probability(tiny_flux: Path, tmp_path: Path) -> None:
    losses = []
    for probability in (1.0, 0.1):
        subject = ModelUnderTest({"path": str(tiny_flux)}, (1, 64, 64), tmp_path, {**GRAY, "probability": probability})
        trainer = subject.trainer(FULL)
        with torch.no_grad():
            torch.nn.init.normal_(trainer.denoiser.x_embedder.weight, generator=torch.Generator().manual_seed(0))  # type: ignore[union-attr, arg-type]
            held_out = HeldOut(subject.prepared.plan.held_out(2), subject.prepared.encoder.cache, 4, subject.given_frames)
            losses.append(held_out.measure(trainer).overall)
    assert losses[0] == losses[1]


def test_identity_shows_the_media_and_encodes_nothing_more(tiny_flux: Path, tmp_path: Path) -> None:
    subject = ModelUnderTest(
        {"path": str(tiny_flux)}, (1, 64, 64), tmp_path, {"kind": "channel_concat", "signal": "identity"}
    )
    job = subject.prepared.plan.step(subject.prepared.order, 0)[0]
    assert job.media["control"] == job.target
    assert len(list((tmp_path / "cache" / "latents").rglob("*.safetensors"))) == 2
    sample = subject.batch
    assert "control" in sample.media
    torch.testing.assert_close(sample.media["control"].latents, sample.latents, rtol=0, atol=10.0)
    assert not torch.equal(sample.media["control"].latents, sample.latents)  # drawn from the posterior on its own


def test_a_changed_signal_is_encoded_anew(tiny_flux: Path, tmp_path: Path) -> None:
    keys = {}
    for name, section in {
        "gray": GRAY,
        "weak": {**GRAY, "signal": "blur", "blur_sigma": 1.0},
        "strong": {**GRAY, "signal": "blur", "blur_sigma": 2.0},
    }.items():
        subject = ModelUnderTest({"path": str(tiny_flux)}, (1, 64, 64), tmp_path, section)
        control = subject.prepared.plan.step(subject.prepared.order, 0)[0].media["control"]
        keys[name] = control.key
    assert len(set(keys.values())) == 3


def test_a_small_cache_is_filled_in_windows_of_media_and_controls(
    tiny_flux: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit counts both, at all times, and the weights are those of a run without one."""
    tree = flux_tree(
        tiny_flux,
        write_pictures(tmp_path / "media", 6),
        tmp_path,
        conditioning=GRAY,
        train={"steps": 6, "batch_size": 1, "micro_batch_size": 1},
    )
    whole = finetrainers.train(config_of(tree))
    sizes = [entry.bytes for entry in Cache(tmp_path / "cache").entries()]
    assert len(sizes) == 3 * 6
    limit = 0.6 * sum(sizes)
    small = {"output_dir": str(tmp_path / "small"), "cache": {"path": str(tmp_path / "other"), "max_gb": limit / 1e9}}
    totals, write = [], Cache.write

    def writing(cache: Cache, *item: Any) -> int:
        size = write(cache, *item)
        totals.append(sum(entry.bytes for entry in cache.entries()))
        return size

    monkeypatch.setattr(Cache, "write", writing)
    parts = finetrainers.train(config_of({**tree, **small}))
    assert len(totals) == 3 * 6
    assert max(totals) <= limit
    found = [
        (adapter_file(weights), weights / "transformer/layers.safetensors") for weights in (whole.weights, parts.weights)
    ]
    for first, second in zip(*found, strict=True):
        one, other = load_file(first), load_file(second)
        assert all(torch.equal(tensor, other[key]) for key, tensor in one.items())


# -- validation -------------------------------------------------------------------------------------------------------


def test_validation_draws_the_control_beside_the_result(tiny_flux: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.json"
    picture = write_pictures(tmp_path / "given", 1, seed=9) / "00.png"
    prompts.write_text(json.dumps([{"prompt": "a dog", "control": "given/00.png", "num_inference_steps": 1}]))
    tree = flux_tree(
        tiny_flux,
        write_pictures(tmp_path / "media", 4),
        tmp_path,
        conditioning=GRAY,
        validation={"prompts": str(prompts), "held_out": 0.5},
    )
    result = finetrainers.train(config_of(tree))
    drawn = np.asarray(Image.open(tmp_path / "run" / "validation" / "step-000004" / "00.png"))
    assert drawn.shape == (64, 128, 3)
    assert np.array_equal(drawn[:, :64], np.asarray(Image.open(picture).convert("L").convert("RGB")))
    again = sample_run(
        tmp_path / "run", [{"prompt": "a dog", "control": str(picture), "num_inference_steps": 1}], device="cpu"
    )
    assert np.abs(drawn[:, 64:].astype(int) - np.asarray(Image.open(again[0]))).max() <= 1
    plain = finetrainers.train(
        config_of({**tree, "output_dir": str(tmp_path / "sft"), "conditioning": {}, "validation": {"held_out": 0.5}})
    )
    (_, first), (_, last) = result.report["held_out_losses"]
    assert first == plain.report["held_out_losses"][0][1]  # nothing of the control counts yet
    assert last != plain.report["held_out_losses"][1][1]


SIGNAL = """
def darker(frames):
    return frames // {divisor}
"""


def test_an_edited_signal_is_drawn_anew_and_announced(tiny_flux: Path, tmp_path: Path) -> None:
    """The function's file is part of what a sample's name says, and of what a run goes on with; so is the control's."""
    file = tmp_path / "mine.py"
    file.write_text(SIGNAL.format(divisor=2))
    media = write_pictures(tmp_path / "media", 4)
    tree = flux_tree(tiny_flux, media, tmp_path, conditioning={**GRAY, "signal": f"{file}:darker"}, train={"steps": 1})
    control = tmp_path / "control.png"
    shutil.copy(media / "00.png", control)
    request = {"prompt": "a dog", "control": str(control), "num_inference_steps": 1}
    finetrainers.train(config_of(tree))
    first = sample_run(tmp_path / "run", [request], device="cpu")
    assert sample_run(tmp_path / "run", [request], device="cpu") == first
    file.write_text(SIGNAL.format(divisor=5))
    second = sample_run(tmp_path / "run", [request], device="cpu")
    assert second != first
    shutil.copy(media / "01.png", control)
    assert sample_run(tmp_path / "run", [request], device="cpu") != second
    tree["train"]["steps"] = 2
    finetrainers.train(config_of(tree))
    warnings = [event["message"] for event in events_of(tmp_path / "run") if event["event"] == "warning"]
    assert [message for message in warnings if "the data changed" in message]


def test_the_control_of_a_prompt_is_read_as_the_data_set_is(tmp_path: Path) -> None:
    wide = tmp_path / "wide.png"
    Image.fromarray(np.repeat(np.arange(128, dtype=np.uint8)[None, :, None], 64, 0).repeat(3, 2)).save(wide)
    data = {"path": "d", "buckets": [[17, 64, 64]]}
    cropped, stretched = (
        decode_control(wide, (17, 64, 64), frame_step=8, data=DataConfig.model_validate({**data, "resize": resize}))
        for resize in ("random_crop", "stretch")
    )
    assert cropped.shape == stretched.shape == (1, 64, 64, 3)
    assert abs(int(cropped[0, 0, 0, 0]) - 32) <= 1
    assert int(stretched[0, 0, 0, 0]) <= 1
    clip = write_clip(tmp_path / "clip", 25)
    lengths = {
        name: len(decode_control(clip, (17, 64, 64), frame_step=8, data=DataConfig.model_validate({**data, **keys})))
        for name, keys in {"own": {}, "stride": {"stride": 2}, "fps": {"fps": 2.0}}.items()
    }
    assert lengths == {"own": 17, "stride": 9, "fps": 1}


def test_the_weights_hold_the_widened_layer(tiny_flux: Path, tmp_path: Path) -> None:
    subject = ModelUnderTest({"path": str(tiny_flux)}, (1, 64, 64), tmp_path, GRAY)
    weights = finetrainers.train(subject.config("run")).weights
    layers = load_file(weights / "transformer" / "layers.safetensors")
    assert set(layers) == {"x_embedder.weight", "x_embedder.bias"}
    packed = 4 * subject.model.adapter.grid.channels
    assert layers["x_embedder.weight"].shape[1] == 2 * packed
    assert layers["x_embedder.weight"][:, packed:].abs().max() > 0


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({**GRAY, "signal": "sketch"}, r"conditioning.signal: 'sketch' is none of identity, gray, .*not a file.py:function"),
        ({**GRAY, "blur_sigma": 2}, r"conditioning.blur_sigma: 2.0 has no effect with signal: gray; set signal: blur"),
        ({**GRAY, "frame_index": 1}, r"conditioning.frame_index: 1 has no effect with frames: full; set frames: index"),
        ({**GRAY, "probability": 0.0}, r"conditioning.probability: Input should be greater than 0"),
        ({**GRAY, "train_norms": True}, r"conditioning.train_norms: true has no effect with tuning.kind: full"),
        ({"kind": "none", "signal": "gray"}, r"conditioning.signal"),
    ],
)
def test_impossible_sections_are_refused(section: dict[str, Any], message: str, tmp_path: Path) -> None:
    tree = flux_tree(tmp_path, tmp_path, tmp_path) | {"conditioning": section}
    if "train_norms" in section:
        tree["tuning"] = FULL
    with pytest.raises(ConfigError, match=message):
        config_of(tree)


def test_frames_of_pictures_are_refused(tiny_flux: Path, tmp_path: Path) -> None:
    tree = flux_tree(tiny_flux, write_pictures(tmp_path / "m", 2), tmp_path, conditioning={**GRAY, "frames": "prefix"})
    with pytest.raises(ConfigError, match="conditioning.frames: prefix has no effect on buckets of one latent frame"):
        finetrainers.train(config_of(tree))


def test_a_frame_beyond_the_bucket_is_refused(tiny_ltx: Path, tmp_path: Path) -> None:
    section = {**GRAY, "frames": "index", "frame_index": 3}
    with pytest.raises(
        ConfigError, match="conditioning.frame_index: 3 is beyond the last latent frame of a bucket.* possible is 2"
    ):
        prepared_clips(tiny_ltx, tmp_path, section, control_frames=None)


def test_a_control_that_nobody_looks_at_is_refused(tiny_flux: Path, tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path / "media", 2)
    tree = flux_tree(tiny_flux, pictures, tmp_path)
    tree["data"][0]["control_path"] = str(pictures)
    with pytest.raises(ConfigError, match=r"data.0.control_path: .* has no effect: set conditioning.kind: channel_concat"):
        config_of(tree)
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps([{"prompt": "a dog", "control": "media/00.png"}]))
    tree = flux_tree(tiny_flux, pictures, tmp_path, validation={"prompts": str(prompts)})
    with pytest.raises(ConfigError, match="control: the run shows no control, and would not look at it"):
        finetrainers.train(config_of(tree))
    tree["conditioning"] = GRAY
    (tmp_path / "media" / "bad.png").write_bytes(b"no picture")
    for keys, message in (
        ({"control": "media/99.png"}, r"control: there is no file .*media/99.png"),
        ({"control": "media/bad.png"}, r"prompt 1: control: .*media/bad.png: not an image"),
        (
            {"control": "media/00.png", "control_image": "media/01.png"},
            "'control_image' and another key both give 'control'",
        ),
    ):
        prompts.write_text(json.dumps([{"prompt": "a dog", **keys}]))
        with pytest.raises(ConfigError, match=message):
            finetrainers.train(config_of(tree))


def test_paths_of_a_control_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tree = flux_tree(tmp_path, tmp_path, tmp_path, conditioning={"kind": "channel_concat", "signal": "mine.py:edges"})
    section = absolute(config_of(tree)).conditioning
    assert isinstance(section, ChannelConcatConfig)
    assert section.signal == f"{tmp_path}/mine.py:edges"
    tree["conditioning"]["signal"] = "files"
    tree["data"][0]["control_path"] = "depth"
    assert absolute(config_of(tree)).data[0].control_path == f"{tmp_path}/depth"


def test_a_pipeline_may_hand_latents_over_without_their_name() -> None:
    """As diffusers' pipeline of AuraFlow does: the control follows them all the same."""

    class Taking(nn.Module):
        def forward(self, hidden_states: Tensor, other: int = 0) -> tuple[Tensor, int]:
            return hidden_states, other

    adapter: Any = SimpleNamespace(arrange=lambda x: x[:, :, 0], channel_dim=1)
    hidden, control = torch.randn(2, 3, 4, 4), torch.randn(1, 3, 1, 4, 4)
    conditioning, denoiser = build_conditioning(ChannelConcatConfig(kind="channel_concat", signal="gray")), Taking()
    with conditioning.sampling([denoiser], adapter, {CONTROL: Medium(control, torch.ones(1, 1))}):
        first, second = denoiser(hidden, 5), denoiser(hidden_states=hidden, other=5)
    assert torch.equal(first[0], torch.cat([hidden, control[:, :, 0].expand(2, -1, -1, -1)], 1))
    assert torch.equal(first[0], second[0])
    assert first[1] == second[1] == 5
