"""The quick start with three seeds: what the pictures show before and after, with the spread, and what the fine-tune costs.

    python benchmarks/quickstart.py [--video] [--output figures.json] [--quick]

Each run is a process of its own, as a user would start it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SEEDS = (0, 1, 2)
MEASURED = (("captions", "before"), ("captions", "after"), ("captions", "real"), ("shuffled", "after"))


QUICK = """
import sys
from dataclasses import replace
from pathlib import Path
from finetrainers.cli.imports import quiet_libraries
from finetrainers.cli.entry import main
from finetrainers.quickstart.run import quickstart
if "--video" in sys.argv:
    from finetrainers.quickstart.video.showcase import VIDEO as options
else:
    from finetrainers.quickstart.image import IMAGE as options
quiet_libraries()
sizes = {"steps": 1, "num_train": 4, "num_rehearsal": 4, "num_held_out": 1, "num_prompts": 2}
showcase = replace(options.showcase, steps=1)
options = replace(options, showcase=showcase, output=Path(sys.argv[1]), seed=int(sys.argv[2]), **sizes)
raise SystemExit(quickstart(options, command=main, say=print))
"""
"""The same in small, as a user cannot start it."""


def run(seed: int, folder: Path, kind: list[str], *, is_quick: bool) -> dict[str, Any]:
    """Run one quick start; return its report."""
    output = folder / f"seed-{seed}"
    words = ["-m", "finetrainers", "quickstart", "--output", str(output), "--seed", str(seed)]
    if is_quick:
        words = ["-c", QUICK, str(output), str(seed)]
    done = subprocess.run([sys.executable, *words, *kind], check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"the quick start of seed {seed} failed:\n{done.stderr}")
    report: dict[str, Any] = json.loads((output / "report.json").read_text(encoding="utf-8"))
    return report


def spread(values: list[float], digits: int = 1) -> str:
    """Write the mean with the smallest and the largest value."""
    return f"{sum(values) / len(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def table(reports: list[dict[str, Any]]) -> list[str]:
    """Write the figures of docs/quickstart_measures.md."""
    lines = [
        "| % that show all of their caption | base | LoRA | real ones | captions shuffled |",
        "|---|---|---|---|---|",
    ]
    for name, tree in reports[0]["sets"].items():
        cells = [spread([r["sets"][name][kind][column]["right"] for r in reports]) for kind, column in MEASURED]
        lines.append(f"| {tree['what']} | {' | '.join(cells)} |")
    losses = {when: [r["held_out_loss"][when] for r in reports] for when in ("before", "after")}
    lines += [f"held-out loss {when}: {spread(values, 4)}" for when, values in losses.items()]
    for stage in reports[0]["seconds"]:
        wall, cpu = ([r[key][stage] for r in reports] for key in ("seconds", "cpu_seconds"))
        lines.append(f"{stage}: {spread(wall)} s, {spread(cpu)} CPU-seconds")
    return lines


def main() -> None:
    """Print mean and spread; write all reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON file for the three reports")
    parser.add_argument("--video", action="store_true", help="clips instead of pictures")
    parser.add_argument("--quick", action="store_true", help="one seed in small: shows that it runs, no figures to quote")
    options = parser.parse_args()
    seeds, kind = SEEDS[:1] if options.quick else SEEDS, ["--video"] if options.video else []
    with tempfile.TemporaryDirectory() as folder:
        reports = [run(seed, Path(folder), kind, is_quick=options.quick) for seed in seeds]
    print("\n".join(table(reports)))
    if options.output is not None:
        options.output.write_text(json.dumps(reports, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
