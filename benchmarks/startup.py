"""Time from the command to the first step, split into stages, for a run whose items are all encoded; and what is imported.

Each run is a process of its own; medians of several.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS = 5
FORBIDDEN = (
    "torchvision",
    "wandb",
    "trackio",
    "tensorboard",
    "datasets",
    "tensorflow",
    "skimage",
    "matplotlib",
)
"""Packages that this run does not use: none of them may be imported. (bitsandbytes is: peft does so if it is there.)"""

PROGRAM = """
import json, sys, time
start = time.perf_counter()
from finetrainers.cli import main
status = main(sys.argv[1:])
loaded = [name for name in {forbidden} if name in sys.modules]
print(json.dumps({{"status": status, "forbidden": loaded}}))
"""


def command(config: Path, output: Path) -> list[str]:
    """A run of one step."""
    program = PROGRAM.format(forbidden=list(FORBIDDEN))
    return [sys.executable, "-c", program, "train", str(config), f"output_dir={output}"]


def main() -> None:
    """Print medians by stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one run: shows that it runs, no figures to quote")
    options = parser.parse_args()
    num_runs = 1 if options.quick else RUNS
    import numpy as np
    from PIL import Image

    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        subprocess.run(
            [sys.executable, "-m", "finetrainers", "models", "tiny", "flux", str(root / "model")],
            check=True,
            capture_output=True,
        )
        (root / "data").mkdir()
        for number in range(4):
            Image.fromarray(np.full((64, 64, 3), 60 * number, np.uint8)).save(root / "data" / f"{number}.png")
            (root / "data" / f"{number}.txt").write_text(f"picture {number}")
        config = root / "config.json"
        tree = {
            "output_dir": "x",
            "model": {"path": str(root / "model"), "dtype": "float32", "max_sequence_length": 16},
            "data": [{"path": str(root / "data"), "buckets": [[1, 64, 64]]}],
            "train": {"steps": 1},
            "loader": {"workers": 0},
            "cache": {"path": str(root / "cache")},
        }
        config.write_text(json.dumps(tree))
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        if not options.quick:  # else the one run encodes, too
            subprocess.run(command(config, root / "warm"), check=True, capture_output=True, env=environment)
        rows: list[dict[str, float]] = []
        for number in range(num_runs):
            start = time.time()
            done = subprocess.run(
                command(config, root / str(number)), check=True, capture_output=True, text=True, env=environment
            )
            answer = json.loads(done.stdout.splitlines()[-1])
            assert answer["forbidden"] == [], f"imported without need: {answer['forbidden']}"
            events = [json.loads(line) for line in (root / str(number) / "events.jsonl").read_text().splitlines()]
            stages = {e["stage"]: e["seconds"] for e in events if e["event"] == "stage"}
            total = next(e["time"] for e in events if e["event"] == "step") - start
            rows.append({**stages, "start and imports": total - sum(stages.values()), "total": total})
        for stage in rows[0]:
            print(f"{stage}: {statistics.median(row[stage] for row in rows):.2f} s")


if __name__ == "__main__":
    main()
