"""The examples can be run as they are: every configuration and every prompt of theirs, for every family."""

import json
import math
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ranks
import yaml
from example_data import SMALL, write_data
from runs import config_of, merged

import finetrainers
from finetrainers.config import Config, load_config
from finetrainers.models import adapters, open_model
from finetrainers.sampling.prompts import read_prompts
from finetrainers.testing import CHECKS
from finetrainers.testing.references import REFERENCE_CHECKS
from finetrainers.training.checks.parts import check_buckets, check_computation, check_conditioning
from finetrainers.training.objective import build_objective

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
CONFIGS = sorted(EXAMPLES.rglob("config.yaml"))
SFT = [path for path in CONFIGS if path.is_relative_to(EXAMPLES / "training/sft")]
CONTROL = [path for path in CONFIGS if path.is_relative_to(EXAMPLES / "training/control")]
EDIT = [path for path in CONFIGS if path.is_relative_to(EXAMPLES / "training/edit")]
OF_FAMILIES = [*SFT, *CONTROL, *EDIT]
CUSTOM = EXAMPLES / "custom_model"
RELEASES = {
    "CogVideoX-2b": "2b",
    "CogVideoX-5b": "5b",
    "CogVideoX1.5-5B-I2V": "1.5-5b-i2v",
    "CogView4-6B": "6b",
    "FLUX.1-Kontext-dev": "kontext",
    "FLUX.1-dev": "dev",
    "FLUX.1-schnell": "schnell",
    "HunyuanVideo": "t2v",
    "HunyuanVideo-I2V": "i2v",
    "LTX-Video": "0.9.0",
    "LTX-Video-0.9.7-dev": "0.9.7",
    "Wan2.1-FLF2V-14B-720P-diffusers": "2.1-flf2v",
    "Wan2.1-I2V-14B-480P-Diffusers": "2.1-i2v",
    "Wan2.1-T2V-1.3B-Diffusers": "2.1-t2v",
    "Wan2.2-T2V-A14B-Diffusers": "2.2-t2v-a14b",
    "Wan2.2-TI2V-5B-Diffusers": "2.2-ti2v-5b",
}
"""Tiny variants of the models that examples name."""


def named(path: Path) -> str:
    return "-".join(path.parent.relative_to(EXAMPLES).parts[-3:]).removeprefix("sft-")


def family_of(path: Path) -> str:
    """Family of an example's model: its folder, or what the name of that begins with."""
    return path.parts[-2].partition("_")[0] if path in EDIT else path.parts[-3]


