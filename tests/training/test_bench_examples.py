"""The configurations that the page on benchmarks names: for the models that a script writes, and without network."""

import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest

from finetrainers.cli.bench import bench_parser
from finetrainers.config import load_config
from finetrainers.config.overrides import find_file
from finetrainers.models import open_model
from finetrainers.training.bench.compare import read_sets
from finetrainers.training.checks import check_buckets, check_computation

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "examples/bench").glob("*.yaml"))
PAGE = (ROOT / "docs/benchmarks.md").read_text()
COMMANDS = re.findall(r"finetrainers bench (examples/[^\n`]+)", PAGE)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_model_configs", ROOT / "scripts/make_model_configs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def models(script: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the script makes."""
    directory = tmp_path_factory.mktemp("bench-models")
    assert script.main([str(directory)]) == 0
    return directory


def test_there_is_one_for_each_model_that_the_script_makes(models: Path) -> None:
    assert [path.stem for path in CONFIGS] == sorted(path.name for path in models.iterdir())
    assert {path.name for path in models.rglob("*") if path.is_file()} == {
        "model_index.json", "config.json", "scheduler_config.json",
    }  # fmt: skip


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_it_asks_nothing_impossible_of_its_model(path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(path)
    assert (config.tuning.kind, config.train.gradient_checkpointing) == ("lora", True)
    (models.parent / "bench-models").unlink(missing_ok=True)
    (models.parent / "bench-models").symlink_to(models)
    monkeypatch.chdir(models.parent)
    model = open_model(config.model)
    check_buckets(config, model)
    check_computation(config, model)


def test_each_command_on_the_page_can_be_given() -> None:
    """Its file is there, its options and keys exist, and every file has a command."""
    named = set()
    for command in COMMANDS:
        options, rest = bench_parser().parse_known_args(shlex.split(command))
        file, overrides = find_file(rest)
        assert file is not None
        named.add(ROOT / file)
        load_config(ROOT / file, overrides)
        assert options.random_weights
        if options.compare is not None:
            assert read_sets(options.compare)
    assert named == {*CONFIGS}
