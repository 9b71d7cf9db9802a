"""``make bench``: every benchmark has its turn, also after one that failed."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = sorted(file.name for file in (ROOT / "benchmarks").glob("*.py"))


def bench(folder: Path, *, failing: str) -> subprocess.CompletedProcess[str]:
    """Run the target with a stand-in for Python, which fails on one file."""
    (folder / "python").write_text(f'#!/bin/sh\necho "ran $*"\ncase "$1" in *{failing}) exit 1;; esac\n')
    (folder / "python").chmod(0o755)
    (folder / "installed").touch()
    words = [f"BIN={folder}", f"TEST_STAMP={folder / 'installed'}", "BENCH_ARGUMENTS=--quick"]
    return subprocess.run(["make", "bench", *words], cwd=ROOT, check=False, capture_output=True, text=True)


@pytest.mark.parametrize("failing", ["nothing", "planning.py"])
def test_all_benchmarks_run_and_those_that_fail_are_named(tmp_path: Path, failing: str) -> None:
    done = bench(tmp_path, failing=failing)
    ran = [line for line in done.stdout.splitlines() if line.startswith("ran ")]
    assert ran == [f"ran benchmarks/{name} --quick" for name in BENCHMARKS]
    named = "these benchmarks failed: benchmarks/planning.py" in done.stderr
    assert (done.returncode != 0, named) == (failing in BENCHMARKS,) * 2


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_benchmark_can_be_quick(name: str) -> None:
    assert '"--quick"' in (ROOT / "benchmarks" / name).read_text()
