"""References: pictures at a size of their own, from the configuration to what plain diffusers draws with the export."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from runs import config_of, flux_tree, merged, write_pictures

import finetrainers
from finetrainers import ConfigError, sample_run
from finetrainers.batch import Batch, Medium
from finetrainers.cli.entry import main
from finetrainers.cli.status import DONE, USER_ERROR
from finetrainers.conditioning import build_conditioning
from finetrainers.config import ReferencesConfig
from finetrainers.data.catalog.buckets import resolve_buckets
from finetrainers.models import Request, open_model
from finetrainers.models.vae import encode_pixels, load_vae
from finetrainers.sampling.references import decode_reference, side_by_side
from finetrainers.sampling.sampler import Sampler
from finetrainers.testing.model_under_test import FULL, LORA, ModelUnderTest
from finetrainers.testing.references import show
from finetrainers.training.build import build_trainer
from finetrainers.training.cards.card import Card, write_card
from finetrainers.training.checks.parts import check_conditioning
from finetrainers.training.directory import run_directory
from finetrainers.training.export import export_facts, export_weights
from finetrainers.training.objective import build_objective
from finetrainers.tuning import build_tuning

REFERENCES = {"kind": "references", "pixels": 2048, "step": 16}
"""32 x 64 pixels, 64 x 32, and what is between."""
CPU = torch.device("cpu")
CALL = {"num_inference_steps": 2, "guidance_scale": 1.0, "seed": 5}


@pytest.fixture(scope="module")
def kontext(tiny: Callable[[str, str], Path]) -> Path:
    return tiny("flux", "kontext")


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a size that references have, so that nothing has to scale it."""
    return write_pictures(tmp_path_factory.mktemp("given"), 1, size=(32, 64), seed=9) / "00.png"


