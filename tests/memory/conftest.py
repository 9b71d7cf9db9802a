"""Subjects that are encoded once."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from blocks import FAMILIES

from finetrainers.testing.model_under_test import ModelUnderTest


@pytest.fixture(scope="session")
def subject_of(
    tiny: Callable[[str, str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], ModelUnderTest]:
    """A family's subject, whose batch is there."""

    @cache
    def make(family: str) -> ModelUnderTest:
        variant, size = FAMILIES[family]
        subject = ModelUnderTest({"path": str(tiny(family, variant))}, size, tmp_path_factory.mktemp(family))
        assert len(subject.batch.positions) == 2
        return subject

    return make
