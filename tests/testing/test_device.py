"""``pytest --device``: where the runs of tests train, and what is said where there is no such device."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from runs import flux_tree

from finetrainers.testing.device import VARIABLE
from finetrainers.testing.model_under_test import ModelUnderTest

ROOT = Path(__file__).parents[2]
THIS = "tests/testing/test_device.py"


def collect(*words: str) -> subprocess.CompletedProcess[str]:
    """Let a pytest of its own see no GPU."""
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", *words, THIS]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300)


def test_without_cuda_a_test_on_it_is_an_error_and_says_so() -> None:
    """Not a success of which everything was skipped."""
    done = collect("--device", "cuda", "-m", "gpu or not slow")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--device cuda: torch finds no CUDA device here" in done.stderr
    assert "passed" not in done.stdout


def test_runs_are_on_the_device_that_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("cpu", "cuda:1"):
        monkeypatch.setenv(VARIABLE, name)
        assert flux_tree(tmp_path, tmp_path, tmp_path)["train"]["device"] == name
        assert ModelUnderTest({"path": "m"}, (1, 64, 64), tmp_path).device == name


def test_the_makefile_tests_on_a_gpu_what_needs_one_and_what_is_quick() -> None:
    command = subprocess.run(["make", "-n", "test-gpu"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert '--device cuda -m "(gpu or not slow) and not distributed and not browser"' in command


@pytest.mark.gpu
def test_a_gpu_repeats_its_bits(request: pytest.FixtureRequest) -> None:
    """Where tests run on one: they compare runs to the bit."""
    if not request.config.getoption("--device").startswith("cuda"):
        pytest.skip("the tests do not run on it")
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"]
