"""A run that would train, for tests of what looks at one before it does."""

import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest
from planted import Work
from runs import Tree, config_of, flux_tree, write_pictures

from finetrainers.training.run import train


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures") / "data", 4)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, tiny_flux: Path, pictures: Path) -> Path:
    """A run of two steps. Shared: copy it."""
    root = tmp_path_factory.mktemp("finished")
    train(config_of(base(tiny_flux, pictures, root)))
    return root / "run"


def base(model: Path, data: Path, root: Path) -> Tree:
    return flux_tree(model, data, root, train={"steps": 2, "device": "cpu"}, checkpoint={"every": 2})


@pytest.fixture
def work(
    tiny_flux: Path, tiny_ltx: Path, pictures: Path, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Work:
    shutil.copytree(pictures, tmp_path / "data")

    def finished() -> Path:
        config = (finished_run / "config.yaml").read_text().replace(str(pictures), str(tmp_path / "data"))
        config = config.replace(str(finished_run.parent), str(tmp_path))
        shutil.copytree(finished_run, tmp_path / "run")
        (tmp_path / "run" / "config.yaml").write_text(config)
        return tmp_path / "run"

    tree = base(tiny_flux, tmp_path / "data", tmp_path)
    return Work(tmp_path, tree, tiny_flux, tiny_ltx, monkeypatch, ExitStack(), finished)