@pytest.fixture(scope="module")
def run(kontext: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of which there is the configuration alone, which is all that the base needs to draw."""
    root = tmp_path_factory.mktemp("base")
    with run_directory(config_of(flux_tree(kontext, root, root, conditioning=REFERENCES))) as directory:
        return directory


def pixels(file: Path) -> Any:
    return np.asarray(Image.open(file)).astype(int)


def decoded(vae: Any, latents: torch.Tensor) -> Any:
    """The picture that a VAE makes of normalized latents [C, 1, H, W]."""
    with torch.no_grad():
        picture = vae.decode(latents[:, 0][None] / vae.config.scaling_factor + vae.config.shift_factor).sample[0]
    return (picture / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).numpy() * 255


def plain(kontext: Path, picture: Path | None, pipeline: Any = None) -> Any:
    """What diffusers' pipeline draws with a picture, or without one."""
    pipeline = diffusers_pipeline(kontext) if pipeline is None else pipeline
    given = {} if picture is None else {"image": Image.open(picture)}
    drawn = pipeline(
        prompt="a dog",
        height=64,
        width=64,
        max_area=64 * 64,
        num_inference_steps=2,
        guidance_scale=1.0,
        max_sequence_length=16,
        generator=torch.Generator().manual_seed(5),
        _auto_resize=False,
        **given,
    ).images[0]
    return np.asarray(drawn).astype(int)


def diffusers_pipeline(kontext: Path) -> Any:
    from diffusers import FluxKontextPipeline

    pipeline = FluxKontextPipeline.from_pretrained(kontext)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"pixels": 100}, "conditioning.pixels: 100 is too small for a size in steps of 16; set 256 or more"),
        ({"probability": 0}, "conditioning.probability: Input should be greater than 0, not 0"),
        ({"step": 0}, "conditioning.step: Input should be greater than or equal to 1, not 0"),
        ({"signal": "gray"}, "conditioning.signal: does not exist with this kind of conditioning"),
    ],
    ids=str,
)
def test_impossible_sections_are_refused(section: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        config_of(flux_tree(tmp_path, tmp_path, tmp_path, conditioning={**REFERENCES, **section}))


def test_a_model_that_takes_no_references_is_refused_before_anything_is_loaded(tiny_ltx: Path, tmp_path: Path) -> None:
    tree = flux_tree(tiny_ltx, write_pictures(tmp_path / "media", 1), tmp_path, conditioning=REFERENCES)
    with pytest.raises(
        ConfigError, match=r"conditioning.kind: references is impossible: ltx_video does not support it in the task"
    ):
        finetrainers.train(config_of(tree))


def test_sizes_that_the_model_cannot_take_are_refused(kontext: Path, tmp_path: Path) -> None:
    config = config_of(flux_tree(kontext, tmp_path, tmp_path, conditioning={**REFERENCES, "step": 8}))
    with pytest.raises(ConfigError, match=r"conditioning.step: 8 makes references of .* impossible for flux; .* of 16"):
        check_conditioning(config, open_model(config.model))


def test_a_run_without_references_takes_none(
    kontext: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with run_directory(config_of(flux_tree(kontext, tmp_path, tmp_path))) as directory:
        assert main(["sample", str(directory), "--base", "--prompt", "a", "--reference", str(picture)]) == USER_ERROR
    assert "prompt 1: reference: the run shows no references" in capsys.readouterr().err


# -- sizes ------------------------------------------------------------------------------------------------------------


def test_the_sizes_of_references_are_about_those_of_kontext() -> None:
    """For each size that its pipeline brings pictures to, there is one of nearly the same proportions and area."""
    from diffusers.pipelines.flux.pipeline_flux_kontext import PREFERRED_KONTEXT_RESOLUTIONS

    sizes = resolve_buckets(ReferencesConfig(kind="references").budget)
    for width, height in PREFERRED_KONTEXT_RESOLUTIONS:
        nearest = min(sizes, key=lambda size: abs(np.log(size[2] * height / (size[1] * width))))
        assert abs(np.log(nearest[2] * height / (nearest[1] * width))) < 0.05
        assert 0.94 < nearest[1] * nearest[2] / (height * width) < 1.01


def test_a_picture_is_brought_to_the_nearest_size_and_cut_around_the_middle(tmp_path: Path) -> None:
    ramp = np.repeat(np.arange(200, dtype=np.uint8)[None, :, None], 20, 0).repeat(3, 2)  # very wide
    Image.fromarray(ramp).save(tmp_path / "wide.png")
    Image.fromarray(ramp.transpose(1, 0, 2)).save(tmp_path / "tall.png")
    sizes = ((1, 64, 32), (1, 32, 32), (1, 32, 64))
    wide, tall = (decode_reference(tmp_path / f"{name}.png", sizes) for name in ("wide", "tall"))
    assert (wide.shape, tall.shape) == ((1, 32, 64, 3), (1, 64, 32, 3))
    assert abs(float(wide.float().mean()) - 100) < 2  # its middle
    assert float(wide.float().std()) < 20  # not all of it, which would be 58


def test_pictures_stand_side_by_side_at_the_height_of_the_result() -> None:
    pictures = [torch.full((1, 32, 64, 3), 50, dtype=torch.uint8), torch.full((1, 64, 32, 3), 200, dtype=torch.uint8)]
    joined = side_by_side(pictures, height=64)
    assert joined.shape == (1, 64, 128 + 32, 3)
    assert (joined[:, :, :128] == 50).all()
    assert (joined[:, :, 128:] == 200).all()


# -- batches ----------------------------------------------------------------------------------------------------------


def test_whether_references_are_seen_is_known_on_the_cpu(kontext: Path, tmp_path: Path) -> None:
    """How many tokens there are follows from it: to wait for the device at each step would cost more than it saves."""
    subject = ModelUnderTest({"path": str(kontext), "max_sequence_length": 16}, (1, 64, 64), tmp_path)
    conditioning = build_conditioning(ReferencesConfig.model_validate(REFERENCES))
    for is_shown, count in ((True, 2), (False, 0)):
        batch = show(subject, subject.batch, is_shown=is_shown)
        for place in (batch, batch.to(torch.device("meta")), batch.rows(slice(1, 2))):  # "meta" has no values
            assert len(conditioning.model_input(place.latents, place)[1].references) == count


def test_references_keep_their_order_beyond_ten() -> None:
    media = {f"reference.{n}": Medium(torch.full((1, 4, 1, 2, 2), float(n)), torch.ones(1, 1)) for n in range(11)[::-1]}
    zeros = torch.zeros(1, 4, 1, 4, 4)
    prompt = finetrainers.Prompt({}, torch.zeros(1))
    batch = Batch(torch.zeros(1), zeros, zeros, zeros, zeros, prompt, media)
    conditioning = build_conditioning(ReferencesConfig.model_validate(REFERENCES))
    shown = conditioning.model_input(zeros, batch)[1].references
    assert [float(picture.mean()) for picture in shown] == list(range(11))


# -- drawing ----------------------------------------------------------------------------------------------------------


def test_a_reference_is_drawn_with_as_plain_diffusers_does(run: Path, kontext: Path, picture: Path, tmp_path: Path) -> None:
    requests = [{**CALL, "prompt": "a dog", **shown} for shown in ({"reference": str(picture)}, {})]
    files = sample_run(run, requests, use_base=True, output=tmp_path, device="cpu")
    drawn, without = (pixels(file) for file in files)
    pipeline = diffusers_pipeline(kontext)
    assert np.abs(drawn - plain(kontext, picture, pipeline)).max() <= 1
    assert np.abs(without - plain(kontext, None, pipeline)).max() <= 1
    assert np.abs(drawn - without).max() > 3


def test_the_command_draws_with_several_references(
    run: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_pictures(tmp_path / "other", 1, size=(100, 60), seed=3) / "00.png"
    words = ["sample", str(run), "--base", "--prompt", "a dog", "--num-inference-steps", "1", "--output", str(tmp_path)]
    orders = ([picture], [picture, other], [other, picture])
    for order in orders:
        assert main([*words, *(word for file in order for word in ("--reference", str(file)))]) == DONE
    drawn = [pixels(Path(line)) for line in capsys.readouterr().out.splitlines()]
    assert all(np.abs(drawn[one] - drawn[two]).max() > 0 for one, two in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.filterwarnings("ignore:`torch_dtype` is deprecated:FutureWarning")
@pytest.mark.parametrize("tuning", [LORA, FULL], ids=["lora", "full"])
def test_the_lines_of_the_card_draw_what_our_sampler_draws(
    tuning: dict[str, Any], kontext: Path, picture: Path, tmp_path: Path
) -> None:
    """After a step that saw references; the lines are run as they stand, but for text, file, seed and number of steps."""
    section = {"path": str(kontext), "max_sequence_length": 16}
    subject = ModelUnderTest(section, (1, 64, 64), tmp_path)
    shown = ModelUnderTest(section, (1, 64, 64), tmp_path, REFERENCES)
    config = shown.config("run", tuning)
    own = build_tuning(config.tuning)
    objective = build_objective(config, subject.model)
    trainer = build_trainer(config, subject.model, objective=objective, tuning=own, device=CPU)
    for _ in range(8):
        trainer.train_step(show(subject, subject.batch))
    with run_directory(config) as directory:
        weights = export_weights(trainer, config, subject.model, own)
        exported = export_facts(trainer, config, subject.model)
        told = Card(config=config, model=subject.model, tuning=own, exported=exported, step=8, num_samples=2)
        card = write_card(weights, told).read_text()
    assert "pipeline_tag: image-to-image" in card
    assert '| Conditioning | kind: "references", pixels: 2048, step: 16, probability: 1.0 |' in card
    request = {**CALL, "prompt": "a dog", "reference": str(picture)}
    files = [sample_run(directory, [request], use_base=base, device="cpu")[0] for base in (False, True)]
    ours, base = (pixels(file) for file in files)
    lines = card.split("```python\n")[1].split("```")[0]
    changes = {"TEXT": "a dog", "FILE": str(picture), 'pipeline.to("cuda")': "", "manual_seed(0)": "manual_seed(5)"}
    changes |= {"steps=30": "steps=2, guidance_scale=1.0", "image.png": str(tmp_path / "drawn.png")}
    lines, count = re.subn(r"resize\(\((64, 32|32, 64)\)\)", "resize((64, 32))", lines)
    assert count == 1
    for old, new in changes.items():
        assert old in lines
        lines = lines.replace(old, new)
    names: dict[str, Any] = {}
    exec(lines, names)  # noqa: S102 - the lines that the card tells users to type
    assert type(names["pipeline"]).__name__ == "FluxKontextPipeline"
    assert np.abs(np.asarray(names["image"]).astype(int) - ours).max() <= 1
    assert np.abs(base - ours).max() > 3


class OneCaption(ModelUnderTest):
    """Two pictures that no caption tells apart."""

    captions = ("a dog", "a dog")


def test_what_is_drawn_follows_the_reference(kontext: Path, tmp_path: Path) -> None:
    """Of two references one asks for latents of 1 and the other for latents of -1; after training each draws its own."""
    subject = OneCaption({"path": str(kontext), "max_sequence_length": 16}, (1, 64, 64), tmp_path)
    shown = replace(subject, conditioning={**REFERENCES, "pixels": 4096})
    config, adapter, vae = shown.config("run"), subject.model.adapter, load_vae(subject.model.pretrained)
    conditioning = build_conditioning(config.conditioning)
    files = [Path(job.target.path) for job in subject.prepared.plan.step(subject.prepared.order, 0)]
    references = torch.cat([encode_pixels(vae, adapter, decode_reference(file, ((1, 64, 64),))[None])[0] for file in files])
    latents = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1, 1).expand_as(subject.batch.latents)
    batch = replace(subject.batch, latents=latents, media={"reference.0": Medium(references, torch.ones(2, 1))})
    assert all(torch.equal(*tensor) for tensor in batch.prompt.text.values())

    trainer, generator = shown.trainer(FULL), torch.Generator().manual_seed(0)
    for _ in range(80):
        noise, level = (torch.randn(shape, generator=generator) for shape in (latents.shape, (2, 1)))
        trainer.train_step(replace(batch, noise=noise, sigma=level.sigmoid()))
    trainer.denoiser.eval()

    sampler = Sampler(subject.model, {"transformer": trainer.denoiser, "vae": vae}, CPU, conditioning, config.data[0])
    text, wanted = subject.alone(0).prompt.text, [decoded(vae, own) for own in latents]
    for sample, file in enumerate(files):
        request = Request("a dog", (1, 64, 64), steps=12, seed=3, guidance=1.0, references=(str(file),))
        with torch.no_grad():
            drawn = pixels(sampler.draw(request, lambda _: text, tmp_path / f"drawn-{sample}"))
        own, other = (np.abs((drawn - wanted[which]).mean((0, 1))).max() for which in (sample, 1 - sample))  # of colours
        assert own < other / 3


# -- from a folder of pairs -------------------------------------------------------------------------------------------


def write_pairs(root: Path) -> Path:
    """Edits with the pictures that they were made of, which have other sizes: one before each, two before the last."""
    media, given = root / "pairs", root / "before"
    write_pictures(media, 6)
    write_pictures(given, 6, size=(40, 80), seed=20)
    write_pictures(root / "more", 1, size=(80, 40), seed=30)
    rows = [
        {"file_name": f"{n:02d}.png", "text": f"edit number {n}", "reference": [f"../before/{n:02d}.png"]} for n in range(6)
    ]
    for caption in media.glob("*.txt"):
        caption.unlink()
    (media / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return media


@pytest.mark.filterwarnings("ignore:`torch_dtype` is deprecated:FutureWarning")
@pytest.mark.parametrize("tuning", [LORA, FULL], ids=["lora", "full"])
def test_a_folder_of_edit_pairs_is_trained_measured_and_drawn(
    tuning: dict[str, Any], kontext: Path, picture: Path, tmp_path: Path
) -> None:
    media = write_pairs(tmp_path)
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps([{**CALL, "prompt": "a dog", "reference": str(picture)}, {**CALL, "prompt": "a dog"}]))
    tree = merged(
        flux_tree(kontext, media, tmp_path, conditioning={**REFERENCES, "probability": 0.5}),
        {
            "tuning": tuning,
            "optimizer": {"lr": 0.02},
            "train": {"steps": 3, "batch_size": 2, "micro_batch_size": 2},
            "validation": {"prompts": str(prompts), "held_out": 0.3},
        },
    )
    result = finetrainers.train(config_of(tree))
    (_, before), (_, after) = result.report["held_out_losses"]
    assert before != after
    validation = tmp_path / "run" / "validation" / "step-000003"
    beside, alone = (pixels(validation / f"{number:02d}.png") for number in range(2))
    assert (beside.shape, alone.shape) == ((64, 128 + 64, 3), (64, 64, 3))  # the picture of 32 x 64 at twice its size
    request = {**CALL, "prompt": "a dog", "reference": str(picture)}
    ours = pixels(sample_run(tmp_path / "run", [request], device="cpu")[0])
    assert np.abs(beside[:, 128:] - ours).max() <= 1
    pipeline = diffusers_pipeline(kontext)
    build_tuning(config_of(tree).tuning).load_exported(pipeline, result.weights)
    assert np.abs(plain(kontext, picture, pipeline) - ours).max() <= 1
    assert np.abs(plain(kontext, picture) - ours).max() > 3
