"""Layouts of several processes take the steps of one: losses, gradient norms, weights, averages and 8-bit states."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from layouts import ALONE, LAYOUTS, Figures, differences, run_layout
from runs import merged
from table_cases import SUBSET, Tree, bound_of, make_trees

FEW_STEPS = 3
OTHERS = [layout for layout in LAYOUTS if layout != ALONE]


@pytest.fixture(scope="module")
def trees(tiny: Callable[[str, str], Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tree]:
    return make_trees(tiny, tmp_path_factory.mktemp("table"))


@pytest.fixture(scope="module")
def alone(trees: dict[str, Tree], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Figures | str]:
    """All rows in one process, which encodes what the others read."""
    return run_layout(ALONE, trees, tmp_path_factory.mktemp("alone") / "ranks")


def test_layouts_take_the_steps_of_one_process(tiny: Callable[[str, str], Path], tmp_path: Path) -> None:
    """The rows that there is time for."""
    (tmp_path / "runs").mkdir()
    few = make_trees(tiny, tmp_path / "runs", SUBSET)
    assert few.keys() == set(SUBSET)
    few = {name: merged(tree, {"train": {"steps": FEW_STEPS}}) for name, tree in few.items()}
    expected = run_layout(ALONE, few, tmp_path / ALONE)
    for layout in OTHERS:
        assert_close(layout, run_layout(layout, few, tmp_path / layout), expected)


@pytest.mark.distributed
@pytest.mark.parametrize("layout", OTHERS)
def test_every_family_takes_the_steps_of_one_process(
    layout: str, trees: dict[str, Tree], alone: Mapping[str, Figures | str], tmp_path: Path
) -> None:
    assert_close(layout, run_layout(layout, trees, tmp_path / "ranks"), alone)


def assert_close(layout: str, found: Mapping[str, Figures | str], expected: Mapping[str, Figures | str]) -> None:
    """Losses and gradient norms of each step."""
    wrong = []
    assert found, layout
    for name, own in found.items():
        one = expected[name]
        assert isinstance(one, Figures), f"{name}: {one}"
        if isinstance(own, str):
            wrong.append(f"{layout}, {name}: refused: {own}")
            continue
        for what, difference in differences(own, one).items():
            if difference > bound_of(name, LAYOUTS[layout]):
                wrong.append(f"{layout}, {name}: {what} differs by {difference:.1e}")
    assert not wrong, "\n".join(wrong)
