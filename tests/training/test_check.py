"""A check finds what train would refuse before it loads weights, all at once, tells what the run would be, and writes nothing."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from planted import PLANTED, Planted, Work, planted
from runs import config_of, events_of, write_pictures

from finetrainers.errors import FinetrainersError
from finetrainers.training.check.page import WIDTH, as_report, as_text
from finetrainers.training.check.run import Checked, Checking, check
from finetrainers.training.run import train

CHECKED = [error for error in PLANTED if not error.twin]


def checked(work: Work, *overrides: str) -> Checked:
    file = work.root / "config.yaml"
    file.write_text(yaml.safe_dump(work.tree))
    return check(file, overrides, Checking(work.processes, work.free))


def contents(root: Path) -> dict[str, Any]:
    found = {str(file.relative_to(root)): file.stat() for file in sorted(root.rglob("*"))}
    return {name: (state.st_size, state.st_mtime_ns) for name, state in found.items()}


@pytest.mark.parametrize("error", CHECKED, ids=lambda error: error.name)
def test_a_planted_error_is_found(error: Planted, work: Work) -> None:
    with planted(error, work):
        found = checked(work).findings.errors
    assert len(found) == 1, found
    assert re.search(error.message, found[0], re.DOTALL), found
