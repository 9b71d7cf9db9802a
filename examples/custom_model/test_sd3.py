"""The adapter does what every family has to, and answers what the pipeline computes."""

from pathlib import Path

import pytest
from tiny_sd3 import make_tiny_sd3

from finetrainers.testing import CHECKS, ModelUnderTest

ADAPTER = f"{Path(__file__).with_name('sd3.py')}:StableDiffusion3"


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    """A tiny model with two pictures; both are encoded once, for all checks."""
    model = make_tiny_sd3(tmp_path_factory.mktemp("model"))
    section = {"path": str(model), "adapter": ADAPTER, "max_sequence_length": 16}
    return ModelUnderTest(section, size=(1, 64, 96), folder=tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize("check", CHECKS)
def test_contract(check, subject):
    CHECKS[check](subject)
