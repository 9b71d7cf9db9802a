"""The page on many devices names each test that needs several GPUs."""

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
PAGE = TESTS.parent / "docs/parallel.md"
MARK = "multi_gpu"


def of_several_gpus(file: Path) -> Iterator[str]:
    """Names of a file's tests that are marked, by themselves or all together."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    assigned = [node for node in tree.body if isinstance(node, ast.Assign)]
    are_all = any("pytestmark" in ast.unparse(node) and MARK in ast.unparse(node) for node in assigned)
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef) or not node.name.startswith("test_"):
            continue
        if are_all or any(MARK in ast.unparse(mark) for mark in node.decorator_list):
            yield node.name


def test_each_test_of_several_gpus_is_on_the_page() -> None:
    found = [name for file in (TESTS / "distributed").glob("test_*.py") for name in of_several_gpus(file)]
    assert len(found) > 3
    page = PAGE.read_text(encoding="utf-8")
    assert not [name for name in found if f"{name}`" not in page]
