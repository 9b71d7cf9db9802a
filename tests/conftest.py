"""What all tests share: no network, few threads, a device, and tiny pipelines made once per session."""

import gc
import os
import sys

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


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the device of all runs."""
    parser.addoption("--device", default="cpu", help="device on which runs of tests train: cpu, cuda, cuda:1 ...")


def pytest_configure(config: pytest.Config) -> None:
    """Set the device, and what makes CUDA compute the same bits again; both hold for the processes that tests start, too."""
    device = config.getoption("--device")
    os.environ["FINETRAINERS_TEST_DEVICE"] = device
    if not device.startswith("cuda"):
        return
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # before the first product
    import torch

    if not torch.cuda.is_available():
        raise pytest.UsageError(f"--device {device}: torch finds no CUDA device here, and nothing would be tested on one")
    torch.use_deterministic_algorithms(True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, a minute or two for one fixture: at the end, the other core would wait for it.

    Tests that need more GPUs than there are are skipped. `make test-distributed` looks for its tests in two folders only.
    """
    items.sort(key=lambda item: item.path.name != "test_floor.py")
    for item in items:
        if item.get_closest_marker("distributed") and item.path.parent.name not in ("distributed", "training"):
            raise pytest.UsageError(f"{item.nodeid}: `make test-distributed` does not look there")
        wanted = num_gpus(item)
        if wanted:
            import torch

            if torch.cuda.device_count() < wanted:
                item.add_marker(pytest.mark.skip(reason=f"needs {wanted} CUDA device{'s' * (wanted > 1)}"))


def num_gpus(item: pytest.Item) -> int:
    """How many GPUs a test needs."""
    several = item.get_closest_marker("multi_gpu")
    if several is not None:
        return int(several.args[0])
    return int(item.get_closest_marker("gpu") is not None)


@pytest.fixture(scope="session", autouse=True)
def unsynced() -> Iterator[None]:
    """Let nobody wait for the disk: what tests write need not outlive a power failure."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.hookimpl(trylast=True)
def pytest_runtest_logfinish() -> None:
    """Let later collections pass over what a test has imported, too: each run has some ten of them."""
    if len(sys.modules) > num_modules[0]:
        gc.collect()
        gc.freeze()
        num_modules[0] = len(sys.modules)


num_modules = [0]
"""How many were imported when the collector last learnt of them."""


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
