"""What comes out loads in plain diffusers and draws what training drew, alpha != rank included."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from runs import Tree, adapter_file, card_lines, config_of, flux_tree, merged, write_pictures

from finetrainers import __version__, sample_run, train

CAPTION = "picture number 1"
PROMPTS = f'[{{"prompt": "{CAPTION}", "num_inference_steps": 2, "seed": 5}}]'

KINDS: dict[str, Tree] = {
    "lora": {"tuning": {"kind": "lora", "rank": 4, "alpha": 16}},
    "rslora": {"tuning": {"kind": "lora", "rank": 4, "alpha": 16, "rslora": True}},
    "dora": {"tuning": {"kind": "lora", "rank": 4, "alpha": 2, "dora": True}},
    "lora of a regular expression": {
        "tuning": {"kind": "lora", "rank": 2, "alpha": 4, "targets": r".*blocks\.1\..*to_[qk]"}
    },
    "lokr": {"tuning": {"kind": "lokr", "rank": 2, "alpha": 8}},
    "full": {"tuning": {"kind": "full"}},
    "lora with EMA": {"tuning": {"kind": "lora", "rank": 4, "alpha": 16}, "train": {"ema_decay": 0.5}},
    "schedule-free": {"tuning": {"kind": "lora", "rank": 4, "alpha": 8}, "optimizer": {"name": "adamw_schedule_free"}},
}


@pytest.fixture(scope="module")
def tree(tiny_flux: Path, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    root = tmp_path_factory.mktemp("export")
    (root / "prompts.json").write_text(PROMPTS)
    return flux_tree(
        tiny_flux,
        write_pictures(root / "data", 4),
        root,
        optimizer={"lr": 0.05},
        train={"steps": 3},
        validation={"prompts": str(root / "prompts.json")},
    )


def flux_draws(pipeline: Any) -> np.ndarray:
    """Draw as the prompts file says, from text, through the plain pipeline."""
    generator = torch.Generator().manual_seed(5)
    size = {"height": 64, "width": 64, "num_inference_steps": 2, "max_sequence_length": 16}
    pipeline.set_progress_bar_config(disable=True)
    return np.asarray(pipeline(CAPTION, generator=generator, **size).images[0])


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(int) - b.astype(int)).max())


@pytest.fixture(scope="module")
def drawn_by_base(tree: Tree) -> np.ndarray:
    from diffusers import FluxPipeline

    return flux_draws(FluxPipeline.from_pretrained(tree["model"]["path"]))


@pytest.mark.parametrize("kind", KINDS)
def test_flux_draws_the_same_picture_in_plain_diffusers(
    tree: Tree, drawn_by_base: np.ndarray, tmp_path: Path, kind: str
) -> None:
    from diffusers import FluxPipeline, FluxTransformer2DModel

    result = train(config_of(merged(tree, {"output_dir": str(tmp_path / "run"), **KINDS[kind]})))
    validation = tmp_path / "run" / "validation"
    drawn = np.asarray(Image.open(validation / "step-000003" / "00.png"))
    untrained = np.asarray(Image.open(validation / "step-000000" / "00.png"))
    base = tree["model"]["path"]
    assert difference(drawn_by_base, untrained) <= 1
    if kind == "full":
        transformer = FluxTransformer2DModel.from_pretrained(result.weights / "transformer")
        pipeline = FluxPipeline.from_pretrained(base, transformer=transformer)
    else:
        pipeline = FluxPipeline.from_pretrained(base)
        if kind == "lokr":  # pipelines take no LoKr; the transformer does
            pipeline.transformer.load_lora_adapter(result.weights, prefix=None, use_safetensors=True)
        else:
            pipeline.load_lora_weights(result.weights)
    assert difference(drawn, untrained) > 5
    assert difference(flux_draws(pipeline), drawn) <= 1
    own = sample_run(tmp_path / "run", [{"prompt": CAPTION, "num_inference_steps": 2, "seed": 5}], device="cpu")
    assert difference(np.asarray(Image.open(own[0])), drawn) <= 1


@pytest.mark.filterwarnings("ignore:`torch_dtype` is deprecated:FutureWarning")  # pipelines of diffusers 0.38 take no other
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_snippet_of_the_model_card_runs(tree: Tree, tmp_path: Path, dtype: str) -> None:
    """What the card tells others to type loads the trained weights, in the type that they were exported in."""
    for kind in ("lora", "lokr", "full"):
        changes: Tree = {"output_dir": str(tmp_path / kind), "model": {"dtype": dtype}, **KINDS[kind]}
        result = train(config_of(merged(tree, changes)))
        names: dict[str, Any] = {}
        exec(card_lines(result.weights), names)  # noqa: S102 - our own card
        parts = names["pipeline"].components.values()
        bases = {part.dtype for part in parts if isinstance(part, torch.nn.Module)}
        assert bases == {getattr(torch, dtype)}
        if dtype == "float32":
            drawn = np.asarray(Image.open(tmp_path / kind / "validation" / "step-000003" / "00.png"))
            assert difference(flux_draws(names["pipeline"]), drawn) <= 1


CONTROLLED: Tree = {"conditioning": {"kind": "channel_concat", "signal": "gray"}}
EXPORTS = {**{kind: KINDS[kind] for kind in ("dora", "lokr", "full")}, "lora with layers beside it": CONTROLLED}


@pytest.mark.parametrize("kind", EXPORTS)
def test_equal_runs_export_equal_files(tree: Tree, tmp_path: Path, kind: str) -> None:
    """To the byte, manifest included, wherever a run of this name is; only the card names its folder."""
    changes: Tree = {**EXPORTS[kind], "validation": {"prompts": None}}
    files = []
    for name in ("one", "two"):
        weights = train(config_of(merged(tree, {"output_dir": str(tmp_path / name / "run"), **changes}))).weights
        found = {str(f.relative_to(weights)): f.read_bytes() for f in weights.rglob("*") if f.is_file()}
        files.append({file: contents for file, contents in found.items() if file != "README.md"})
        assert not any(str(tmp_path).encode() in contents for contents in files[-1].values())
    assert files[0] == files[1]
    assert "manifest.json" in files[0]


def test_a_finished_run_that_is_given_again_leaves_its_files_as_they_are(tree: Tree, tmp_path: Path) -> None:
    config = config_of(merged(tree, {"output_dir": str(tmp_path), "validation": {"prompts": None}}))
    request = {"prompt": CAPTION, "num_inference_steps": 1}
    manifests, drawn = [], []
    for _ in range(2):
        manifests.append((train(config).weights / "manifest.json").read_text())
        drawn.append(sample_run(tmp_path, [request], device="cpu"))
    assert manifests[0] == manifests[1]
    assert drawn[0] == drawn[1]
    assert list((tmp_path / "samples").iterdir()) == drawn[0]


@pytest.mark.parametrize("kind", ["lora", "dora", "lokr", "lora of a regular expression"])
def test_the_header_says_what_the_file_is_and_no_more(tree: Tree, tmp_path: Path, kind: str) -> None:
    changes: Tree = {"output_dir": str(tmp_path / "run"), "validation": {"prompts": None}, **KINDS[kind]}
    data = {**tree["data"][0], "caption_prefix": "PIKA_CRUSH"}
    config = config_of(merged(tree, changes | {"data": [data, data]}))
    file = adapter_file(train(config).weights)
    header = json.loads(file.read_bytes()[8 : 8 + int.from_bytes(file.read_bytes()[:8], "little")])["__metadata__"]
    assert list(header) == sorted(header)
    settings = json.loads(header.pop("lora_adapter_metadata"))
    assert header == {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"flux-1-dev/{config.tuning.kind}",
        "modelspec.implementation": "diffusers",
        "modelspec.title": f"flux, PIKA_CRUSH ({config.tuning.kind}, 3 steps)",
        "modelspec.resolution": "64x64",
        "modelspec.trigger_phrase": "PIKA_CRUSH",
        "finetrainers.version": __version__,
        "finetrainers.base_model": "flux",
        "finetrainers.family": "flux",
        "finetrainers.task": "text-to-image",
        "finetrainers.tuning": config.tuning.kind,
        "finetrainers.steps": "3",
        "finetrainers.component": "transformer",
    }
    plain = {name.removeprefix("transformer."): value for name, value in settings.items()}
    targets = plain.pop("target_modules")
    assert targets == getattr(config.tuning, "targets", None) or targets == sorted(targets)
    scale = (
        {"lora_alpha": config.tuning.alpha, "use_rslora": False, "use_dora": kind == "dora"}
        if config.tuning.kind == "lora"
        else {"alpha": config.tuning.alpha, "decompose_factor": -1}
    )
    assert plain == {"r": config.tuning.rank, **scale}


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_ltx_draws_the_same_latents_in_plain_diffusers(tiny_ltx: Path, tmp_path: Path, kind: str) -> None:
    """A video run on clips and pictures; compared before the lossy mp4: latents, to float32's rounding."""
    from diffusers import LTXPipeline, LTXVideoTransformer3DModel
    from media_factory import write_counter

    from finetrainers.models import Request, open_model
    from finetrainers.sampling.sampler import Sampler

    (tmp_path / "clips").mkdir()
    for number in range(2):
        write_counter(tmp_path / "clips" / f"{number}.mp4", 12, height=64, width=64)
        (tmp_path / "clips" / f"{number}.txt").write_text(f"clip {number}")
    tree = flux_tree(tiny_ltx, tmp_path / "clips", tmp_path, optimizer={"lr": 0.02}, train={"steps": 3}, **KINDS[kind])
    pictures = {"path": str(write_pictures(tmp_path / "pictures", 2)), "buckets": [[1, 64, 64]]}
    tree["data"] = [{"path": str(tmp_path / "clips"), "buckets": [[9, 64, 64]]}, pictures]
    result = train(config_of(tree))

    base = LTXPipeline.from_pretrained(tiny_ltx)
    with torch.no_grad():
        call = {
            "width": 64,
            "height": 64,
            "num_frames": 9,
            "num_inference_steps": 2,
            "frame_rate": 25.0,
            "output_type": "latent",
        }
        draw = lambda pipe: pipe("clip 1", generator=torch.Generator().manual_seed(0), max_sequence_length=16, **call).frames  # noqa: E731
        untrained = draw(base)
        if kind == "full":
            transformer = LTXVideoTransformer3DModel.from_pretrained(result.weights / "transformer")
            plain = LTXPipeline.from_pretrained(tiny_ltx, transformer=transformer)
        else:
            plain = LTXPipeline.from_pretrained(tiny_ltx)
            plain.load_lora_weights(result.weights)
        drawn = draw(plain)
        assert (drawn - untrained).abs().max() > 0.01
        model = open_model(config_of(tree).model)
        sampler = Sampler(model, {"transformer": plain.transformer, "vae": plain.vae}, torch.device("cpu"))
        request = Request("clip 1", size=(9, 64, 64), steps=2, seed=0)

        def encode(caption: str) -> Any:
            return model.adapter.encode_prompt(plain, [caption], max_length=16, device=torch.device("cpu"))

        ours = sampler.pipeline(request)(**sampler.arguments(request, encode), output_type="latent").frames
    torch.testing.assert_close(ours, drawn, rtol=1e-4, atol=1e-5)
