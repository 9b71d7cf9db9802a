"""The configurations that the page on benchmarks names: for the models that a script writes, and without network."""

import json
import re
import shlex
import shutil
from pathlib import Path
from types import ModuleType

import pytest
from loading import load_script

from finetrainers.cli.bench import bench_parser
from finetrainers.config import load_config
from finetrainers.config.overrides import find_file
from finetrainers.data.catalog.buckets import resolve_buckets
from finetrainers.models import open_model
from finetrainers.training.bench.compare import BUILT_IN, read_sets
from finetrainers.training.bench.operations import step_tflop
from finetrainers.training.checks.parts import check_buckets, check_computation, check_tuning

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "examples/bench").glob("*.yaml"))
PAGE = (ROOT / "docs/benchmarks.md").read_text()
COMMANDS = re.findall(r"finetrainers bench (examples/[^\n`]+)", PAGE)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("make_model_configs")


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


@pytest.fixture(scope="module")
def shallow(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with one block of a kind, in the folder that the configurations name: all else has its published size."""
    root = tmp_path_factory.mktemp("shallow")
    shutil.copytree(models, root / "bench-models")
    for file in root.glob("bench-models/*/transformer/config.json"):
        settings = json.loads(file.read_text())
        depths = [key for key in ("num_layers", "num_single_layers", "num_refiner_layers") if key in settings]
        file.write_text(json.dumps({**settings, **dict.fromkeys(depths, 1)}))
    return root


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_step_of_it_is_planned_at_its_size(path: Path, shallow: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What trains is found, and the operations are counted: more of them at full rank than with a LoRA."""
    monkeypatch.chdir(shallow)
    counted = []
    for overrides in ([], ["tuning={kind: full}"]):
        config = load_config(path, overrides)
        model = open_model(config.model, config.memory)
        check_tuning(config, model)
        (size,) = resolve_buckets(config.data[0].buckets)
        counted.append(step_tflop(config, model, size))
    assert 0 < counted[0] < counted[1]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_built_in_sets_can_be_compared_with_it(path: Path) -> None:
    for overrides in BUILT_IN.values():
        load_config(path, overrides)


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
