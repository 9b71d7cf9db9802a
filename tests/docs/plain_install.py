"""Runs snippets in a process that finds no package but those that ``pip install finetrainers`` brings.

The one argument is a JSON file: modules that are not to be found, and snippets, each with its page, its folder, its code and
the files that it writes. What came of them is written beside it, by name: an empty text, or the traceback.
"""

import json
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any


class PlainFinder(PathFinder):
    """Finds modules as ever, but for some, which are as if they were not installed."""

    missing: frozenset[str] = frozenset()

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return None if fullname.partition(".")[0] in cls.missing else super().find_spec(fullname, path, target)


def run(jobs: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Run snippets in their order; those of a page see what the ones above them have left."""
    pages: dict[str, dict[str, Any]] = {}
    outcomes = {}
    for job in jobs:
        os.chdir(job["folder"])
        names = pages.setdefault(job["page"], {"__name__": "snippet"})  # not the program, which would train
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", FutureWarning)  # of what a library will no longer take
                exec(compile(job["code"], job["name"], "exec"), names)
            missing = [name for name in job["writes"] if not Path(job["folder"], name).is_file()]
            assert not missing, f"it writes no {missing}"
            outcomes[job["name"]] = ""
        except Exception:  # noqa: BLE001 - whatever it is, it is told
            outcomes[job["name"]] = traceback.format_exc()
    return outcomes


if __name__ == "__main__":
    work = Path(sys.argv[1])
    told = json.loads(work.read_text())
    PlainFinder.missing = frozenset(told["missing"])
    sys.meta_path[:] = [PlainFinder if finder is PathFinder else finder for finder in sys.meta_path]
    work.with_name("outcomes.json").write_text(json.dumps(run(told["jobs"])))
