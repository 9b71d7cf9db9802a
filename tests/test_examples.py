"""The examples can be run as they are: every configuration and every prompt of theirs, for every family."""

import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from finetrainers.build import build_objective
from finetrainers.checks import check_buckets, check_computation
from finetrainers.config import Config, load_config
from finetrainers.models import adapters, open_model
from finetrainers.prompts import read_prompts

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
CONFIGS = sorted(EXAMPLES.rglob("config.yaml"))
OF_FAMILIES = [path for path in CONFIGS if path.is_relative_to(EXAMPLES / "training/sft")]
CUSTOM = EXAMPLES / "custom_model"
RELEASES = {
    "CogVideoX-2b": "2b",
    "CogVideoX-5b": "5b",
    "CogVideoX1.5-5B-I2V": "1.5-5b-i2v",
    "CogView4-6B": "6b",
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
    return "-".join(path.parent.relative_to(EXAMPLES).parts[-2:])


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
        assert all(name in text for name in (f"--local-dir {str(data.path).removesuffix('/train')}" for data in config.data))


@pytest.mark.parametrize("path", OF_FAMILIES, ids=named)
def test_examples_ask_nothing_impossible_of_their_model(path: Path, tiny: Callable[[str, str], Path]) -> None:
    """Sizes, task, given frames and each prompt pass all checks that a run makes before it loads weights."""
    config = stand_in(load_config(path), path.parts[-3], tiny)
    model = open_model(config.model)
    assert model.adapter.name == path.parts[-3]
    unlimited = (math.inf, math.inf, math.inf)  # a tiny model has fewer positions than the one that it stands for
    model.adapter.grid = replace(model.adapter.grid, largest=unlimited)
    check_buckets(config, model)
    check_computation(config, model)
    build_objective(config, model)
    assert config.validation.prompts is not None
    bucket = config.data[0].buckets[0]
    for request in read_prompts(config.validation.prompts, model, size=bucket):
        assert request.size == bucket
        assert request.prompt.startswith(config.data[0].caption_prefix + " ")


def test_there_is_an_example_of_every_family() -> None:
    of_package = {name for name, adapter in adapters().items() if adapter.__module__.startswith("finetrainers.")}
    assert {path.parts[-3] for path in OF_FAMILIES} == of_package


def test_the_custom_model_passes_its_checks_outside_of_the_package(tmp_path: Path) -> None:
    """In another process and another folder, with public names alone."""
    code = "\n".join(file.read_text() for file in CUSTOM.glob("*.py"))
    imported = set(re.findall(r"^\s*(?:from|import) (finetrainers[.\w]*)", code, re.MULTILINE))
    assert imported == {"finetrainers", "finetrainers.testing"}
    shutil.copytree(CUSTOM, tmp_path / "mine")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path / "mine"), "."]
    done = subprocess.run(command, check=False, cwd=tmp_path / "mine", capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "11 passed" in done.stdout


def test_the_adapter_in_the_documentation_is_that_of_the_example() -> None:
    page = (ROOT / "docs/add_a_model.md").read_text()
    assert f"```python\n{(CUSTOM / 'sd3.py').read_text()}```\n" in page
