"""Write the configs of the models that ``examples/bench`` times, without weights, from their published values: no network.

python scripts/make_model_configs.py bench-models
"""

import sys
from pathlib import Path

from finetrainers.testing.real_sizes import PUBLISHED, write_published


def folder_of(name: str) -> str:
    """Name the folder of a model: "Wan 2.1 14B" is in wan-2.1-14b."""
    return name.lower().replace(" ", "-")


def main(words: list[str]) -> int:
    """Write one folder for each model, and print them."""
    if len(words) != 1 or words[0].startswith("-"):
        print(__doc__)
        return 2
    for name in PUBLISHED:
        print(write_published(name, Path(words[0]) / folder_of(name)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