@pytest.fixture(autouse=True)
def from_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Examples name their prompts as they are seen from the root of the repository."""
    monkeypatch.chdir(ROOT)


def stand_in(config: Config, family: str, tiny: Callable[[str, str], Path]) -> Config:
    """The configuration, with a tiny model in place of the one that it would download."""
    path = tiny(family, RELEASES[config.model.path.rpartition("/")[2]])
    return config.model_copy(update={"model": config.model.model_copy(update={"path": str(path)})})


@pytest.mark.parametrize("path", CONFIGS, ids=named)
def test_example_configurations_are_valid(path: Path) -> None:
    config = load_config(path)
    assert (path.parent / "README.md").is_file()
    if path in OF_FAMILIES:
        text = (path.parent / "README.md").read_text()
        assert f"finetrainers train {path.relative_to(ROOT)}" in text
        assert config.validation.prompts == path.relative_to(ROOT).with_name("validation.json")
    if path in SFT:
        assert all(name in text for name in (f"--local-dir {str(data.path).removesuffix('/train')}" for data in config.data))
    if path in CONTROL:
        assert config.conditioning.kind == "channel_concat"
        places = {str(place) for data in config.data for place in (data.path, data.control_path) if place is not None}
        assert all(place.removesuffix("/train") in text for place in places)
        assert f"finetrainers sample {config.output_dir} --prompt" in text
    if path in EDIT:
        assert config.conditioning.kind == "references"
        assert all(str(data.path) in text for data in config.data)
        assert re.search(rf"finetrainers sample {config.output_dir} --prompt .* --reference", text)


@pytest.mark.parametrize("path", OF_FAMILIES, ids=named)
def test_an_example_has_the_figures_of_its_family_or_says_which_they_would_be(path: Path) -> None:
    config, recipe = load_config(path), adapters()[family_of(path)].recipe
    auto, own = {"lr": recipe.lr}, {"lr": config.optimizer.lr}
    if config.tuning.kind == "full":
        auto = {"lr": recipe.full_lr}
    elif config.tuning.kind == "lora":
        auto |= {"rank": recipe.rank, "alpha": recipe.rank * recipe.scale}
        own |= {"rank": config.tuning.rank, "alpha": config.tuning.alpha}
    comments = " ".join(line.partition("#")[2].strip() for line in path.read_text().splitlines())
    missing = [f"{key} {value:g}" for key, value in auto.items() if own[key] != value]
    assert all(re.search(rf"not auto, which is [^:]*{re.escape(one)}", comments) for one in missing), missing


@pytest.mark.parametrize("path", [path for path in OF_FAMILIES if "[[1, " not in path.read_text()], ids=named)
def test_an_example_of_clips_says_at_which_rate(path: Path) -> None:
    """A rate that is not the model's teaches another pace: who keeps the clips' own says why."""
    for data in load_config(path).data:
        (line,) = [line for line in path.read_text().splitlines() if line.strip().startswith("fps:")]
        assert data.fps == "auto" or (data.fps is None and "each clip's own frames: at the model's" in line)


@pytest.mark.parametrize("path", OF_FAMILIES, ids=named)
def test_examples_are_explained_in_place(path: Path) -> None:
    """Each section has a comment in it or directly above it, and so has each key of the data on its own line."""
    comments: list[str] = []
    section, explained = "", {}
    for line in path.read_text().splitlines():
        if line.startswith("#"):
            comments.append(line)
        elif not line.startswith(" "):
            section = line.partition(":")[0]
            explained[section] = bool(comments) or " # " in line
            comments = []
        else:
            explained[section] |= "# " in line
            assert section != "data" or "# " in line, f"{path}: {line}"
    assert [name for name, is_explained in explained.items() if not is_explained] == ["output_dir"]


@pytest.mark.parametrize("path", OF_FAMILIES, ids=named)
def test_examples_ask_nothing_impossible_of_their_model(path: Path, tiny: Callable[[str, str], Path]) -> None:
    """Sizes, task, given frames and each prompt pass all checks that a run makes before it loads weights."""
    config = stand_in(load_config(path), family_of(path), tiny)
    model = open_model(config.model)
    assert model.adapter.name == family_of(path)
    unlimited = (math.inf, math.inf, math.inf)  # a tiny model has fewer positions than the one that it stands for
    model.adapter.grid = replace(model.adapter.grid, largest=unlimited)
    check_buckets(config, model)
    check_computation(config, model)
    check_conditioning(config, model)
    build_objective(config, model)
    assert config.validation.prompts is not None
    bucket, prefix = config.data[0].buckets[0], config.data[0].caption_prefix
    shows = {"takes_control": path in CONTROL, "takes_references": path in EDIT}
    requests = read_prompts(config.validation.prompts, model, size=bucket, **shows)
    assert any(request.control is not None for request in requests) == (path in CONTROL)
    assert any(request.references for request in requests) == (path in EDIT)
    for request in requests:
        assert request.size == bucket
        assert request.prompt.startswith(f"{prefix} " if prefix else "")


def test_there_is_an_example_of_every_family() -> None:
    of_package = {name for name, adapter in adapters().items() if adapter.__module__.startswith("finetrainers.")}
    assert {path.parts[-3] for path in SFT} == of_package


# -- control: short runs, from rendered data in the layout that the README tells to make ---------------------------------


def shortened(path: Path, model: Path, root: Path) -> dict[str, Any]:
    """The configuration of an example with a tiny model, small data, few steps, and its own prompts at a small size."""
    tree = yaml.safe_load(path.read_text())
    shutil.copytree(path.parent, root / "example")
    prompts, frames = root / "example" / "validation.json", tree["data"][0]["buckets"][0][0]
    small = {"height": 64, "width": 64, "num_inference_steps": 1} | ({"num_frames": 9} if frames > 1 else {})
    prompts.write_text(json.dumps([{**prompt, **small} for prompt in json.loads(prompts.read_text())]))
    changes = {
        "output_dir": str(root / "run"),
        "model": {"path": str(model), "dtype": "float32"},
        "tuning": {"rank": 2, "alpha": 2},
        "optimizer": {"lr": 0.02},
        "schedule": {"warmup_steps": 0},
        "train": {"steps": 2, "batch_size": 2, "micro_batch_size": 2, "device": "cpu"},
        "validation": {"prompts": str(prompts), "held_out": 0.3, "max_items": 1},
        "loader": {"workers": 0},
        "cache": {"path": str(root / "cache"), "workers": 1},
    }
    if family_of(path) == "flux":
        changes["model"]["max_sequence_length"] = 16  # type: ignore[index]
    if path in EDIT:
        changes["conditioning"] = {"pixels": 2048, "step": 16}
    places = write_data(path, root, SMALL)
    data = {**tree["data"][0], **places, "buckets": [[9 if frames > 1 else 1, 64, 64]]}
    return {**merged(tree, changes), "data": [data]}


@pytest.mark.parametrize("path", [*CONTROL, *EDIT], ids=named)
def test_control_and_edit_examples_train_and_draw(path: Path, tiny: Callable[[str, str], Path], tmp_path: Path) -> None:
    config, key = load_config(path), "reference" if path in EDIT else "control"
    model = tiny(family_of(path), RELEASES[config.model.path.rpartition("/")[2]])
    tree = shortened(path, model, tmp_path)
    result = finetrainers.train(config_of(tree))
    assert result.report["held_out_losses"][-1][0] == 2
    assert len(result.report["bad_samples"]) == (named(path) == "control-cogview4-omni_edit")
    prompts = json.loads(Path(tree["validation"]["prompts"]).read_text())
    drawn = sorted(file for file in (tmp_path / "run/validation/step-000002").iterdir() if file.suffix != ".json")
    assert len(drawn) == len(prompts)
    files = [
        finetrainers.sample_run(tmp_path / "run", [{**prompt, **control}], device="cpu")[0]
        for prompt in prompts[:1]
        for control in ({key: str(tmp_path / "example" / prompt[key])}, {key: None})
    ]
    assert files[0].read_bytes() != files[1].read_bytes()


def run_pytest(folder: Path) -> int:
    """Test what is in a folder, as it is done there."""
    os.chdir(folder)
    return int(pytest.main(["-q", "-p", "no:cacheprovider", "--rootdir", str(folder), "."]))


def test_the_custom_model_passes_its_checks_outside_of_the_package(tmp_path: Path) -> None:
    """In another process and another folder, with public names alone."""
    code = "\n".join(file.read_text() for file in CUSTOM.glob("*.py"))
    imported = set(re.findall(r"^\s*(?:from|import) (finetrainers[.\w]*)", code, re.MULTILINE))
    assert imported == {"finetrainers", "finetrainers.testing"}
    shutil.copytree(CUSTOM, tmp_path / "mine")
    (done,) = ranks.start(run_pytest, 1, tmp_path / "mine", folder=tmp_path / "ranks").wait(600)
    assert done.result == 0, done.said[-3000:]
    skipped = len(REFERENCE_CHECKS) + 2  # it takes none, masks no padding of prompts, and says of no prompt what it is like
    assert f"{len(CHECKS) - skipped} passed, {skipped} skipped" in done.said


def test_the_adapter_in_the_documentation_is_that_of_the_example() -> None:
    page = (ROOT / "docs/add_a_model.md").read_text()
    assert f"```python\n{(CUSTOM / 'sd3.py').read_text()}```\n" in page
