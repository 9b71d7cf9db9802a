"""The mutations fit today's source: ``make mutations`` runs them, which takes long."""

import ast
from functools import cache
from pathlib import Path

import pytest
from mutations import MUTATIONS, ROOT, Mutation


@cache
def names_in(file: Path) -> frozenset[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"))


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.promise)
def test_a_mutation_applies_and_its_test_exists(mutation: Mutation) -> None:
    file, name = mutation.test.split("::")
    assert mutation.place(ROOT).read_text(encoding="utf-8").count(mutation.old) == 1, f"{mutation.file}: {mutation.old}"
    assert mutation.new != mutation.old
    assert name.partition("[")[0] in names_in(ROOT / "tests" / file)


def test_each_promise_is_named_once() -> None:
    assert len({mutation.promise for mutation in MUTATIONS}) == len(MUTATIONS)
