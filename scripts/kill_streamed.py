"""Kill a run on shards at random moments, again and again, and compare it with the run that nobody killed.

    python scripts/kill_streamed.py --kills 20 --seed 0

Twenty kills take about two minutes on two cores. Each time that the run ends before the last kill it is compared, and begun
anew with the cache that is there.
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path += [str(Path(__file__).parent.parent / "tests"), str(Path(__file__).parent.parent / "tests/training")]

from runs import config_of, curve
from test_kill import Child, context
from test_streamed_kill import LOSSES, tree_of, with_small_cache

from finetrainers.testing import make_tiny

LAST_SECONDS = 600.0


def main() -> int:
    """Kill as often as is asked; exit status 1 if a curve differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return _kill(Path(folder), kills=asked.kills, chance=random.Random(asked.seed))


def _kill(root: Path, *, kills: int, chance: random.Random) -> int:
    whole = tree_of(make_tiny("flux", root / "model"), root)
    first = context(config_of(whole)).Process(target=int)  # before which all has to be imported
    first.start()
    first.join()
    began = time.monotonic()
    assert Child(config_of(whole)).wait(LAST_SECONDS) == 0, (root / "run.log").read_text()[-2000:]
    duration, killed, num_runs = time.monotonic() - began, 0, 0
    print(f"the run that nobody kills took {duration:.1f} s", flush=True)
    (root / "killed").mkdir()
    config = with_small_cache(whole, root / "killed")
    while True:
        child = Child(config)
        status = child.wait(chance.uniform(0.05, 0.8 * duration) if killed < kills else LAST_SECONDS)
        if status is None and killed < kills:
            child.kill()
            killed += 1
            print(f"kill {killed} of {kills}, {time.monotonic() - began:.0f} s since the start", flush=True)
            continue
        assert status == 0, config.output_dir.with_suffix(".log").read_text()[-2000:]
        num_runs += 1
        if curve(config.output_dir, *LOSSES) != curve(whole["output_dir"], *LOSSES):
            print(f"run {num_runs} differs from the one that nobody killed, after {killed} kills")
            return 1
        if killed >= kills:
            print(f"{num_runs} runs, {killed} kills: all as the one that nobody killed")
            return 0
        config.output_dir.rename(config.output_dir.with_name(f"finished-{num_runs}"))


if __name__ == "__main__":
    sys.exit(main())
