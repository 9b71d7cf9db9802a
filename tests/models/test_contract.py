"""The contract suite, over all families, variants and tasks."""

from collections.abc import Callable
from pathlib import Path

import pytest
from cases import all_cases

from finetrainers.testing.contract import CHECKS, Subject

CASES = {name: case for name, case in all_cases().items() if not case.label}
IMAGES = {f"{name}, images": case for name, case in CASES.items() if case.task == "text-to-video"}
"""Video models that train on images, too: one frame at the same height and width."""


@pytest.fixture(scope="module")
def subjects(tiny: Callable[[str, str], Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Subject]:
    """Each case once: its samples are encoded for the first check and stay."""
    made: dict[str, Subject] = {}
    for name, case in (CASES | IMAGES).items():
        size = case.size if name in CASES else (1, *case.size[1:])
        section = case.section(tiny(case.family, case.variant))
        made[name] = Subject(section, size, tmp_path_factory.mktemp("contract"))
    return made


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", CASES)
def test_contract(name: str, check: str, subjects: dict[str, Subject]) -> None:
    CHECKS[check](subjects[name])


@pytest.mark.parametrize(
    "check", ["latents_have_the_shape_of_the_grid", "everything_told_matters", "a_batch_is_its_samples"]
)
@pytest.mark.parametrize("name", IMAGES)
def test_contract_with_images(name: str, check: str, subjects: dict[str, Subject]) -> None:
    CHECKS[check](subjects[name])
