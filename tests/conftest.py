"""What all tests share: no network, few threads, and tiny pipelines made once per session."""

import gc
import os

# Before any import that reads them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable, Generator, Iterator
from functools import cache
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    import torch

    torch.set_num_threads(1)  # the workers share the cores already


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Let garbage collections pass over what is imported: half a million objects, and each run makes a few collections."""
    gc.disable()  # imports make no garbage, and looking for it takes a third of their time
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, a minute or two for one fixture: at the end, the other core would wait for it."""
    items.sort(key=lambda item: item.path.name != "test_floor.py")


@pytest.fixture(scope="session", autouse=True)
def unsynced() -> Iterator[None]:
    """Let nobody wait for the disk: what tests write need not outlive a power failure."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


def made(family: str, directory: Path, variant: str | None = None) -> Path:
    """Make a tiny pipeline; later garbage collections, of which each run has some, pass over what it has imported."""
    from finetrainers.testing import make_tiny

    make_tiny(family, directory, variant=variant)
    gc.collect()
    gc.freeze()
    return directory


@pytest.fixture(scope="session")
def tiny_flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FLUX.1 [dev] in small. Shared by all tests: read it, never write into it."""
    return made("flux", tmp_path_factory.mktemp("tiny") / "flux")


@pytest.fixture(scope="session")
def tiny_ltx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LTX-Video in small. Shared by all tests: read it, never write into it."""
    return made("ltx_video", tmp_path_factory.mktemp("tiny") / "ltx_video")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Any tiny pipeline by family and variant, each made once. Shared by all tests: read it, never write into it."""
    root = tmp_path_factory.mktemp("tinies")

    @cache
    def make(family: str, variant: str) -> Path:
        return made(family, root / f"{family} {variant}", variant)

    return make
